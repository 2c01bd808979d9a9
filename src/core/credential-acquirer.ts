import { lastingPauseSeconds, passingPauseSeconds } from './backoff.ts'
import type { PersonId } from './caller.ts'
import type { Credential, CredentialKey, TokenSet } from './credential.ts'
import { type CredentialMemory, memoryKeyOf } from './credential-memory.ts'
import { BrokerError } from './errors.ts'
import { AcquisitionFailure, type FailureVerdict } from './failure-verdict.ts'
import { leaseSeconds, sendWithinMs } from './lease.ts'
import type { AcquisitionAttempt, AcquisitionAttempts } from './ports/acquisition-attempts.ts'
import type { AcquisitionMethods } from './ports/acquisition-method.ts'
import type { Stopwatch } from './ports/clock.ts'
import type { CredentialStore } from './ports/credential-store.ts'
import type { SubjectTokens } from './ports/subject-tokens.ts'
import type { Renewal, RenewalOptions } from './refresh-coordinator.ts'
import { refusalAfter, upstreamUnavailable } from './refusals.ts'
import { revokeTokens } from './revoke-tokens.ts'
import type { Secret } from './secret.ts'
import type { RenewalSetback, SetbackKind } from './setback.ts'
import type { TokenEndpoints } from './token-endpoints.ts'
import { bindingOf, methodOfMode, type Upstream } from './upstream.ts'
import type { Wakeup, Wakeups } from './wakeups.ts'

/** What is to be exchanged for what. */
export type Exchange = RenewalOptions & {
  readonly key: CredentialKey
  readonly upstream: Upstream
  readonly subjectToken: Secret
  /** The credential to replace. */
  readonly current: Credential | undefined
  /** One that is there by now and may be used instead: another's, or that of the flight before. */
  readonly findNewer: () => Promise<Credential | undefined>
}

/** Exchanges a person's subject token for a credential and stores it; once, over any number of replicas. */
export interface CredentialAcquirer {
  /** The token to exchange: the one presented with the call, else the stored sign-in token. Undefined where there is none. */
  subjectToken(
    person: PersonId,
    upstream: Upstream,
    presented: Secret | undefined,
  ): Promise<Secret | undefined>

  /**
   * `asked`: this call made the request; false where another's was waited for and found, or where callers forced too many. What
   * another was refused for its own subject token is asked again with this one.
   * @throws BrokerError invalid_subject_token, connect_required (insufficient_scope, with the server's challenge; not_connected
   * where the person disconnected meanwhile), policy_denied, upstream_unavailable, upstream_misconfigured, storage_unavailable.
   */
  acquire(exchange: Exchange): Promise<Renewal>
}

/** An attempt and until when it may be sent on, by the stopwatch. */
type Turn = { readonly attempt: AcquisitionAttempt; readonly sendByMs: number }

/** How often whoever waits looks at the row, should the notice be lost. */
const lookEveryMs = 1000

/** After this long without an outcome the callers of a flight are sent away; they left long before. */
const giveUpAfterMs = 45_000

export function createCredentialAcquirer(ports: {
  readonly credentials: CredentialStore
  readonly attempts: AcquisitionAttempts
  readonly memory: CredentialMemory
  readonly methods: AcquisitionMethods
  readonly tokenEndpoints: Pick<TokenEndpoints, 'authorizationServersOf'>
  readonly subjectTokens: SubjectTokens
  readonly wakeups: Wakeups
  readonly stopwatch: Stopwatch
  readonly random: () => number
}): CredentialAcquirer {
  const { credentials, attempts, memory, methods, tokenEndpoints, subjectTokens } = ports
  const { wakeups, stopwatch, random } = ports

  async function subjectToken(
    person: PersonId,
    upstream: Upstream,
    presented: Secret | undefined,
  ): Promise<Secret | undefined> {
    const type = upstream.credential.subjectTokenType
    // What people present are access tokens; an ID token can only be a stored one.
    if (presented !== undefined && type !== 'id_token') return presented
    return subjectTokens.find(person, type)
  }

  async function acquire(exchange: Exchange): Promise<Renewal> {
    const { key, upstream } = exchange
    if (methods[upstream.credential.mode].acquire === undefined) {
      throw new BrokerError('connect_required', { reason: 'not_connected' })
    }
    const wakeup = wakeups.expect(key)
    try {
      return await acquireInTurn(exchange, wakeup)
    } finally {
      wakeup.end()
    }
  }

  async function acquireInTurn(exchange: Exchange, wakeup: Wakeup): Promise<Renewal> {
    const { key, upstream } = exchange
    const server = serverOf(upstream)
    const giveUpAtMs = stopwatch.read() + giveUpAfterMs
    while (stopwatch.read() < giveUpAtMs) {
      // Counted from before the claim, so that the lease has begun no earlier than we think.
      const sendByMs = stopwatch.read() + sendWithinMs(leaseSeconds)
      const attempt = await attempts.claimExchange(key, server)
      if (attempt === undefined) {
        await othersEnd(exchange, wakeup, giveUpAtMs)
        continue
      }
      const outcome = await exchangeInTurn(exchange, { attempt, sendByMs })
      if (outcome !== 'again') return outcome
    }
    throw upstreamUnavailable(1)
  }

  /** Another is at it, or the next try is not due. Resolves when it may be claimed. */
  async function othersEnd(
    { key, upstream, early = false }: Exchange,
    wakeup: Wakeup,
    giveUpAtMs: number,
  ): Promise<void> {
    let waitedFor: number | undefined
    while (stopwatch.read() < giveUpAtMs) {
      const state = await attempts.lookAtExchange(key, serverOf(upstream))
      const { generation, leasedForSeconds, blockedForSeconds, setback } = state
      if (leasedForSeconds !== undefined) {
        waitedFor = generation
        // A lease that ends is not told of.
        await wakeup.wait(Math.min(lookEveryMs, leasedForSeconds * 1000 + 10))
        continue
      }
      if (blockedForSeconds !== undefined) throw upstreamUnavailable(blockedForSeconds)
      if (setback === undefined) return
      if (early || waitedFor === generation || setback.failure === 'unavailable') {
        throw refusalAfter(setback)
      }
      await wakeup.wait(Math.min(lookEveryMs, setback.retryInSeconds * 1000 + 10))
    }
  }

  async function exchangeInTurn(exchange: Exchange, turn: Turn): Promise<Renewal | 'again'> {
    const { key, current, forced = false } = exchange
    const found = await inTurn(exchange, turn, async () => {
      // Only now: what another stored before this turn began is there for certain.
      const newer = await exchange.findNewer()
      if (newer !== undefined) return newer
      if (!forced || current === undefined) return undefined
      return (await credentials.countForced(key, current.generation)) ? undefined : current
    })
    if (found !== undefined) {
      await attempts.end(key, turn.attempt)
      return { credential: found, asked: false }
    }
    let tokens: TokenSet
    try {
      tokens = await inTurn(exchange, turn, () => ask(exchange, turn))
    } catch (error) {
      if (!(error instanceof AcquisitionFailure)) throw error
      return failed(exchange, turn, error)
    }
    return store(exchange, turn, tokens)
  }

  /** Gives the turn back where something breaks that is no server's answer, rather than have everybody wait for its end. */
  async function inTurn<T>(
    { key }: Exchange,
    { attempt }: Turn,
    act: () => Promise<T>,
  ): Promise<T> {
    try {
      return await act()
    } catch (error) {
      if (!(error instanceof AcquisitionFailure)) await attempts.end(key, attempt).catch(() => {})
      throw error
    }
  }

  async function ask({ upstream, subjectToken: token }: Exchange, turn: Turn): Promise<TokenSet> {
    const method = methods[upstream.credential.mode]
    const tokens = await method.acquire?.(upstream, token, {
      maySend: () => stopwatch.read() < turn.sendByMs,
    })
    if (tokens === undefined) throw new BrokerError('connect_required', { reason: 'not_connected' })
    return tokens
  }

  async function store(
    exchange: Exchange,
    { attempt }: Turn,
    tokens: TokenSet,
  ): Promise<Renewal | 'again'> {
    const { key, upstream, current, forced = false } = exchange
    const stored = await credentials.putArrived(key, attempt, {
      tokens,
      method: methodOfMode[upstream.credential.mode],
      scopes: tokens.scopes ?? upstream.credential.scopes,
      audience: upstream.credential.resource ?? upstream.credential.audiences[0],
      binding: bindingOf(upstream.credential),
      renewed: current !== undefined,
      rejected: forced,
    })
    memory.forget(memoryKeyOf(key))
    if (stored !== undefined) return { credential: stored, asked: true }
    return insteadOf(exchange, tokens)
  }

  /** Disconnected meanwhile, or so late that another has asked: then what the other got counts, once it is there. */
  async function insteadOf(exchange: Exchange, tokens: TokenSet): Promise<Renewal | 'again'> {
    const { key, upstream } = exchange
    // Before the row is read: whoever asks no more by now has stored what it got.
    const { generation } = await attempts.lookAtExchange(key, serverOf(upstream))
    const newer = await exchange.findNewer()
    // What arrived must not live on at the server, unless the other was given the same once more.
    if (newer?.accessToken.reveal() !== tokens.accessToken.reveal()) {
      void revokeTokens(methods[upstream.credential.mode], upstream, tokens)
    }
    if (newer !== undefined) return { credential: newer, asked: false }
    if (generation !== undefined) return 'again'
    throw new BrokerError('connect_required', { reason: 'not_connected' })
  }

  async function failed(
    { key, upstream }: Exchange,
    turn: Turn,
    failure: AcquisitionFailure,
  ): Promise<'again'> {
    const { verdict } = failure
    const { attempt } = turn
    switch (verdict.kind) {
      case 'reconnect':
      case 'subject_token_refused':
        // Of this subject token; the next caller's may do.
        await attempts.end(key, attempt)
        throw new BrokerError('invalid_subject_token', { cause: failure })
      case 'interaction_required':
        await attempts.end(key, attempt)
        throw new BrokerError('connect_required', {
          reason: 'insufficient_scope',
          ...(verdict.claims === undefined ? {} : { claims: verdict.claims }),
          cause: failure,
        })
      case 'denied':
        await lasting(key, attempt, 'denied')
        throw new BrokerError('policy_denied', { cause: failure })
      case 'misconfigured':
        await lasting(key, attempt, 'misconfigured')
        throw new BrokerError('upstream_misconfigured', { cause: failure })
      case 'retry_at': {
        // This process stood still, or connecting took too long: nobody is at fault, and the turn can be taken again.
        if (verdict.answer === 'not_sent' && stopwatch.read() >= turn.sendByMs) {
          await attempts.end(key, attempt)
          return 'again'
        }
        const setback = pauseAfter(upstream, attempt, verdict)
        await attempts.fail(key, attempt, setback)
        throw upstreamUnavailable(setback.retryInSeconds, failure)
      }
    }
  }

  /** Time alone does not mend what stood in its way. */
  async function lasting(
    key: CredentialKey,
    attempt: AcquisitionAttempt,
    failure: SetbackKind,
  ): Promise<void> {
    const failCount = attempt.failCount + 1
    const retryInSeconds = lastingPauseSeconds(failCount)
    await attempts.fail(key, attempt, { failure, failCount, retryInSeconds })
  }

  function pauseAfter(
    upstream: Upstream,
    attempt: AcquisitionAttempt,
    verdict: Extract<FailureVerdict, { kind: 'retry_at' }>,
  ): Omit<RenewalSetback, 'outcomeKnown'> {
    const { retryAfterSeconds: seconds, addressRefused } = verdict
    const failCount = attempt.failCount + 1
    const failure = 'unavailable'
    // Nothing left and nobody was bothered: only the configuration mends it, and then at once.
    if (addressRefused === true) return { failure, failCount, retryInSeconds: 0 }
    if (seconds === undefined) {
      return { failure, failCount, retryInSeconds: passingPauseSeconds(failCount, random) }
    }
    const authorizationServers = tokenEndpoints.authorizationServersOf(upstream)
    const pause = { authorizationServers, seconds }
    return { failure, failCount, retryInSeconds: seconds, pause }
  }

  return { subjectToken, acquire }
}

function serverOf(upstream: Upstream): string {
  return bindingOf(upstream.credential).authorizationServer
}
