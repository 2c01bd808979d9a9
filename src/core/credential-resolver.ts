import { LRUCache } from 'lru-cache'
import type { AuditAction } from './audit-event.ts'
import { type Credential, credentialKeyOf, freshnessOf } from './credential.ts'
import { type CredentialMemory, memoryKey, type RememberedCredential } from './credential-memory.ts'
import { BrokerError, isBrokerError } from './errors.ts'
import { isAllowedByPolicy, type PolicyHook } from './policy.ts'
import type {
  CredentialResolver,
  OAuthConnector,
  ResolvedCredential,
  ResolveRequest,
} from './ports/broker-services.ts'
import type { Clock } from './ports/clock.ts'
import type { StorageHealth } from './ports/storage-health.ts'
import { upstreamUnavailable } from './refusals.ts'
import type { Landed, Renewals } from './renewals.ts'
import type { ResolutionRecorder } from './resolution-recorder.ts'
import { Secret } from './secret.ts'
import type { ServerChanges } from './server-changes.ts'
import type { Flight } from './single-flight.ts'
import type { StoredCredentials, Unusable } from './stored-credentials.ts'
import { isExchanged, mayUseUpstream, type Upstream } from './upstream.ts'
import { waitAtMost } from './wait-at-most.ts'

/** How long an early renewal may keep a caller whose credential is still good. */
const earlyRenewalWaitMs = 500
/** How long a caller whose credential has ended waits for another. */
const renewalWaitMs = 15_000

/** What a call came to: the credential, and which of the record's actions it was. */
type Settled = { readonly remembered: RememberedCredential; readonly action: AuditAction }

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
  readonly stored: StoredCredentials
  readonly memory: Pick<CredentialMemory, 'get'>
  readonly renewals: Pick<Renewals, 'acquire' | 'renew' | 'hasOtherInput'>
  readonly connector: Pick<OAuthConnector, 'offerLink'>
  readonly serverChanges: ServerChanges
  readonly policy: PolicyHook | undefined
  readonly records: ResolutionRecorder
  readonly storage: StorageHealth
  readonly clock: Clock
}): CredentialResolver {
  const { stored, memory, renewals, connector, serverChanges } = ports
  const { policy, records, storage, clock } = ports
  const earlyRetryAtMs = new LRUCache<string, number>({ max: 10_000 })

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
    const found = await stored.find(credentialKeyOf(person, upstream), upstream)
    if (!('credential' in found)) return acquireFirst(request, found.unusable, attempt)
    const { credential } = found
    const freshness = freshnessOf(credential, upstream.credential, clock.now())
    if (freshness === 'ended') return renewEnded(request, credential, attempt)
    if (request.rejected === credential.fingerprint) {
      return renewRejected(request, credential, attempt)
    }
    return freshness === 'ending'
      ? renewEarly(request, found, attempt)
      : { remembered: found, action: 'inject' }
  }

  async function acquireFirst(
    request: ResolveRequest,
    reason: Unusable,
    attempt: Attempt,
  ): Promise<Settled> {
    // An exchange needs nobody: it is simply made. Anything else asks for its person.
    if (reason !== 'corrupt' && !isExchanged(request.upstream)) {
      const refusal = new BrokerError('connect_required', { reason })
      throw await connectRequired(request, refusal, attempt)
    }
    return landed(() => renewals.acquire(request, reason), 'acquire', request, attempt)
  }

  /** The credential is good for a little longer: nobody waits long for its successor, and none is needed to serve. */
  async function renewEarly(
    request: ResolveRequest,
    remembered: RememberedCredential,
    attempt: Attempt,
  ): Promise<Settled> {
    const { credential } = remembered
    const key = memoryKey(request.person, request.upstream.name)
    /** Not a moment beyond its end, which may have come while its successor was waited for. */
    const serveStored = (): Settled | Promise<Settled> =>
      isEnded(credential, clock.now())
        ? renewEnded(request, credential, attempt)
        : { remembered, action: 'inject' }
    const nowMs = clock.now().getTime()
    if (nowMs < (earlyRetryAtMs.get(key) ?? 0)) return serveStored()
    const flight = renewals.renew(request, credential, { early: true })
    let result: Landed | 'late'
    try {
      result = await waitAtMost(flight.result, earlyRenewalWaitMs)
    } catch (error) {
      attempt.action = flight.started ? 'refresh' : 'inject'
      if (endsConnection(error)) throw await connectRequired(request, error, attempt)
      // Whatever else it was, the stored credential is as good as before, until its end.
      earlyRetryAtMs.set(key, clock.now().getTime() + earlyRetryMs)
      return serveStored()
    }
    if (result !== 'late') {
      return settled(result, flight.started ? 'refresh' : 'inject')
    }
    if (flight.started) records.whenDone(request, 'refresh', flight.result)
    // One has waited for all of them; those of the next second are served at once.
    earlyRetryAtMs.set(key, clock.now().getTime() + earlyRetryMs)
    return serveStored()
  }

  async function renewEnded(
    request: ResolveRequest,
    credential: Credential,
    attempt: Attempt,
  ): Promise<Settled> {
    return landed(() => renewals.renew(request, credential), 'refresh', request, attempt)
  }

  /** The upstream answered 401 to this very credential: one renewal for all who saw it, and not too many of them. */
  async function renewRejected(
    request: ResolveRequest,
    credential: Credential,
    attempt: Attempt,
  ): Promise<Settled> {
    const join = () => renewals.renew(request, credential, { forced: true })
    return landed(join, 'refresh', request, attempt)
  }

  /** Waits for a flight that the caller cannot do without. */
  async function landed(
    join: () => Flight<Landed>,
    action: 'acquire' | 'refresh',
    request: ResolveRequest,
    attempt: Attempt,
  ): Promise<Settled> {
    const giveUpAtMs = clock.now().getTime() + renewalWaitMs
    for (;;) {
      const flight = join()
      attempt.action = flight.started ? action : 'inject'
      const leftMs = Math.max(0, giveUpAtMs - clock.now().getTime())
      try {
        const result = await waitAtMost(flight.result, leftMs)
        if (result !== 'late') return settled(result, attempt.action)
      } catch (error) {
        // Refused for the subject token of another call, or its lack of one: this one has its own.
        if (renewals.hasOtherInput(flight, request) && isAboutInput(error)) continue
        throw await connectRequired(request, error, attempt)
      }
      if (flight.started) records.whenDone(request, action, flight.result)
      throw upstreamUnavailable(1)
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

  return { resolve }
}

function settled({ remembered, asked }: Landed, action: AuditAction): Settled {
  // A flight that found another's work made no request of its own.
  return { remembered, action: asked ? action : 'inject' }
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
