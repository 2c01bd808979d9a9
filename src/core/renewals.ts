import { type Credential, credentialKeyOf, freshnessOf } from './credential.ts'
import type { CredentialAcquirer } from './credential-acquirer.ts'
import { memoryKeyOf, type RememberedCredential, remember } from './credential-memory.ts'
import { BrokerError, isBrokerError } from './errors.ts'
import type { ResolveRequest } from './ports/broker-services.ts'
import type { Clock } from './ports/clock.ts'
import type { RefreshCoordinator, Renewal, RenewalOptions } from './refresh-coordinator.ts'
import { upstreamUnavailable } from './refusals.ts'
import type { ResolutionRecorder } from './resolution-recorder.ts'
import type { Secret } from './secret.ts'
import type { ServerChanges } from './server-changes.ts'
import { createSingleFlight, type Flight } from './single-flight.ts'
import type { StoredCredentials, Unusable } from './stored-credentials.ts'
import { bindingOf, isExchanged, isSameBinding, type Upstream } from './upstream.ts'

/** A renewal as all who waited for it get it: thousands may, so it is formatted once. */
export type Landed = { readonly remembered: RememberedCredential; readonly asked: boolean }

/**
 * Gets the credentials that are not stored, or not for long: by the refresh token, or by an exchange of the subject token.
 * Callers of one person and upstream join one flight, whatever each of them came for.
 */
export interface Renewals {
  /** A first exchange; `reason`: why nothing that is stored may be used. */
  acquire(request: ResolveRequest, reason: Unusable): Flight<Landed>

  /** The successor of a stored credential. */
  renew(request: ResolveRequest, current: Credential, options?: RenewalOptions): Flight<Landed>

  /** Whether another's flight exchanges another subject token than this call's, or none. */
  hasOtherInput(flight: Flight<Landed>, request: ResolveRequest): boolean

  /**
   * Renews what is stored ahead of its end, for nobody in particular, where it still has that generation. Joins whoever is at it
   * already. Leaves a record of its own where a server was asked.
   */
  renewAhead(request: ResolveRequest, generation: number): Promise<void>

  /**
   * Resolves when no renewal or exchange is under way. A stop waits for it: a caller may have left, or was served meanwhile, and
   * the refresh token that the answer brings is the only one there is.
   */
  idle(): Promise<void>

  /**
   * The connection was removed, here or elsewhere: calls from now on join no work that was begun before. Without a key this goes
   * for every connection.
   */
  startAfresh(key?: string): void
}

/** What an exchange starts from: a credential to replace, or why there is none. */
type Before =
  | { readonly kind: 'stored'; readonly current: Credential }
  | { readonly kind: 'none'; readonly reason: Unusable }

export function createRenewals(ports: {
  readonly stored: StoredCredentials
  readonly refresh: RefreshCoordinator
  readonly acquirer: CredentialAcquirer
  readonly serverChanges: ServerChanges
  readonly records: ResolutionRecorder
  readonly clock: Clock
}): Renewals {
  const { stored, refresh, acquirer, serverChanges, records, clock } = ports
  const flights = createSingleFlight<Landed>()
  /** The subject token that a flight exchanges. */
  const inputs = new WeakMap<Promise<Landed>, Secret | undefined>()

  /** Joins the flight of this person and upstream, or starts it. */
  function join(request: ResolveRequest, work: () => Promise<Renewal>): Flight<Landed> {
    const { person, upstream } = request
    const flight = flights.join(memoryKeyOf(credentialKeyOf(person, upstream)), async () => {
      const { credential, asked } = ofThisConfiguration(await work(), upstream)
      return { remembered: remember(credential, upstream.credential), asked }
    })
    if (flight.started) inputs.set(flight.result, request.subjectToken)
    return flight
  }

  const renew: Renewals['renew'] = (request, current, options = {}) =>
    join(request, () => renewal(request, current, options))

  async function renewal(
    request: ResolveRequest,
    current: Credential,
    options: RenewalOptions,
  ): Promise<Renewal> {
    const { person, upstream } = request
    if (options.forced === true) await serverChanges.refuseIfChanged(upstream, current.binding)
    if (isExchanged(upstream)) return exchange(request, { kind: 'stored', current }, options)
    if (!current.renewable) throw nothingToRenewWith()
    try {
      return await refresh.renew(credentialKeyOf(person, upstream), upstream, current, options)
    } catch (error) {
      throw await serverChanges.verdictOn(error, upstream, current.binding)
    }
  }

  /** Exchanges the subject token; without one at hand, a refresh token that came with the last exchange does as well. */
  async function exchange(
    request: ResolveRequest,
    before: Before,
    options: RenewalOptions = {},
  ): Promise<Renewal> {
    const { person, upstream } = request
    const key = credentialKeyOf(person, upstream)
    const current = before.kind === 'stored' ? before.current : undefined
    // Looked for inside the flight: the one before may have ended between this caller's look and its joining.
    const findNewer = () => newerThan(current, request)
    const subjectToken = await acquirer.subjectToken(person, upstream, request.subjectToken)
    if (subjectToken !== undefined) {
      const exchanged = { ...options, key, upstream, subjectToken, current, findNewer }
      const outcome = await acquirer.acquire(exchanged)
      stored.replaced(key)
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
    { person, upstream }: ResolveRequest,
  ): Promise<Credential | undefined> {
    const credential = await stored.findNow(credentialKeyOf(person, upstream), upstream)
    if (credential === undefined || credential.generation === current?.generation) return undefined
    const freshness = freshnessOf(credential, upstream.credential, clock.now())
    return freshness === 'ended' ? undefined : credential
  }

  async function renewAhead(request: ResolveRequest, generation: number): Promise<void> {
    const { person, upstream } = request
    records.admit()
    try {
      const credential = await stored.findNow(credentialKeyOf(person, upstream), upstream)
      if (credential?.generation !== generation) return
      const flight = renew(request, credential, { early: true })
      if (flight.started) records.whenDone(request, 'refresh', flight.result)
      await flight.result
    } catch (error) {
      if (isBrokerError(error, 'credential_corrupt')) records.corrupt(request)
      throw error
    }
  }

  return {
    acquire: (request, reason) => join(request, () => exchange(request, { kind: 'none', reason })),
    renew,
    hasOtherInput(flight, { subjectToken }) {
      if (flight.started || subjectToken === undefined) return false
      return inputs.get(flight.result)?.reveal() !== subjectToken.reveal()
    },
    renewAhead,
    idle: () => flights.idle(),
    startAfresh: (key) => flights.closeDoors(key),
  }
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

function nothingToRenewWith(): BrokerError {
  return new BrokerError('connect_required', { reason: 'credential_expired' })
}
