import { personKey, type PersonId } from '../core/caller.ts'
import { isBrokerError } from '../core/errors.ts'
import type { Admins, Issuer, Login } from '../core/issuer.ts'
import type { Clock } from '../core/ports/clock.ts'
import type { SubjectTokens, SubjectTokenType } from '../core/ports/subject-tokens.ts'
import type { Secret } from '../core/secret.ts'
import { createSingleFlight } from '../core/single-flight.ts'
import { identify } from './claims.ts'
import type { OidcClient } from './oidc-client.ts'
import type { SignInToken, SignInTokens } from './sign-in-tokens.ts'

/** A token with less than this left might end on its way. */
const goodForMs = 60_000

/**
 * The stored sign-in tokens of people. One that ends within a minute is refreshed first, by one request however many callers
 * wait, and what the issuer rotated is saved before anyone gets it. Without `store_subject_token` there are none.
 * @throws BrokerError issuer_unavailable when it has ended and the issuer cannot be asked for another, storage_unavailable.
 */
export function createSubjectTokens(options: {
  readonly login: Login
  readonly issuer: Issuer
  readonly admins: Admins
  readonly client: OidcClient
  readonly tokens: SignInTokens
  readonly clock: Clock
}): SubjectTokens {
  const { login, tokens, clock } = options
  const flights = createSingleFlight<SignInToken | undefined>()

  const find: SubjectTokens['find'] = async (person, type) => {
    // A refresh token goes only to the issuer that gave it.
    if (!login.storeSubjectToken || person.issuer !== login.issuer) return undefined
    const token = await tokens.find(person)
    if (token === undefined) return undefined
    const atHand = tokenOf(token, type, goodForMs)
    if (atHand !== undefined || token.refreshToken === undefined) return atHand
    try {
      const { result } = flights.join(personKey(person), () => renew(options, person, token))
      const renewed = await result
      // Whatever is left of it: more cannot be had.
      return renewed && tokenOf(renewed, type, 0)
    } catch (error) {
      const stillGood = tokenOf(token, type, 0)
      if (stillGood !== undefined && isBrokerError(error, 'issuer_unavailable')) return stillGood
      throw error
    }
  }

  function tokenOf(token: SignInToken, type: SubjectTokenType, leftMs: number): Secret | undefined {
    // A subject token of type `jwt` is the access token under another name.
    const isIdToken = type === 'id_token'
    const text = isIdToken ? token.idToken : token.accessToken
    const expiresAt = isIdToken ? token.idTokenExpiresAt : token.accessTokenExpiresAt
    const isGood = expiresAt === undefined || expiresAt.getTime() - leftMs > clock.now().getTime()
    return isGood ? text : undefined
  }

  return { find }
}

/** Undefined when the person must sign in again. */
async function renew(
  ports: Pick<Parameters<typeof createSubjectTokens>[0], 'issuer' | 'admins' | 'client' | 'tokens'>,
  person: PersonId,
  seen: SignInToken,
): Promise<SignInToken | undefined> {
  const { issuer, admins, client, tokens } = ports
  const token = await tokens.find(person)
  // A flight that ended since the caller looked has spent the refresh token that the caller saw.
  if (token?.refreshToken === undefined || token.generation !== seen.generation) return token
  const renewed = await client.refresh(token.refreshToken)
  // Tokens of another person must not be kept under this one's name (OpenID Connect Core §12.2).
  const named = renewed?.idToken && identify(issuer, admins, [renewed.idToken.claims])
  const isOther = named !== undefined && named.userId !== person.userId
  if (renewed === undefined || isOther) await tokens.dropRefreshToken(person, token.generation)
  else await tokens.replace(person, token, renewed)
  // Read again: where somebody else was quicker, theirs is what counts.
  return tokens.find(person)
}
