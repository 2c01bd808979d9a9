import type { Credential, CredentialKey, TokenSet } from './credential.ts'
import { type CredentialMemory, memoryKeyOf } from './credential-memory.ts'
import { AcquisitionFailure } from './failure-verdict.ts'
import { leaseSeconds, sendWithinMs, strictLeaseSeconds } from './lease.ts'
import { createOwedRenewals, type OwedRenewals } from './owed-renewals.ts'
import type { AcquisitionMethods } from './ports/acquisition-method.ts'
import type { Clock, Stopwatch } from './ports/clock.ts'
import type { ClaimTerms, CredentialStore } from './ports/credential-store.ts'
import type { JournalEntry, RefreshJournal } from './ports/refresh-journal.ts'
import type { StorageHealth } from './ports/storage-health.ts'
import { createRefreshFailures, type NextStep, type RefreshTurn } from './refresh-failures.ts'
import { nothingStored, refusalAfter, upstreamUnavailable } from './refusals.ts'
import { bindingOf, isSameBinding, type Upstream } from './upstream.ts'
import type { Wakeup, Wakeups } from './wakeups.ts'

/**
 * Redeems a refresh token once per credential generation, over any number of replicas.
 *
 * 1. The claim: one statement takes the lease on the generation and commits the intent to send. Without it nothing is sent.
 * 2. The request, holding neither a connection nor a transaction. It leaves only while the lease still covers its answer, and
 *    once it has left nothing but its own time limit ends it.
 * 3. The answer, in the journal before it is read.
 * 4. The commit, where the generation is still the one whose token was used: a late success wins over another's failure, and
 *    a row that was disconnected meanwhile stays away, or as it was connected anew (then the new token is revoked). What the
 *    database cannot take is owed to it, and serves this replica meanwhile.
 *
 * Whoever finds another at it waits for what comes of that, woken by a notice or by looking each second, and takes over when
 * the lease ends without a word.
 */
export interface RefreshCoordinator extends Pick<OwedRenewals, 'recover' | 'stop'> {
  /**
   * `asked`: this call made the request; false where another's was found, or where callers forced too many.
   * @throws BrokerError connect_required (the grant is dead, or the server asks the person for something: then with its
   * challenge), upstream_unavailable (passing), upstream_misconfigured, policy_denied, storage_unavailable.
   */
  renew(
    key: CredentialKey,
    upstream: Upstream,
    current: Credential,
    options?: RenewalOptions,
  ): Promise<Renewal>
}

export type RenewalOptions = {
  /** Callers name the credential as rejected. */
  readonly forced?: boolean
  /** The credential is still good: nothing is waited for that may take long. */
  readonly early?: boolean
}

export type Renewal = { readonly credential: Credential; readonly asked: boolean }

type Work = {
  readonly key: CredentialKey
  readonly upstream: Upstream
  readonly current: Credential
  readonly terms: ClaimTerms
  readonly early: boolean
  readonly wakeup: Wakeup
}

/** How often whoever waits looks at the row, should the notice be lost. */
const lookEveryMs = 1000

/**
 * The database is back for everybody at about the same time, and whoever owes it an answer pays within a second or so. Until then
 * nobody takes over: the token that it would send is spent.
 */
const payBackMs = 5000

/** After this long without an outcome the callers of a flight are sent away; they left long before. */
const giveUpAfterMs = 45_000

type OwedPorts = Parameters<typeof createOwedRenewals>[0]
type FailurePorts = Parameters<typeof createRefreshFailures>[0]
type TurnPorts = {
  readonly credentials: Pick<CredentialStore, 'claimRenewal' | 'lookAtRenewal'>
  readonly memory: Pick<CredentialMemory, 'forget'>
  readonly methods: AcquisitionMethods
  readonly wakeups: Wakeups
  readonly journal: Pick<RefreshJournal, 'keep'>
  readonly storage: StorageHealth
  readonly clock: Clock
  readonly stopwatch: Stopwatch
}

export function createRefreshCoordinator(
  ports: OwedPorts & FailurePorts & TurnPorts,
): RefreshCoordinator {
  const { credentials, memory, methods, wakeups, journal, storage, clock, stopwatch } = ports
  const owed = createOwedRenewals(ports)
  const failures = createRefreshFailures(ports)

  async function renew(
    key: CredentialKey,
    upstream: Upstream,
    current: Credential,
    { forced = false, early = false }: RenewalOptions = {},
  ): Promise<Renewal> {
    const successor = owed.successorOf(current)
    if (successor !== undefined) return { credential: successor, asked: false }
    // What is to be renewed may not be in the database yet.
    await owed.paid(current)
    const repeatable = upstream.credential.refreshReuse.kind !== 'strict'
    const lease = repeatable ? leaseSeconds : strictLeaseSeconds
    const terms = { forced, repeatable, leaseSeconds: lease }
    const wakeup = wakeups.expect(key)
    try {
      return await renewInTurn({ key, upstream, current, terms, early, wakeup })
    } finally {
      wakeup.end()
    }
  }

  async function renewInTurn(work: Work): Promise<Renewal> {
    const { key, current, terms } = work
    const giveUpAtMs = stopwatch.read() + giveUpAfterMs
    while (stopwatch.read() < giveUpAtMs) {
      // Counted from before the claim, so that the lease has begun no earlier than we think.
      const sendByMs = stopwatch.read() + sendWithinMs(terms.leaseSeconds)
      const claim = await credentials.claimRenewal(key, current.generation, termsNow(terms))
      const outcome = claim === undefined ? 'look' : await redeem({ ...work, claim, sendByMs })
      if (typeof outcome !== 'string') return outcome
      if (outcome === 'claim') continue
      const found = await othersOutcome(work, giveUpAtMs)
      if (found === undefined) continue
      const { credential } = found
      const isSame = credential.generation === current.generation
      // Of another configuration, it is not ours to send anything of.
      const isOurs = isSameBinding(credential.binding, bindingOf(work.upstream.credential))
      if (isSame || !isOurs || !isEnded(credential)) return found
      // Renewed elsewhere since this replica last looked, and ended since.
      return renewInTurn({ ...work, current: credential })
    }
    throw upstreamUnavailable(1)
  }

  function termsNow(terms: ClaimTerms): ClaimTerms {
    return { ...terms, sparesSilent: storage.wasAway(payBackMs) }
  }

  function isEnded({ expiresAt }: Credential): boolean {
    return expiresAt !== undefined && expiresAt <= clock.now()
  }

  /** The claim failed: another replica is at it, has done it, or the next try is not due. Undefined: it can be claimed now. */
  async function othersOutcome(work: Work, giveUpAtMs: number): Promise<Renewal | undefined> {
    const { key, current, terms, early, wakeup } = work
    let waitedFor: number | undefined
    while (stopwatch.read() < giveUpAtMs) {
      const looked = await credentials.lookAtRenewal(key, termsNow(terms))
      const credential = looked?.credential
      if (credential?.generation !== current.generation) memory.forget(memoryKeyOf(key))
      if (looked === undefined || credential === undefined) throw nothingStored(looked)
      if (credential.generation !== current.generation) return { credential, asked: false }
      const { leaseEpoch, leasedForSeconds, blockedForSeconds, setback } = looked.renewal
      if (leasedForSeconds !== undefined) {
        waitedFor = leaseEpoch
        // A lease that ends is not told of.
        await wakeup.wait(Math.min(lookEveryMs, leasedForSeconds * 1000 + 10))
        continue
      }
      if (blockedForSeconds !== undefined) throw upstreamUnavailable(blockedForSeconds)
      if (setback !== undefined) {
        // A challenge is not in the row: whoever needs it asks again.
        const heard = waitedFor === leaseEpoch && setback.failure !== 'interaction_required'
        if (early || heard || setback.failure === 'unavailable') throw refusalAfter(setback)
        await wakeup.wait(Math.min(lookEveryMs, setback.retryInSeconds * 1000 + 10))
        continue
      }
      return looked.renewal.forcedTooOften ? { credential, asked: false } : undefined
    }
    return undefined
  }

  async function redeem(turn: RefreshTurn): Promise<Renewal | NextStep> {
    const { key, upstream, current, claim, sendByMs } = turn
    const method = methods[upstream.credential.mode]
    let entry: JournalEntry | undefined
    let tokens: TokenSet
    try {
      tokens = await method.refresh(upstream, claim.refreshToken, claim.scopes, {
        maySend: () => stopwatch.read() < sendByMs,
        async keep(answer) {
          const binding = bindingOf(upstream.credential)
          entry = await journal.keep({ key, claim, binding, answer })
        },
      })
    } catch (error) {
      entry?.drop()
      if (!(error instanceof AcquisitionFailure)) throw error
      return failures.settle(turn, error)
    }
    const credential = await owed.save({ key, upstream, current, claim, tokens, entry })
    return { credential, asked: true }
  }

  return { renew, recover: () => owed.recover(), stop: (graceMs) => owed.stop(graceMs) }
}
