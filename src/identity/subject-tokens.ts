import { setTimeout as sleep } from 'node:timers/promises'
import { personKey, type PersonId } from '../core/caller.ts'
import { BrokerError, isBrokerError } from '../core/errors.ts'
import type { Admins, Issuer, Login } from '../core/issuer.ts'
import { strictLeaseSeconds } from '../core/lease.ts'
import type { Clock } from '../core/ports/clock.ts'
import type { SubjectTokens, SubjectTokenType } from '../core/ports/subject-tokens.ts'
import type { Secret } from '../core/secret.ts'
import { createSingleFlight } from '../core/single-flight.ts'
import { waitAtMost } from '../core/wait-at-most.ts'
import { identify } from './claims.ts'
import type { LoginTokens, OidcClient } from './oidc-client.ts'
import type { SignInToken, SignInTokens } from './sign-in-tokens.ts'

/** A token with less than this left might end on its way. */
const goodForMs = 60_000

/**
 * The stored sign-in tokens of people. One that ends within a minute is refreshed first, by one request however many callers
 * wait and on however many replicas, and what the issuer rotated is saved before anyone gets it. Without `store_subject_token` there are none.
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
      const renewed = await waitAtMost(result, waitAtMostMs)
      if (renewed === 'late') throw new BrokerError('storage_unavailable')
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

/** How often another replica's refresh is looked for, and for how long: longer than its turn can last. */
const lookEveryMs = 250
const giveUpAfterMs = (strictLeaseSeconds + 1) * 1000

/** How long what the issuer gave is offered to a database that is away: the old refresh token may be spent. */
const offerFor = { ms: 10 * 60_000, everyMs: 250 }
/** Longer than another replica's turn and a request: who waits longer waits for the database. */
const waitAtMostMs = giveUpAfterMs + 10_000

type Ports = Pick<
  Parameters<typeof createSubjectTokens>[0],
  'issuer' | 'admins' | 'client' | 'tokens'
>

/** Undefined when the person must sign in again. */
async function renew(
  ports: Ports,
  person: PersonId,
  seen: SignInToken,
): Promise<SignInToken | undefined> {
  const { tokens } = ports
  const giveUpAtMs = performance.now() + giveUpAfterMs
  while (performance.now() < giveUpAtMs) {
    const token = await tokens.find(person)
    // A flight that ended since the caller looked, or another replica, has spent the refresh token that the caller saw.
    if (token?.refreshToken === undefined || token.generation !== seen.generation) return token
    if (await tokens.claim(person, token.generation)) {
      return renewInTurn(ports, person, token, token.refreshToken)
    }
    await sleep(lookEveryMs)
  }
  throw new BrokerError('issuer_unavailable')
}

async function renewInTurn(
  { issuer, admins, client, tokens }: Ports,
  person: PersonId,
  token: SignInToken,
  refreshToken: Secret,
): Promise<SignInToken | undefined> {
  let renewed: LoginTokens | undefined
  try {
    renewed = await client.refresh(refreshToken)
  } catch (error) {
    // It ends by itself where this fails too.
    await tokens.release(person, token.generation).catch(() => {})
    throw error
  }
  // Tokens of another person must not be kept under this one's name (OpenID Connect Core §12.2).
  const named = renewed?.idToken && identify(issuer, admins, [renewed.idToken.claims])
  const isOther = named !== undefined && named.userId !== person.userId
  if (renewed === undefined || isOther) await tokens.dropRefreshToken(person, token.generation)
  else await replace(tokens, person, token, renewed)
  // Read again: where somebody else was quicker, theirs is what counts.
  return tokens.find(person)
}

async function replace(
  tokens: SignInTokens,
  person: PersonId,
  before: SignInToken,
  renewed: LoginTokens,
): Promise<void> {
  const giveUpAtMs = performance.now() + offerFor.ms
  for (;;) {
    try {
      await tokens.replace(person, before, renewed)
      return
    } catch (error) {
      const isAway = isBrokerError(error, 'storage_unavailable')
      if (!isAway || performance.now() > giveUpAtMs) throw error
      // Keeps no process from ending.
      await sleep(offerFor.everyMs, undefined, { ref: false })
    }
  }
}
