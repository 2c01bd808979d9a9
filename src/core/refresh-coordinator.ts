import { lastingPauseSeconds, passingPauseSeconds } from './backoff.ts'
import type { Credential, CredentialKey, TokenSet } from './credential.ts'
import { type CredentialMemory, memoryKeyOf, remember } from './credential-memory.ts'
import { BrokerError, isBrokerError } from './errors.ts'
import { AcquisitionFailure, type FailureVerdict } from './failure-verdict.ts'
import { leaseSeconds, sendWithinMs, strictLeaseSeconds } from './lease.ts'
import type { AcquisitionMethods } from './ports/acquisition-method.ts'
import type { Clock, Stopwatch } from './ports/clock.ts'
import type { ClaimTerms, CredentialStore, RenewalClaim } from './ports/credential-store.ts'
import type { JournalEntry, RefreshJournal } from './ports/refresh-journal.ts'
import type { StorageHealth } from './ports/storage-health.ts'
import { refusalAfter, upstreamUnavailable } from './refusals.ts'
import { revokeTokens } from './revoke-tokens.ts'
import type { Secret } from './secret.ts'
import type { RenewalSetback, SetbackKind } from './setback.ts'
import type { TokenEndpoints } from './token-endpoints.ts'
import { bindingOf, type CredentialBinding, isSameBinding, type Upstream } from './upstream.ts'
import { waitAtMost } from './wait-at-most.ts'
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
export interface RefreshCoordinator {
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

  /** Stores what an earlier process on this data directory still owed to the database. Once, before anything is renewed. */
  recover(): Promise<void>

  /** Resolves when nothing is owed to the database, or after so long: then the journal has it. */
  stop(graceMs: number): Promise<void>
}

export type RenewalOptions = {
  /** Callers name the credential as rejected. */
  readonly forced?: boolean
  /** The credential is still good: nothing is waited for that may take long. */
  readonly early?: boolean
}

export type Renewal = { readonly credential: Credential; readonly asked: boolean }

/** What to do after a try that settled nothing. */
type Next = 'claim' | 'look'

type Work = {
  readonly key: CredentialKey
  readonly upstream: Upstream
  readonly current: Credential
  readonly terms: ClaimTerms
  readonly early: boolean
  readonly wakeup: Wakeup
}

/** What a server gave and the database does not have yet. */
type Owed = {
  readonly key: CredentialKey
  readonly upstream: Upstream
  readonly claim: RenewalClaim
  /** Of the server that gave it. */
  readonly binding: CredentialBinding
  readonly tokens: TokenSet
  /** What it serves meanwhile; absent where an earlier process was to serve it. */
  readonly credential: Credential | undefined
  readonly entry: JournalEntry | undefined
}

/** A claim and until when it may be sent on, by the stopwatch. */
type Turn = { readonly claim: RenewalClaim; readonly sendByMs: number }

/** How often whoever waits looks at the row, should the notice be lost. */
const lookEveryMs = 1000

/** How long callers wait for the commit before they are served what is about to be stored. */
const commitWaitMs = 1000

/** How often what is owed to the database is offered to it again. */
const settleEveryMs = 1000

/**
 * The database is back for everybody at about the same time, and whoever owes it an answer pays within a second or so. Until then
 * nobody takes over: the token that it would send is spent.
 */
const payBackMs = 5000

/** After this long without an outcome the callers of a flight are sent away; they left long before. */
const giveUpAfterMs = 45_000

export function createRefreshCoordinator(ports: {
  readonly upstreams: ReadonlyMap<string, Upstream>
  readonly credentials: CredentialStore
  readonly memory: CredentialMemory
  readonly methods: AcquisitionMethods
  readonly tokenEndpoints: Pick<TokenEndpoints, 'authorizationServersOf'>
  readonly wakeups: Wakeups
  readonly journal: RefreshJournal
  /** Told of every renewal of an earlier process that was stored after all. */
  readonly onRecovered: (key: CredentialKey, upstream: Upstream) => void
  readonly storage: StorageHealth
  readonly clock: Clock
  readonly stopwatch: Stopwatch
  readonly random: () => number
}): RefreshCoordinator {
  const { upstreams, credentials, memory, methods, tokenEndpoints, wakeups, journal } = ports
  const { onRecovered, storage, clock, stopwatch, random } = ports
  const owed = new Map<number, Owed>()
  let settling: Promise<void> | undefined
  let stopped = false

  async function renew(
    key: CredentialKey,
    upstream: Upstream,
    current: Credential,
    { forced = false, early = false }: RenewalOptions = {},
  ): Promise<Renewal> {
    const unsaved = owed.get(current.generation)
    if (unsaved?.credential !== undefined) return whileOwed(unsaved.credential)
    // What is to be renewed is not in the database yet.
    const before = [...owed.values()].find((one) => isOf(one, current))
    if (before !== undefined) await settle(before)
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
      const outcome = claim === undefined ? 'look' : await redeem(work, { claim, sendByMs })
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
      const credential = credentialOf(looked, key)
      if (looked === undefined || credential.generation !== current.generation) {
        memory.forget(memoryKeyOf(key))
        return { credential, asked: false }
      }
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

  /** What the row has, where it has anything that may be used. */
  function credentialOf(
    looked: Awaited<ReturnType<CredentialStore['find']>>,
    key: CredentialKey,
  ): Credential {
    if (looked?.credential !== undefined) return looked.credential
    memory.forget(memoryKeyOf(key))
    const reason =
      looked === undefined ? 'not_connected' : (looked.connection.reason ?? 'refresh_failed')
    throw new BrokerError('connect_required', { reason })
  }

  async function redeem(work: Work, turn: Turn): Promise<Renewal | Next> {
    const { upstream } = work
    const { claim, sendByMs } = turn
    const method = methods[upstream.credential.mode]
    let entry: JournalEntry | undefined
    let tokens: TokenSet
    try {
      tokens = await method.refresh(upstream, claim.refreshToken, claim.scopes, {
        maySend: () => stopwatch.read() < sendByMs,
        async keep(answer) {
          const binding = bindingOf(upstream.credential)
          entry = await journal.keep({ key: work.key, claim, binding, answer })
        },
      })
    } catch (error) {
      entry?.drop()
      if (!(error instanceof AcquisitionFailure)) throw error
      return failed(work, turn, error)
    }
    return { credential: await save(work, claim, tokens, entry), asked: true }
  }

  async function save(
    { key, upstream, current }: Work,
    claim: RenewalClaim,
    tokens: TokenSet,
    entry: JournalEntry | undefined,
  ): Promise<Credential> {
    const scopes = tokens.scopes ?? claim.scopes
    const renewed = { tokens, scopes, obtainedAt: clock.now() }
    const credential = credentials.foreseeRenewal(current, claim, renewed)
    const binding = bindingOf(upstream.credential)
    const unsaved: Owed = { key, upstream, claim, binding, tokens, credential, entry }
    // From here on, so that not even a bug between here and the commit loses it.
    owed.set(claim.generation, unsaved)
    const stored = await waitAtMost(settle(unsaved), commitWaitMs).catch((error: unknown) => {
      if (isBrokerError(error, 'storage_unavailable')) return 'late' as const
      throw error
    })
    if (stored !== 'late') return stored
    settleInTime()
    memory.keep(memoryKeyOf(key), remember(credential, upstream.credential))
    return whileOwed(credential).credential
  }

  /** What is owed serves for as long as a replica may serve from memory, and no longer. */
  function whileOwed(credential: Credential): Renewal {
    if (!storage.isFresh()) throw new BrokerError('storage_unavailable')
    return { credential, asked: false }
  }

  /** Pays what is owed: gives what the row has then. @throws BrokerError storage_unavailable, and it stays owed */
  async function settle(unsaved: Owed): Promise<Credential> {
    const { key, upstream, claim, binding, tokens } = unsaved
    const scopes = tokens.scopes ?? claim.scopes
    const renewed = await credentials.commitRenewal(key, claim, { tokens, scopes })
    memory.forget(memoryKeyOf(key))
    if (renewed !== undefined) {
      paid(unsaved)
      return renewed
    }
    // The row moved on while the server answered, or an earlier try went through unseen.
    const found = await credentials.lookAtRenewal(key)
    paid(unsaved)
    // Disconnected meanwhile: what arrived must not live on at the server. A row that counts its leases anew is of another
    // connection. In the same row it may be the grant that is in use, renewed by another or extended by its person.
    const isUnwanted = found === undefined || found.renewal.leaseEpoch < claim.leaseEpoch
    // Nor may a server that was configured meanwhile be shown what another one gave.
    if (isUnwanted && isSameBinding(binding, bindingOf(upstream.credential))) {
      void revokeTokens(methods[upstream.credential.mode], upstream, tokens)
    }
    return credentialOf(found, key)
  }

  function paid({ claim, entry }: Owed): void {
    if (owed.delete(claim.generation)) entry?.drop()
  }

  /** Offers what is owed to the database until it has taken everything. */
  function settleInTime(): void {
    settling ??= settleAll().finally(() => {
      settling = undefined
    })
  }

  async function settleAll(): Promise<void> {
    for (;;) {
      await new Promise((resolve) => setTimeout(resolve, settleEveryMs))
      if (stopped || owed.size === 0) return
      for (const unsaved of owed.values()) {
        // Where the database is away for one it is away for all.
        if ((await trySettle(unsaved)) === 'storage_unavailable') break
      }
    }
  }

  async function trySettle(unsaved: Owed): Promise<'settled' | 'storage_unavailable'> {
    try {
      await settle(unsaved)
      if (unsaved.credential === undefined) onRecovered(unsaved.key, unsaved.upstream)
    } catch (error) {
      if (isBrokerError(error, 'storage_unavailable')) return 'storage_unavailable'
      // Nobody is connected any more, or what is there does not open: either way there is no place for it.
      paid(unsaved)
    }
    return 'settled'
  }

  async function recover(): Promise<void> {
    for (const { key, claim, binding, answer, entry } of journal.left()) {
      const upstream = upstreams.get(key.upstream)
      const tokens = upstream && readKept(upstream, answer)
      if (upstream === undefined || tokens === undefined) {
        // It brought nothing, or what it was for is no longer configured.
        entry.drop()
        continue
      }
      const unsaved = { key, upstream, claim, binding, tokens, credential: undefined, entry }
      owed.set(claim.generation, unsaved)
    }
    for (const unsaved of owed.values()) await trySettle(unsaved)
    if (owed.size > 0) settleInTime()
  }

  function readKept(upstream: Upstream, answer: Secret): TokenSet | undefined {
    try {
      return methods[upstream.credential.mode].readRefresh(upstream, answer)
    } catch (error) {
      if (error instanceof AcquisitionFailure) return undefined
      throw error
    }
  }

  async function failed(
    work: Work,
    turn: Turn,
    failure: AcquisitionFailure,
  ): Promise<Renewal | Next> {
    const { verdict } = failure
    const { key } = work
    const { claim } = turn
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
        return passing(work, turn, verdict, failure)
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
    work: Work,
    { claim, sendByMs }: Turn,
    verdict: Extract<FailureVerdict, { kind: 'retry_at' }>,
    cause: AcquisitionFailure,
  ): Promise<Next> {
    const { key, upstream, current } = work
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
    throw upstreamUnavailable(Math.max(setback.retryInSeconds, heldForSeconds(work, lost)), cause)
  }

  /** A strict server kills the grant when a used token returns, so the old credential is used up before the one risky try. */
  function heldForSeconds({ terms, current }: Work, lost: boolean): number {
    if (!lost || terms.repeatable || current.expiresAt === undefined) return 0
    return (current.expiresAt.getTime() - clock.now().getTime()) / 1000
  }

  /** Whether a refresh token whose answer was lost may be sent again at once. */
  function maySendAgainNow(upstream: Upstream, current: Credential): boolean {
    if (upstream.credential.refreshReuse.kind !== 'strict') return true
    return isEnded(current)
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

  return {
    renew,
    recover,
    async stop(graceMs) {
      if (settling !== undefined) await waitAtMost(settling, graceMs)
      stopped = true
    },
  }
}

/** Whether this is what somebody owes. */
function isOf({ claim }: Owed, { generation }: Credential): boolean {
  return claim.nextGeneration === generation
}

function noPause({ failCount }: RenewalClaim) {
  return { failCount, retryInSeconds: 0 }
}
