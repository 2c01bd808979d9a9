import { isBrokerError } from '../../src/core/errors.ts'
import type { Issuer, Login } from '../../src/core/issuer.ts'
import type { SignIn } from '../../src/core/ports/authenticator.ts'
import type { Clock } from '../../src/core/ports/clock.ts'
import type { SessionRecords } from '../../src/core/ports/session-records.ts'
import { Secret } from '../../src/core/secret.ts'
import type { IdentityLog } from '../../src/identity/identity-log.ts'
import { createOidcClient } from '../../src/identity/oidc-client.ts'
import { createSignIn } from '../../src/identity/sign-in.ts'
import { createSignInTokens } from '../../src/identity/sign-in-tokens.ts'
import { createSubjectTokens } from '../../src/identity/subject-tokens.ts'
import { createHttpClient } from '../../src/outbound/http-client.ts'
import { createEnvelope } from '../../src/sealing/envelope.ts'
import { createKeyring } from '../../src/sealing/keyring.ts'
import type { Database } from '../../src/storage/database.ts'
import { createSessionRecords } from '../../src/storage/session-records.ts'
import type { TestIdentityProvider } from './authorization-server.ts'
import { authorizeAs, createBrowser } from './browser.ts'
import { issuerConfig, publicUrl } from './issuer-server.ts'

const keyring = createKeyring([
  { id: 'k1', secret: new Secret(Buffer.from('CNRY-KEK-'.padEnd(32, 'k')).toString('base64')) },
])

/** The part of one replica that signs people in; what it shares with another is the database. */
export type SignInReplica = {
  readonly signIn: SignIn
  readonly subjectTokens: ReturnType<typeof createSubjectTokens>
  readonly warnings: string[]
}

export function createReplica(options: {
  readonly provider: Pick<TestIdentityProvider, 'issuer' | 'clientId' | 'clientSecret'>
  readonly database: Database
  readonly clock?: Clock
  readonly login?: Partial<Login>
  readonly issuer?: Partial<Issuer>
  /** Stands between the replica and the database. */
  readonly before?: (records: SessionRecords) => SessionRecords
}): SignInReplica {
  const { provider, database, clock = { now: () => new Date() } } = options
  const warnings: string[] = []
  const log: IdentityLog = {
    warn: (entry) => {
      if ('failure' in entry) warnings.push(`${entry.event} ${entry.failure}`)
    },
  }
  const login: Login = {
    issuer: provider.issuer,
    clientId: provider.clientId,
    clientAuthentication: {
      method: 'client_secret_basic',
      secret: new Secret(provider.clientSecret),
    },
    scopes: ['openid', 'email'],
    storeSubjectToken: true,
    sessionSeconds: 3600,
    allowPrivateNetwork: false,
    ...options.login,
  }
  const issuer = issuerConfig(provider.issuer, options.issuer)
  const admins = { issuer: provider.issuer, roles: ['onbehalf-admin'], users: [] }
  const sealer = createEnvelope(keyring)
  const stored = createSessionRecords(database)
  const records = options.before === undefined ? stored : options.before(stored)
  const client = createOidcClient({
    login,
    issuer,
    publicUrl,
    http: createHttpClient(),
    clock,
    log,
  })
  const tokens = createSignInTokens({ records, sealer, log })
  const parts = { login, issuer, admins, client, tokens }
  return {
    signIn: createSignIn({ ...parts, records, sealer }),
    subjectTokens: createSubjectTokens({ ...parts, clock }),
    warnings,
  }
}

export const browserCookie = 'CNRY-browser-cookie-of-the-person'

/** Goes to the identity provider as a person; gives what comes back to `/login/callback`. */
export async function answerOf(
  { signIn }: SignInReplica,
  person: string,
  options: { readonly returnTo?: string; readonly claims?: Secret } = {},
): Promise<URLSearchParams> {
  const { returnTo = '/connections', claims } = options
  const url = await signIn.start({
    returnTo,
    browser: browserCookie,
    ...(claims === undefined ? {} : { claims }),
  })
  const answer = await authorizeAs(createBrowser(), url, { choose: person })
  return answer.searchParams
}

export async function signInAs(replica: SignInReplica, person: string): Promise<string> {
  const params = await answerOf(replica, person)
  const { session } = await replica.signIn.complete({ params, browser: browserCookie })
  return session
}

/** `done`, or the code of the refusal. Fails when the refusal says any of these texts. */
export async function codeOf(work: Promise<unknown>, ...texts: string[]): Promise<string> {
  try {
    await work
    return 'done'
  } catch (error) {
    if (!isBrokerError(error)) throw error
    const said = JSON.stringify({
      ...error.details,
      cause: String(error.cause),
      text: String(error),
    })
    const leaked = texts.find((text) => said.includes(text))
    if (leaked !== undefined)
      throw new Error('the refusal says what the provider said', { cause: error })
    return error.code
  }
}
