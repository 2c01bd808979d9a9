import type { Person } from '../../src/core/caller.ts'
import type { Issuer, ServiceWithKeys } from '../../src/core/issuer.ts'
import type { BearerUse } from '../../src/core/ports/authenticator.ts'
import type { Clock } from '../../src/core/ports/clock.ts'
import type { Upstream } from '../../src/core/upstream.ts'
import { createAuthenticator } from '../../src/identity/authenticator.ts'
import type { IdentityLog } from '../../src/identity/identity-log.ts'
import { createHttpClient } from '../../src/outbound/http-client.ts'
import { publicUrl } from './issuer-server.ts'
import { oauthUpstream } from './oauth-upstream.ts'

/** Two MCP upstreams and one of plain HTTP. */
export const upstreams: ReadonlyMap<string, Upstream> = new Map(
  [
    oauthUpstream({}, { name: 'a', externalUrl: 'https://edge.example.com/a' }),
    oauthUpstream({}, { name: 'b' }),
    oauthUpstream({}, { name: 'web', kind: 'http' }),
  ].map((upstream) => [upstream.name, upstream]),
)

export const api: BearerUse = { kind: 'api' }

export function at(upstream: string): BearerUse {
  return { kind: 'upstream', upstream: upstreams.get(upstream)! }
}

/** An authenticator over the real HTTP client. */
export function authenticatorOf(
  issuers: readonly Issuer[],
  options: {
    readonly clock: Clock
    readonly services?: readonly ServiceWithKeys[]
    readonly log?: IdentityLog
    readonly roles?: readonly string[]
    readonly users?: readonly string[]
    readonly shareOpaqueTokens?: boolean
  },
) {
  const { roles = ['onbehalf-admin'], users = [], services = [], ...rest } = options
  return createAuthenticator({
    shareOpaqueTokens: issuers.length > 1,
    ...rest,
    issuers,
    services,
    admins: { issuer: issuers[0]?.issuer ?? '', roles, users },
    publicUrl,
    upstreams,
    http: createHttpClient(),
    cutOffs: { admitsBearer: () => true, admitsAssertion: () => true },
  })
}

export type TestAuthenticator = ReturnType<typeof authenticatorOf>

/** The person behind a token, whether it was remembered or not. */
export async function personOf(
  authenticator: TestAuthenticator,
  token: string,
  use: BearerUse = api,
): Promise<Person> {
  return authenticator.verifyBearer(token, use)
}

/** `accepted`, or the code of the refusal. */
export async function outcomeOf(
  authenticator: TestAuthenticator,
  token: string,
  use: BearerUse = api,
): Promise<string> {
  try {
    await personOf(authenticator, token, use)
    return 'accepted'
  } catch (error) {
    return error instanceof Error && 'code' in error ? String(error.code) : String(error)
  }
}
