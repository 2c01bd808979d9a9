import { LRUCache } from 'lru-cache'
import type { AuditAction } from './audit-event.ts'
import {
  type ConnectionReason,
  type Credential,
  type CredentialKey,
  credentialKeyOf,
  freshnessOf,
} from './credential.ts'
import type { CredentialAcquirer } from './credential-acquirer.ts'
import {
  type CredentialMemory,
  memoryKey,
  memoryKeyOf,
  type RememberedCredential,
  remember,
} from './credential-memory.ts'
import { BrokerError, isBrokerError } from './errors.ts'
import { isAllowedByPolicy, type PolicyHook } from './policy.ts'
import type {
  CredentialResolver,
  OAuthConnector,
  ResolvedCredential,
  ResolveRequest,
} from './ports/broker-services.ts'
import type { Clock } from './ports/clock.ts'
import type { CredentialStore } from './ports/credential-store.ts'
import type { StorageHealth } from './ports/storage-health.ts'
import type { RefreshCoordinator, Renewal, RenewalOptions } from './refresh-coordinator.ts'
import { upstreamUnavailable } from './refusals.ts'
import type { ResolutionRecorder } from './resolution-recorder.ts'
import { Secret } from './secret.ts'
import type { ServerChanges } from './server-changes.ts'
import { createSingleFlight, type Flight } from './single-flight.ts'
import { bindingOf, isExchanged, isSameBinding, mayUseUpstream, type Upstream } from './upstream.ts'
import { waitAtMost } from './wait-at-most.ts'

/** How long an early renewal may keep a caller whose credential is still good. */
const earlyRenewalWaitMs = 500
/** How long a caller whose credential has ended waits for another. */
const renewalWaitMs = 15_000

/** What a call came to: the credential, and which of the record's actions it was. */
type Settled = { readonly remembered: RememberedCredential; readonly action: AuditAction }

/** A renewal as all who waited for it get it: thousands may, so it is formatted once. */
type Landed = { readonly remembered: RememberedCredential; readonly asked: boolean }

/** How long nobody tries again after an early renewal failed: the credential is good, and every call comes by here. */
const earlyRetryMs = 1000

/** What the record of a call will say, known only as the call goes on. */
type Attempt = { action: AuditAction }

/**
 * Finds the credential of one person for one upstream, in this order and never another's or a shared one:
 *
 * 1. a stored credential that is not close to its end;
 * 2. its renewal: the refresh token redeemed, or the subject token exchanged again;
 * 3. a first exchange of the subject token;
 * 4. `connect_required`: the person must connect;
 * 5. a refusal.
 *
 * The policy hook is asked for every caller and before anything else: who is refused gets neither a token request made in
 * their name nor a connect link. Every call leaves one record.
 */
export function createCredentialResolver(ports: {
  readonly credentials: CredentialStore
  readonly memory: CredentialMemory
  readonly refresh: RefreshCoordinator
  readonly acquirer: CredentialAcquirer
  readonly connector: Pick<OAuthConnector, 'offerLink'>
  readonly serverChanges: ServerChanges
  readonly policy: PolicyHook | undefined
  readonly records: ResolutionRecorder
  readonly storage: StorageHealth
  readonly clock: Clock
}): CredentialResolver & {
  /**
   * Resolves when no renewal or exchange is under way. A stop waits for it: a caller may have left, or was served meanwhile, and
   * the refresh token that the answer brings is the only one there is.
   */
  readonly idle: () => Promise<void>
  readonly renewAhead: (request: ResolveRequest, generation: number) => Promise<void>
  /**
   * The connection was removed, here or elsewhere: calls from now on join no work that was begun before. Without a key this goes
   * for every connection.
   */
  readonly startAfresh: (key?: string) => void
} {
  const { credentials, memory, refresh, acquirer, connector, serverChanges } = ports
  const { policy, records, storage, clock } = ports
  const flights = createSingleFlight<Landed>()
  /** The subject token that a flight exchanges. */
  const inputs = new WeakMap<Promise<Landed>, Secret | undefined>()
  const earlyRetryAtMs = new LRUCache<string, number>({ max: 10_000 })
  /** Exchanged credentials that were found not to open, and that the next exchange replaces. */
  const knownCorrupt = new LRUCache<string, true>({ max: 10_000 })

  function resolve(request: ResolveRequest): ResolvedCredential | Promise<ResolvedCredential> {
    return resolveWarm(request) ?? resolveRecorded(request)
  }

  /** The path of nearly every call: no promise, no statement, nothing opened. Undefined where anything is to be asked or done. */
  function resolveWarm(request: ResolveRequest): ResolvedCredential | undefined {
    const { person, upstream } = request
    if (policy !== undefined || request.rejected !== undefined) return undefined
    if (!mayUseUpstream(person, upstream) || !storage.isFresh()) return undefined
    const remembered = memory.get(memoryKey(person, upstream.name))
    if (remembered === undefined) return undefined
    if (clock.now().getTime() >= remembered.validUntilMs) return undefined
    records.succeeded(request, 'inject')
    return remembered.resolved
  }

  async function resolveRecorded(request: ResolveRequest): Promise<ResolvedCredential> {
    const attempt: Attempt = { action: 'inject' }
    try {
      if (!mayUseUpstream(request.person, request.upstream)) throw new BrokerError('policy_denied')
      await refuseAgainstPolicy(request)
      const outcome = await settle(request, attempt)
      records.succeeded(request, outcome.action)
      return outcome.remembered.resolved
    } catch (error) {
      const goesOn = request.mayGoOnUnconnected === true && isBrokerError(error, 'connect_required')
      if (!goesOn) records.failed(request, attempt.action, error)
      if (isBrokerError(error, 'credential_corrupt')) records.corrupt(request)
      throw error
    }
  }

  async function settle(asked: ResolveRequest, attempt: Attempt): Promise<Settled> {
    const { person } = asked
    const isWritten = asked.upstream.credential.discovery === undefined
    const upstream = isWritten
      ? asked.upstream
      : await serverChanges.settled(asked.upstream, renewalWaitMs)
    const request = isWritten ? asked : { ...asked, upstream }
    const key = credentialKeyOf(person, upstream)
    const stored = await findStored(key, request)
    if (!('credential' in stored)) return acquireFirst(key, request, stored.unusable, attempt)
    const { credential } = stored
    const freshness = freshnessOf(credential, upstream.credential, clock.now())
    if (freshness === 'ended') return renewEnded(key, request, credential, attempt)
    if (request.rejected === credential.fingerprint) {
      return renewRejected(key, request, credential, attempt)
    }
    return freshness === 'ending'
      ? renewEarly(key, request, stored, attempt)
      : { remembered: stored, action: 'inject' }
  }

  /** The stored credential, or why there is none that may be used. */
  async function findStored(
    key: CredentialKey,
    request: ResolveRequest,
  ): Promise<RememberedCredential | { readonly unusable: Unusable }> {
    // What was not heard from for long has changes that are not known here.
    if (!storage.isFresh()) return readStored(key, request.upstream)
    const remembered = memory.get(memoryKeyOf(key))
    return remembered ?? memory.load(memoryKeyOf(key), () => readStored(key, request.upstream))
  }

  async function readStored(
    key: CredentialKey,
    upstream: Upstream,
  ): Promise<RememberedCredential | { readonly unusable: Unusable }> {
    const found = await findRow(key, upstream)
    if (found === undefined) return { unusable: 'not_connected' }
    if (found === 'corrupt') return { unusable: found }
    const { connection, credential } = found
    if (!isSameBinding(connection.binding, bindingOf(upstream.credential))) {
      return { unusable: 'configuration_changed' }
    }
    if (credential === undefined) return { unusable: connection.reason ?? 'refresh_failed' }
    return remember(credential, upstream.credential)
  }

  /**
   * The row, or `corrupt` where the next exchange may replace it: nobody can connect such an upstream again. The call that finds
   * it so says so, and leaves the operator's record; those after it go on.
   */
  async function findRow(key: CredentialKey, upstream: Upstream) {
    try {
      return await credentials.find(key)
    } catch (error) {
      if (!isExchanged(upstream) || !isBrokerError(error, 'credential_corrupt')) throw error
      if (knownCorrupt.has(memoryKeyOf(key))) return 'corrupt'
      knownCorrupt.set(memoryKeyOf(key), true)
      throw error
    }
  }

  async function acquireFirst(
    key: CredentialKey,
    request: ResolveRequest,
    reason: Unusable,
    attempt: Attempt,
  ): Promise<Settled> {
    // An exchange needs nobody: it is simply made. Anything else asks for its person.
    if (reason !== 'corrupt' && !isExchanged(request.upstream)) {
      const refusal = new BrokerError('connect_required', { reason })
      throw await connectRequired(request, refusal, attempt)
    }
    const work = () => exchange(key, request, { kind: 'none', reason })
    return landed(work, key, 'acquire', request, attempt)
  }

  /** Joins the flight of this person and upstream, or starts it. */
  function join(
    key: CredentialKey,
    request: ResolveRequest,
    work: () => Promise<Renewal>,
  ): Flight<Landed> {
    const { upstream } = request
    const flight = flights.join(memoryKeyOf(key), async () => {
      const { credential, asked } = ofThisConfiguration(await work(), upstream)
      return { remembered: remember(credential, upstream.credential), asked }
    })
    if (flight.started) inputs.set(flight.result, request.subjectToken)
    return flight
  }

  /** The credential is good for a little longer: nobody waits long for its successor, and none is needed to serve. */
  async function renewEarly(
    key: CredentialKey,
    request: ResolveRequest,
    stored: RememberedCredential,
    attempt: Attempt,
  ): Promise<Settled> {
    /** Not a moment beyond its end, which may have come while its successor was waited for. */
    const serveStored = (): Settled | Promise<Settled> =>
      isEnded(stored.credential, clock.now())
        ? renewEnded(key, request, stored.credential, attempt)
        : { remembered: stored, action: 'inject' }
    const nowMs = clock.now().getTime()
    if (nowMs < (earlyRetryAtMs.get(memoryKeyOf(key)) ?? 0)) return serveStored()
    const work = () => renewal(key, request, stored.credential, { early: true })
    const flight = join(key, request, work)
    let result: Landed | 'late'
    try {
      result = await waitAtMost(flight.result, earlyRenewalWaitMs)
    } catch (error) {
      attempt.action = flight.started ? 'refresh' : 'inject'
      if (endsConnection(error)) throw await connectRequired(request, error, attempt)
      // Whatever else it was, the stored credential is as good as before, until its end.
      earlyRetryAtMs.set(memoryKeyOf(key), clock.now().getTime() + earlyRetryMs)
      return serveStored()
    }
    if (result !== 'late') {
      return settled(result, flight.started ? 'refresh' : 'inject')
    }
    if (flight.started) records.whenDone(request, 'refresh', flight.result)
    // One has waited for all of them; those of the next second are served at once.
    earlyRetryAtMs.set(memoryKeyOf(key), clock.now().getTime() + earlyRetryMs)
    return serveStored()
  }

  async function renewEnded(
    key: CredentialKey,
    request: ResolveRequest,
    credential: Credential,
    attempt: Attempt,
  ): Promise<Settled> {
    const work = () => renewal(key, request, credential)
    return landed(work, key, 'refresh', request, attempt)
  }

  /** The upstream answered 401 to this very credential: one renewal for all who saw it, and not too many of them. */
  async function renewRejected(
    key: CredentialKey,
    request: ResolveRequest,
    credential: Credential,
    attempt: Attempt,
  ): Promise<Settled> {
    const work = async () => {
      await serverChanges.refuseIfChanged(request.upstream, credential.binding)
      return renewal(key, request, credential, { forced: true })
    }
    return landed(work, key, 'refresh', request, attempt)
  }

  /** Waits for a flight that the caller cannot do without. */
  async function landed(
    work: () => Promise<Renewal>,
    key: CredentialKey,
    action: 'acquire' | 'refresh',
    request: ResolveRequest,
    attempt: Attempt,
  ): Promise<Settled> {
    const giveUpAtMs = clock.now().getTime() + renewalWaitMs
    for (;;) {
      const flight = join(key, request, work)
      attempt.action = flight.started ? action : 'inject'
      const leftMs = Math.max(0, giveUpAtMs - clock.now().getTime())
      try {
        const result = await waitAtMost(flight.result, leftMs)
        if (result !== 'late') return settled(result, attempt.action)
      } catch (error) {
        // Refused for the subject token of another call, or its lack of one: this one has its own.
        if (hasOtherInput(flight, request) && isAboutInput(error)) continue
        throw await connectRequired(request, error, attempt)
      }
      if (flight.started) records.whenDone(request, action, flight.result)
      throw upstreamUnavailable(1)
    }
  }

  function hasOtherInput(flight: Flight<Landed>, { subjectToken }: ResolveRequest): boolean {
    if (flight.started || subjectToken === undefined) return false
    return inputs.get(flight.result)?.reveal() !== subjectToken.reveal()
  }

  async function renewal(
    key: CredentialKey,
    request: ResolveRequest,
    current: Credential,
    options: RenewalOptions = {},
  ): Promise<Renewal> {
    const { upstream } = request
    if (isExchanged(upstream)) return exchange(key, request, { kind: 'stored', current }, options)
    if (!current.renewable) throw nothingToRenewWith()
    try {
      return await refresh.renew(key, upstream, current, options)
    } catch (error) {
      throw await serverChanges.verdictOn(error, upstream, current.binding)
    }
  }

  /** Exchanges the subject token; without one at hand, a refresh token that came with the last exchange does as well. */
  async function exchange(
    key: CredentialKey,
    request: ResolveRequest,
    before: Before,
    options: RenewalOptions = {},
  ): Promise<Renewal> {
    const { person, upstream } = request
    const current = before.kind === 'stored' ? before.current : undefined
    // Looked for inside the flight: the one before may have ended between this caller's look and its joining.
    const findNewer = () => newerThan(current, key, upstream)
    const subjectToken = await acquirer.subjectToken(person, upstream, request.subjectToken)
    if (subjectToken !== undefined) {
      const exchanged = { ...options, key, upstream, subjectToken, current, findNewer }
      const outcome = await acquirer.acquire(exchanged)
      knownCorrupt.delete(memoryKeyOf(key))
      return outcome
    }
    const newer = await findNewer()
    if (newer !== undefined) return { credential: newer, asked: false }
    if (current?.renewable === true) {
      return refresh.renew(key, upstream, current, options)
    }
    if (before.kind === 'stored') throw nothingToRenewWith()
    throw before.reason === 'corrupt'
      ? new BrokerError('credential_corrupt')
      : new BrokerError('connect_required', { reason: before.reason })
  }

  async function newerThan(
    current: Credential | undefined,
    key: CredentialKey,
    upstream: Upstream,
  ): Promise<Credential | undefined> {
    const found = await findRow(key, upstream)
    const credential = found === 'corrupt' ? undefined : found?.credential
    if (credential === undefined || credential.generation === current?.generation) return undefined
    if (!isSameBinding(credential.binding, bindingOf(upstream.credential))) return undefined
    const freshness = freshnessOf(credential, upstream.credential, clock.now())
    return freshness === 'ended' ? undefined : credential
  }

  /**
   * Renews what is stored ahead of its end, for nobody in particular, where it still has that generation. Joins whoever is at it
   * already. Leaves a record of its own where a server was asked.
   */
  async function renewAhead(request: ResolveRequest, generation: number): Promise<void> {
    const { person, upstream } = request
    const key = credentialKeyOf(person, upstream)
    records.admit()
    try {
      const found = await findRow(key, upstream)
      const credential = found === 'corrupt' ? undefined : found?.credential
      if (credential === undefined || credential.generation !== generation) return
      if (!isSameBinding(credential.binding, bindingOf(upstream.credential))) return
      const work = () => renewal(key, request, credential, { early: true })
      const flight = join(key, request, work)
      if (flight.started) records.whenDone(request, 'refresh', flight.result)
      await flight.result
    } catch (error) {
      if (isBrokerError(error, 'credential_corrupt')) records.corrupt(request)
      throw error
    }
  }

  async function refuseAgainstPolicy(request: ResolveRequest): Promise<void> {
    if (policy === undefined) return
    const { person, service, upstream, requestId } = request
    const { issuer, userId, email, roles, identity } = person
    const question = {
      // A copy: what a hook does to it must not change the person whom later calls are made for.
      person: { issuer, userId, email, roles: [...roles], identity },
      service: service === undefined ? undefined : { id: service.id },
      upstream: upstream.name,
      requestId,
    }
    if (await isAllowedByPolicy(policy, question)) return
    throw new BrokerError('policy_denied')
  }

  /** Gives a connect_required refusal its link; any other error passes as it is. */
  async function connectRequired(
    request: ResolveRequest,
    error: unknown,
    attempt: Attempt,
  ): Promise<unknown> {
    if (!isBrokerError(error, 'connect_required')) return error
    attempt.action = 'connect'
    if (error.details.connectUrl !== undefined) return error
    const { person, upstream } = request
    const claims = challengeOf(error, upstream)
    const connectUrl = await connector.offerLink({ person, upstream, claims })
    return new BrokerError('connect_required', { ...error.details, connectUrl, cause: error })
  }

  return {
    resolve,
    renewAhead,
    idle: () => flights.idle(),
    startAfresh: (key) => flights.closeDoors(key),
  }
}

/** What an exchange starts from: a credential to replace, or why there is none. */
type Before =
  | { readonly kind: 'stored'; readonly current: Credential }
  | { readonly kind: 'none'; readonly reason: Unusable }

/** Why there is no stored credential that may be used. */
type Unusable = ConnectionReason | 'corrupt'

function settled({ remembered, asked }: Landed, action: AuditAction): Settled {
  // A flight that found another's work made no request of its own.
  return { remembered, action: asked ? action : 'inject' }
}

/**
 * While replicas are changed to another configuration, one may find what another has stored. It is judged as any row of another
 * configuration is: not ours to use, and not ours to touch.
 */
function ofThisConfiguration(renewal: Renewal, upstream: Upstream): Renewal {
  if (isSameBinding(renewal.credential.binding, bindingOf(upstream.credential))) return renewal
  if (isExchanged(upstream)) throw upstreamUnavailable(1)
  throw new BrokerError('connect_required', { reason: 'configuration_changed' })
}

function isEnded({ expiresAt }: Credential, now: Date): boolean {
  return expiresAt !== undefined && expiresAt <= now
}

/**
 * What the person's next sign-in has to answer. A server that asks for the person behind an exchange without saying what it
 * wants gets a new sign-in all the same: there is nothing else that the person could do.
 */
function challengeOf({ details }: BrokerError, upstream: Upstream): Secret | undefined {
  const asksPerson = details.reason === 'insufficient_scope' && isExchanged(upstream)
  return details.claims ?? (asksPerson ? noClaims : undefined)
}

const noClaims = new Secret('{}')

function nothingToRenewWith(): BrokerError {
  return new BrokerError('connect_required', { reason: 'credential_expired' })
}

/** Whether an early renewal found that the connection is over, so that what is stored may not be used either. */
function endsConnection(error: unknown): boolean {
  if (!isBrokerError(error, 'connect_required')) return false
  const { reason } = error.details
  return reason !== 'credential_expired' && reason !== 'insufficient_scope'
}

/** Whether an exchange failed for what this very call presented, so that it says nothing about another's. */
function isAboutInput(error: unknown): boolean {
  return isBrokerError(error, 'invalid_subject_token', 'connect_required')
}
