import type { AuditAction } from './audit-event.ts'
import { type Credential, type CredentialKey, freshnessOf } from './credential.ts'
import type { CredentialAcquirer } from './credential-acquirer.ts'
import {
  type CredentialMemory,
  memoryKey,
  memoryKeyOf,
  type RememberedCredential,
  remember,
} from './credential-memory.ts'
import { BrokerError, isBrokerError } from './errors.ts'
import type { createForcedRenewalLimit } from './forced-renewals.ts'
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
import { type RefreshCoordinator, unavailable } from './refresh-coordinator.ts'
import type { ResolutionRecorder } from './resolution-recorder.ts'
import { createSingleFlight, type Flight, waitAtMost } from './single-flight.ts'
import {
  bindingOf,
  isConnectable,
  isSameBinding,
  mayUseUpstream,
  type Upstream,
} from './upstream.ts'

/** How long an early renewal may keep a caller whose credential is still good. */
const earlyRenewalWaitMs = 500
/** How long a caller whose credential has ended waits for another. */
const renewalWaitMs = 15_000

/** What a call came to: the credential, and which of the record's actions it was. */
type Settled = { readonly remembered: RememberedCredential; readonly action: AuditAction }

/** What a flight brought; `asked` where a server was asked for it. */
type Renewal = { readonly credential: Credential; readonly asked: boolean }

/**
 * Finds the credential of one person for one upstream, in this order and never another's or a shared one:
 *
 * 1. a stored credential that is not close to its end;
 * 2. its renewal: the refresh token redeemed, or the subject token exchanged again;
 * 3. a first exchange of the subject token;
 * 4. `connect_required`: the person must connect;
 * 5. a refusal.
 *
 * The policy hook is asked for every caller, after the credential is there and before it leaves. Every call leaves one record.
 */
export function createCredentialResolver(ports: {
  readonly credentials: CredentialStore
  readonly memory: CredentialMemory
  readonly refresh: RefreshCoordinator
  readonly acquirer: CredentialAcquirer
  readonly connector: Pick<OAuthConnector, 'offerLink'>
  readonly forcedRenewals: ReturnType<typeof createForcedRenewalLimit>
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
} {
  const { credentials, memory, refresh, acquirer, connector, forcedRenewals } = ports
  const { policy, records, storage, clock } = ports
  const flights = createSingleFlight<Renewal>()

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
      const outcome = await settle(request, attempt)
      await refuseAgainstPolicy(request, attempt)
      records.succeeded(request, outcome.action)
      return outcome.remembered.resolved
    } catch (error) {
      records.failed(request, attempt.action, error)
      throw error
    }
  }

  async function settle(request: ResolveRequest, attempt: Attempt): Promise<Settled> {
    const { person, upstream } = request
    if (!mayUseUpstream(person, upstream)) throw new BrokerError('policy_denied')
    const key: CredentialKey = {
      issuer: person.issuer,
      userId: person.userId,
      upstream: upstream.name,
    }
    const stored = await findStored(key, request, attempt)
    if (stored === undefined) return acquireFirst(key, request, attempt)
    const { credential } = stored
    if (request.rejected === credential.fingerprint) {
      return renewRejected(key, request, credential, attempt)
    }
    switch (freshnessOf(credential, upstream.credential, clock.now())) {
      case 'valid':
        return { remembered: stored, action: 'inject' }
      case 'ending':
        return renewEarly(key, request, stored, attempt)
      case 'ended':
        return renewEnded(key, request, credential, attempt)
    }
  }

  /** The stored credential, if there is one that may be used at all. */
  async function findStored(
    key: CredentialKey,
    request: ResolveRequest,
    attempt: Attempt,
  ): Promise<RememberedCredential | undefined> {
    const remembered = storage.isFresh() ? memory.get(memoryKeyOf(key)) : undefined
    if (remembered !== undefined) return remembered
    const { upstream } = request
    let unusable: BrokerError | undefined
    const loaded = await memory.load(memoryKeyOf(key), async () => {
      const found = await findReportingCorruption(key, request)
      if (found === undefined) return undefined
      if (!isSameBinding(found.connection.binding, bindingOf(upstream.credential))) {
        unusable = new BrokerError('connect_required', { reason: 'configuration_changed' })
        return undefined
      }
      if (found.credential === undefined) {
        const reason = found.connection.reason ?? 'refresh_failed'
        unusable = new BrokerError('connect_required', { reason })
        return undefined
      }
      return remember(found.credential, upstream.credential)
    })
    // An exchange needs nobody: it is simply made again. Only a connection asks for its person.
    if (unusable !== undefined && isConnectable(upstream)) {
      throw await connectRequired(request, unusable, attempt)
    }
    return loaded
  }

  async function findReportingCorruption(
    key: CredentialKey,
    request: ResolveRequest,
  ): ReturnType<CredentialStore['find']> {
    try {
      return await credentials.find(key)
    } catch (error) {
      if (isBrokerError(error, 'credential_corrupt')) records.corrupt(request)
      throw error
    }
  }

  async function acquireFirst(
    key: CredentialKey,
    request: ResolveRequest,
    attempt: Attempt,
  ): Promise<Settled> {
    const { upstream } = request
    if (isConnectable(upstream)) {
      const refusal = new BrokerError('connect_required', { reason: 'not_connected' })
      throw await connectRequired(request, refusal, attempt)
    }
    const flight = flights.join(memoryKeyOf(key), () => exchange(key, request, undefined))
    return landed(flight, 'acquire', request, attempt)
  }

  /** The credential is good for a little longer: nobody waits long for its successor, and none is needed to serve. */
  async function renewEarly(
    key: CredentialKey,
    request: ResolveRequest,
    stored: RememberedCredential,
    attempt: Attempt,
  ): Promise<Settled> {
    const flight = flights.join(memoryKeyOf(key), () => renewal(key, request, stored.credential))
    const serveStored: Settled = { remembered: stored, action: 'inject' }
    try {
      const result = await waitAtMost(flight.result, earlyRenewalWaitMs)
      if (result === 'late') {
        if (flight.started) records.whenDone(request, flight.result)
        return serveStored
      }
      return settled(result, flight.started ? 'refresh' : 'inject', request.upstream)
    } catch (error) {
      if (
        isBrokerError(
          error,
          'upstream_unavailable',
          'upstream_misconfigured',
          'storage_unavailable',
        )
      ) {
        return serveStored
      }
      if (isBrokerError(error, 'invalid_subject_token') || isNothingToRenewWith(error)) {
        return serveStored
      }
      attempt.action = flight.started ? 'refresh' : 'inject'
      throw await connectRequired(request, error, attempt)
    }
  }

  async function renewEnded(
    key: CredentialKey,
    request: ResolveRequest,
    credential: Credential,
    attempt: Attempt,
  ): Promise<Settled> {
    const flight = flights.join(memoryKeyOf(key), () => renewal(key, request, credential))
    return landed(flight, 'refresh', request, attempt)
  }

  /** The upstream answered 401 to this very credential: one renewal for all who saw it, and not too many of them. */
  async function renewRejected(
    key: CredentialKey,
    request: ResolveRequest,
    credential: Credential,
    attempt: Attempt,
  ): Promise<Settled> {
    const flight = flights.join(memoryKeyOf(key), async () => {
      if (!forcedRenewals.take(memoryKeyOf(key))) return { credential, asked: false }
      return renewal(key, request, credential)
    })
    return landed(flight, 'refresh', request, attempt)
  }

  /** Waits for a flight that the caller cannot do without. */
  async function landed(
    flight: Flight<Renewal>,
    action: AuditAction,
    request: ResolveRequest,
    attempt: Attempt,
  ): Promise<Settled> {
    attempt.action = flight.started ? action : 'inject'
    const result = await endedWait(flight, request, attempt)
    return settled(result, attempt.action, request.upstream)
  }

  async function endedWait(
    flight: Flight<Renewal>,
    request: ResolveRequest,
    attempt: Attempt,
  ): Promise<Renewal> {
    try {
      const result = await waitAtMost(flight.result, renewalWaitMs)
      if (result !== 'late') return result
    } catch (error) {
      throw await connectRequired(request, error, attempt)
    }
    if (flight.started) records.whenDone(request, flight.result)
    throw unavailable(1)
  }

  async function renewal(
    key: CredentialKey,
    request: ResolveRequest,
    current: Credential,
  ): Promise<Renewal> {
    if (!isConnectable(request.upstream)) return exchange(key, request, current)
    if (!current.renewable) throw nothingToRenewWith()
    return { credential: await refresh.renew(key, request.upstream, current), asked: true }
  }

  /** Exchanges the subject token; without one at hand, a refresh token that came with the last exchange does as well. */
  async function exchange(
    key: CredentialKey,
    request: ResolveRequest,
    current: Credential | undefined,
  ): Promise<Renewal> {
    const { person, upstream } = request
    // Looked up again inside the flight: the one before may have ended between this caller's look and its joining.
    const newer = await newerThan(current, key, upstream)
    if (newer !== undefined) return { credential: newer, asked: false }
    const token = await acquirer.subjectToken(person, upstream, request.subjectToken)
    if (token !== undefined) {
      return {
        credential: await acquirer.acquire(key, upstream, person, token, current),
        asked: true,
      }
    }
    if (current?.renewable === true) {
      return { credential: await refresh.renew(key, upstream, current), asked: true }
    }
    throw current === undefined
      ? new BrokerError('connect_required', { reason: 'not_connected' })
      : nothingToRenewWith()
  }

  async function newerThan(
    current: Credential | undefined,
    key: CredentialKey,
    upstream: Upstream,
  ): Promise<Credential | undefined> {
    const found = await credentials.find(key)
    const credential = found?.credential
    if (credential === undefined || credential.generation === current?.generation) return undefined
    if (!isSameBinding(credential.binding, bindingOf(upstream.credential))) return undefined
    const freshness = freshnessOf(credential, upstream.credential, clock.now())
    return freshness === 'valid' ? credential : undefined
  }

  async function refuseAgainstPolicy(request: ResolveRequest, attempt: Attempt): Promise<void> {
    if (policy === undefined) return
    const { person, service, upstream, requestId } = request
    const question = {
      person,
      service: service === undefined ? undefined : { id: service.id },
      upstream: upstream.name,
      requestId,
    }
    if (await isAllowedByPolicy(policy, question)) return
    attempt.action = 'inject'
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
    const connectUrl = await connector.offerLink({ person, upstream, claims: undefined })
    return new BrokerError('connect_required', { ...error.details, connectUrl, cause: error })
  }

  return { resolve, idle: () => flights.idle() }
}

/** What the record of a call will say, known only as the call goes on. */
type Attempt = { action: AuditAction }

function settled(renewal: Renewal, action: AuditAction, upstream: Upstream): Settled {
  return {
    remembered: remember(renewal.credential, upstream.credential),
    // A flight that found another's work made no request of its own.
    action: renewal.asked ? action : 'inject',
  }
}

function nothingToRenewWith(): BrokerError {
  return new BrokerError('connect_required', { reason: 'credential_expired' })
}

function isNothingToRenewWith(error: unknown): boolean {
  return isBrokerError(error, 'connect_required') && error.details.reason === 'credential_expired'
}
