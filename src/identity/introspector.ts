import { LRUCache } from 'lru-cache'
import pLimit from 'p-limit'
import { BrokerError } from '../core/errors.ts'
import type { Issuer } from '../core/issuer.ts'
import type { Clock } from '../core/ports/clock.ts'
import { createSingleFlight } from '../core/single-flight.ts'
import { basicAuthorization } from '../oauth/basic-authorization.ts'
import { failedTimes, isOfAnotherKind } from './claims.ts'
import type { IdentityLog, TokenCheck } from './identity-log.ts'
import { IssuerFailure, type IssuerNetwork, readJson } from './issuer-network.ts'
import type { TokenRules, VerifiedToken } from './verified-token.ts'

/** Asks one issuer about tokens (RFC 7662). `digest` is the hash of the whole token. */
export interface Introspector {
  readonly issuer: Issuer

  /** The answer while it holds: the token, the check that it failed, or undefined when the issuer is to be asked. */
  remembered(digest: string): VerifiedToken | TokenCheck | undefined

  /** The check that failed when the issuer does not stand for the token. @throws BrokerError issuer_unavailable */
  ask(token: string, digest: string): Promise<VerifiedToken | TokenCheck>
}

const openRequests = 50
/** With more than this in the queue, the last would wait for longer than callers do. */
const waitingRequests = 1000
const refusedForMs = 5000
const rememberedAnswers = 20_000

type Answer = { readonly token: VerifiedToken | TokenCheck; readonly goodUntilMs: number }

export function createIntrospector(options: {
  readonly issuer: Issuer
  readonly introspection: NonNullable<Issuer['introspection']>
  readonly network: IssuerNetwork
  readonly rules: TokenRules
  readonly clock: Clock
  readonly log: IdentityLog | undefined
}): Introspector {
  const { issuer, introspection, network, rules, clock, log } = options
  const answers = new LRUCache<string, Answer>({ max: rememberedAnswers })
  const flights = createSingleFlight<VerifiedToken | TokenCheck>()
  const limit = pLimit(openRequests)
  const authorization = basicAuthorization(introspection.clientId, introspection.clientSecret)

  function remembered(digest: string): VerifiedToken | TokenCheck | undefined {
    const answer = answers.get(digest)
    if (answer === undefined || clock.now().getTime() >= answer.goodUntilMs) return undefined
    return answer.token
  }

  async function ask(token: string, digest: string): Promise<VerifiedToken | TokenCheck> {
    const known = remembered(digest)
    if (known !== undefined) return known
    return flights.join(digest, async () => {
      if (limit.pendingCount >= waitingRequests) throw new BrokerError('issuer_unavailable')
      return limit(() => askOnce(token, digest))
    }).result
  }

  async function askOnce(token: string, digest: string): Promise<VerifiedToken | TokenCheck> {
    const now = clock.now().getTime()
    const answer = judge(await fetchAnswer(token), now)
    answers.set(digest, answer)
    return answer.token
  }

  async function fetchAnswer(token: string): Promise<Readonly<Record<string, unknown>>> {
    try {
      const response = await network.send({
        url: introspection.endpoint,
        method: 'POST',
        headers: {
          accept: 'application/json',
          authorization,
          'content-type': 'application/x-www-form-urlencoded',
        },
        body: new URLSearchParams({ token, token_type_hint: 'access_token' }).toString(),
      })
      return readJson(response)
    } catch (cause) {
      if (!(cause instanceof IssuerFailure)) throw cause
      const failure = cause.kind
      log?.warn({ event: 'introspection_unavailable', issuer: issuer.issuer, failure })
      throw new BrokerError('issuer_unavailable', { cause })
    }
  }

  /** RFC 7662 §2.2 and §4. Everything else than a full yes is a no. */
  function judge(claims: Readonly<Record<string, unknown>>, now: number): Answer {
    const refused = (check: TokenCheck): Answer => ({
      token: check,
      goodUntilMs: now + refusedForMs,
    })
    if (claims['active'] !== true) return refused('inactive')
    if ((claims['iss'] ?? issuer.issuer) !== issuer.issuer) return refused('issuer')
    // Servers say `active` of refresh tokens too (RFC 7662 §2.1 lets them).
    if (isOfAnotherKind(claims)) return refused('typ')
    const badTimes = failedTimes(claims, now)
    if (badTimes !== undefined) return refused(badTimes)
    const token = rules.accept(issuer, claims)
    if (typeof token === 'string') return refused(token)
    const expMs = Number(claims['exp']) * 1000
    return { token, goodUntilMs: Math.min(expMs, now + introspection.cacheSeconds * 1000) }
  }

  return { issuer, remembered, ask }
}
