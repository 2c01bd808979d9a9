import type { BrokerConfig } from '../config/broker-config.ts'
import type { CutOffs } from '../core/cut-offs.ts'
import type { SignIn } from '../core/ports/authenticator.ts'
import type { Clock } from '../core/ports/clock.ts'
import type { HttpClient } from '../core/ports/http-client.ts'
import type { Sealer } from '../core/ports/sealer.ts'
import type { SubjectTokens } from '../core/ports/subject-tokens.ts'
import { createAuthenticator } from '../identity/authenticator.ts'
import { createProtectedResources } from '../identity/challenge.ts'
import { createOidcClient } from '../identity/oidc-client.ts'
import { createSignIn } from '../identity/sign-in.ts'
import { createSignInTokens } from '../identity/sign-in-tokens.ts'
import { createSubjectTokens } from '../identity/subject-tokens.ts'
import type { BrokerLog } from '../log.ts'
import type { Database } from '../storage/database.ts'
import { createSessionRecords } from '../storage/session-records.ts'

/** Who is calling, in a browser and at the API. Without `identity.login` there is no sign-in, and nothing of it is stored. */
export function createIdentity(ports: {
  readonly config: BrokerConfig
  readonly database: Database
  readonly http: HttpClient
  readonly sealer: Sealer
  readonly cutOffs: CutOffs
  readonly clock: Clock
  readonly log: BrokerLog
}) {
  const { config, database, log } = ports
  const { publicUrl, upstreams } = config
  const { issuers, admins, services, shareOpaqueTokens, login } = config.identity
  const authenticator = createAuthenticator({
    issuers,
    admins,
    services,
    shareOpaqueTokens,
    publicUrl,
    upstreams,
    http: ports.http,
    cutOffs: ports.cutOffs,
    clock: ports.clock,
    log,
  })
  const protectedResources = createProtectedResources({ publicUrl, issuers, upstreams })
  const issuer = issuers.find((candidate) => candidate.issuer === login?.issuer)
  if (login === undefined || issuer === undefined) {
    return { authenticator, protectedResources, signIn: undefined, subjectTokens: noSubjectTokens }
  }
  const records = createSessionRecords(database)
  const client = createOidcClient({ ...ports, login, issuer, publicUrl })
  const tokens = createSignInTokens({ records, sealer: ports.sealer, log })
  const parts = { login, issuer, admins, client, tokens }
  const signIn: SignIn = createSignIn({ ...parts, records, sealer: ports.sealer })
  const subjectTokens = createSubjectTokens({ ...parts, clock: ports.clock })
  return { authenticator, protectedResources, signIn, subjectTokens }
}

/** Without sign-in nothing of it is stored. */
const noSubjectTokens: SubjectTokens = { find: () => Promise.resolve(undefined) }
