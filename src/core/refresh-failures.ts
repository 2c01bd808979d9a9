import { lastingPauseSeconds, passingPauseSeconds } from './backoff.ts'
import type { Credential, CredentialKey } from './credential.ts'
import { type CredentialMemory, memoryKeyOf } from './credential-memory.ts'
import { BrokerError } from './errors.ts'
import type { AcquisitionFailure, FailureVerdict } from './failure-verdict.ts'
import type { Clock, Stopwatch } from './ports/clock.ts'
import type { ClaimTerms, CredentialStore, RenewalClaim } from './ports/credential-store.ts'
import { upstreamUnavailable } from './refusals.ts'
import type { RenewalSetback, SetbackKind } from './setback.ts'
import type { TokenEndpoints } from './token-endpoints.ts'
import type { Upstream } from './upstream.ts'

/** A claim, what it is for, and until when it may be sent on, by the stopwatch. */
export type RefreshTurn = {
  readonly key: CredentialKey
  readonly upstream: Upstream
  readonly current: Credential
  readonly terms: ClaimTerms
  readonly claim: RenewalClaim
  readonly sendByMs: number
}

/** What to do after a try that settled nothing. */
export type NextStep = 'claim' | 'look'

/** Writes into the row what a failed refresh means for the next one, and says it to those who wait. */
export interface RefreshFailures {
  /** @throws BrokerError what the callers hear, unless the turn is taken again or another's outcome counts */
  settle(turn: RefreshTurn, failure: AcquisitionFailure): Promise<NextStep>
}

export function createRefreshFailures(ports: {
  readonly credentials: Pick<CredentialStore, 'failRenewal'>
  readonly memory: Pick<CredentialMemory, 'forget'>
  readonly tokenEndpoints: Pick<TokenEndpoints, 'authorizationServersOf'>
  readonly clock: Clock
  readonly stopwatch: Stopwatch
  readonly random: () => number
}): RefreshFailures {
  const { credentials, memory, tokenEndpoints, clock, stopwatch, random } = ports

  const settle: RefreshFailures['settle'] = async (turn, failure) => {
    const { verdict } = failure
    const { key, claim } = turn
    switch (verdict.kind) {
      case 'reconnect':
      case 'subject_token_refused': {
        const reason = claim.afterLostAnswer ? 'refresh_outcome_unknown' : 'refresh_failed'
        const ended = await credentials.failRenewal(key, claim, { kind: 'reconnect', reason })
        memory.forget(memoryKeyOf(key))
        // Somebody else's turn, or somebody else's success: what the row says counts.
        if (!ended) return 'look'
        throw new BrokerError('connect_required', { reason, cause: failure })
      }
      case 'interaction_required':
        await lasting(key, claim, 'interaction_required')
        throw new BrokerError('connect_required', {
          reason: 'insufficient_scope',
          ...(verdict.claims === undefined ? {} : { claims: verdict.claims }),
          cause: failure,
        })
      case 'denied':
        await lasting(key, claim, 'denied')
        throw new BrokerError('policy_denied', { cause: failure })
      case 'misconfigured':
        await lasting(key, claim, 'misconfigured')
        throw new BrokerError('upstream_misconfigured', { cause: failure })
      case 'retry_at':
        return passing(turn, verdict, failure)
    }
  }

  /** The grant is as good as before, and time alone does not mend what stood in its way. */
  async function lasting(
    key: CredentialKey,
    claim: RenewalClaim,
    failure: SetbackKind,
  ): Promise<void> {
    const failCount = claim.failCount + 1
    const retryInSeconds = lastingPauseSeconds(failCount)
    const setback = { failure, failCount, retryInSeconds, outcomeKnown: true }
    await credentials.failRenewal(key, claim, { kind: 'retry', ...setback })
  }

  async function passing(
    turn: RefreshTurn,
    verdict: Extract<FailureVerdict, { kind: 'retry_at' }>,
    cause: AcquisitionFailure,
  ): Promise<NextStep> {
    const { key, upstream, current, claim, sendByMs } = turn
    const lost = verdict.answer === 'lost'
    // This process stood still, or connecting took too long: nobody is at fault, and the turn can be taken again.
    const overslept = verdict.answer === 'not_sent' && stopwatch.read() >= sendByMs
    const again = lost && !claim.afterLostAnswer && maySendAgainNow(upstream, current)
    const atOnce = again || overslept || verdict.addressRefused === true
    const setback = atOnce ? noPause(claim) : pauseAfter(upstream, claim, verdict)
    const kept = await credentials.failRenewal(key, claim, {
      kind: 'retry',
      failure: 'unavailable',
      ...setback,
      outcomeKnown: !lost,
    })
    if (!kept) return 'look'
    if (again || overslept) return 'claim'
    throw upstreamUnavailable(Math.max(setback.retryInSeconds, heldForSeconds(turn, lost)), cause)
  }

  /** A strict server kills the grant when a used token returns, so the old credential is used up before the one risky try. */
  function heldForSeconds({ terms, current }: RefreshTurn, lost: boolean): number {
    if (!lost || terms.repeatable || current.expiresAt === undefined) return 0
    return (current.expiresAt.getTime() - clock.now().getTime()) / 1000
  }

  /** Whether a refresh token whose answer was lost may be sent again at once. */
  function maySendAgainNow(upstream: Upstream, current: Credential): boolean {
    if (upstream.credential.refreshReuse.kind !== 'strict') return true
    return current.expiresAt !== undefined && current.expiresAt <= clock.now()
  }

  function pauseAfter(
    upstream: Upstream,
    claim: RenewalClaim,
    verdict: Extract<FailureVerdict, { kind: 'retry_at' }>,
  ): Pick<RenewalSetback, 'failCount' | 'retryInSeconds' | 'pause'> {
    const failCount = claim.failCount + 1
    const seconds = verdict.retryAfterSeconds
    if (seconds === undefined) {
      return { failCount, retryInSeconds: passingPauseSeconds(failCount, random) }
    }
    const authorizationServers = tokenEndpoints.authorizationServersOf(upstream)
    return { failCount, retryInSeconds: seconds, pause: { authorizationServers, seconds } }
  }

  return { settle }
}

function noPause({ failCount }: RenewalClaim) {
  return { failCount, retryInSeconds: 0 }
}
