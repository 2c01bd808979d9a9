import { LRUCache } from 'lru-cache'
import type { Credential, CredentialKey, TokenSet } from './credential.ts'
import { memoryKeyOf } from './credential-memory.ts'
import type { CredentialMemory } from './credential-memory.ts'
import { BrokerError, isBrokerError } from './errors.ts'
import { AcquisitionFailure, type FailureVerdict } from './failure-verdict.ts'
import type { AcquisitionMethod } from './ports/acquisition-method.ts'
import type { Clock } from './ports/clock.ts'
import type { CredentialStore, RenewalClaim } from './ports/credential-store.ts'
import { revokeTokens } from './revoke-tokens.ts'
import type { TokenEndpointPauses } from './token-endpoint-pauses.ts'
import { bindingOf, type Upstream } from './upstream.ts'

/**
 * Redeems a refresh token once per credential generation.
 *
 * 1. The claim: one statement takes the lease on the generation and commits the intent to send. Without it nothing is sent.
 * 2. The request, holding neither a connection nor a transaction.
 * 3. The commit, where the generation is still the one whose token was used: a late success wins over another's failure, and
 *    a row that was disconnected meanwhile stays away (its new token is revoked).
 *
 * Callers join in one process through the resolver's flights; over several processes the claim decides.
 */
export interface RefreshCoordinator {
  /**
   * `asked`: this call made the request; false where another replica's was found.
   * @throws BrokerError connect_required (the grant is dead, or the server asks the person for something: then with its
   * challenge), upstream_unavailable (passing), upstream_misconfigured, policy_denied, storage_unavailable.
   */
  renew(key: CredentialKey, upstream: Upstream, current: Credential): Promise<Renewal>
}

export type Renewal = { readonly credential: Credential; readonly asked: boolean }

/** Tokens on their way into the store. */
type Arrived = { readonly claim: RenewalClaim; readonly tokens: TokenSet }

/** Renewed credentials that wait for the database, at most. */
const maxUnsaved = 10_000

/** The database's clock decides what is due; a time long gone is due on any clock. */
const due = new Date(0)

/** How long another holder of the lease is waited for before the caller is sent away. */
const leasedRetryAfterSeconds = 1

export function createRefreshCoordinator(ports: {
  readonly credentials: CredentialStore
  readonly memory: CredentialMemory
  readonly methods: Readonly<Record<Upstream['credential']['mode'], AcquisitionMethod>>
  readonly pauses: TokenEndpointPauses
  readonly clock: Clock
}): RefreshCoordinator {
  const { credentials, memory, methods, pauses, clock } = ports
  const unsaved = new LRUCache<string, Arrived>({ max: maxUnsaved })

  async function renew(
    key: CredentialKey,
    upstream: Upstream,
    current: Credential,
  ): Promise<Renewal> {
    const arrived = unsaved.get(memoryKeyOf(key))
    if (arrived?.claim.generation === current.generation) {
      return { credential: await save(key, upstream, arrived), asked: false }
    }
    refuseWhilePaused(key, upstream)
    const claim = await credentials.claimRenewal(key, current.generation)
    if (claim === undefined) {
      memory.forget(memoryKeyOf(key))
      return { credential: await renewedByAnother(key, current), asked: false }
    }
    const end = current.expiresAt
    if (claim.afterLostAnswer && end !== undefined && !maySendAgainNow(upstream, current)) {
      // A process died between its send and its answer: the token may be spent, and what is still good is used up first.
      await credentials.failRenewal(key, claim, {
        kind: 'retry',
        nextTryAt: end,
        outcomeKnown: false,
      })
      throw unavailable((end.getTime() - clock.now().getTime()) / 1000)
    }
    return redeem(key, upstream, current, claim)
  }

  function refuseWhilePaused(key: CredentialKey, upstream: Upstream): void {
    const server = bindingOf(upstream.credential).authorizationServer
    const seconds = pauses.remainingSeconds(server, memoryKeyOf(key))
    if (seconds !== undefined) throw unavailable(seconds)
  }

  /** The claim failed: another replica is at it, has done it, or the next try is not due. */
  async function renewedByAnother(key: CredentialKey, current: Credential): Promise<Credential> {
    const found = await credentials.find(key)
    if (found === undefined) throw new BrokerError('connect_required', { reason: 'not_connected' })
    const { connection, credential } = found
    if (credential === undefined) {
      throw new BrokerError('connect_required', { reason: connection.reason ?? 'refresh_failed' })
    }
    if (credential.generation !== current.generation) return credential
    const waitMs = (connection.nextTryAt?.getTime() ?? 0) - clock.now().getTime()
    throw unavailable(waitMs > 0 ? waitMs / 1000 : leasedRetryAfterSeconds)
  }

  async function redeem(
    key: CredentialKey,
    upstream: Upstream,
    current: Credential,
    claim: RenewalClaim,
  ): Promise<Renewal> {
    const method = methods[upstream.credential.mode]
    let tokens: TokenSet
    try {
      tokens = await method.refresh(upstream, claim.refreshToken, claim.scopes)
    } catch (error) {
      if (!(error instanceof AcquisitionFailure)) throw error
      return failed(key, upstream, current, claim, error)
    }
    pauses.succeeded(memoryKeyOf(key))
    return { credential: await save(key, upstream, { claim, tokens }), asked: true }
  }

  /** The old refresh token may be spent, so that what a database cannot take at the moment is kept for the next call. */
  async function save(
    key: CredentialKey,
    upstream: Upstream,
    arrived: Arrived,
  ): Promise<Credential> {
    const { claim, tokens } = arrived
    const scopes = tokens.scopes ?? claim.scopes
    let renewed: Credential | undefined
    try {
      renewed = await credentials.commitRenewal(key, claim, { tokens, scopes })
    } catch (error) {
      if (isBrokerError(error, 'storage_unavailable')) unsaved.set(memoryKeyOf(key), arrived)
      throw error
    }
    unsaved.delete(memoryKeyOf(key))
    memory.forget(memoryKeyOf(key))
    return renewed ?? superseded(key, upstream, tokens)
  }

  /** The row moved on while the server answered. */
  async function superseded(
    key: CredentialKey,
    upstream: Upstream,
    tokens: TokenSet,
  ): Promise<Credential> {
    const found = await credentials.find(key)
    if (found?.credential !== undefined) return found.credential
    // Disconnected meanwhile: what arrived must not live on at the server.
    void revokeTokens(methods[upstream.credential.mode], upstream, tokens)
    throw new BrokerError('connect_required', { reason: 'not_connected' })
  }

  async function failed(
    key: CredentialKey,
    upstream: Upstream,
    current: Credential,
    claim: RenewalClaim,
    failure: AcquisitionFailure,
  ): Promise<Renewal> {
    const { verdict } = failure
    switch (verdict.kind) {
      case 'reconnect':
      case 'subject_token_refused': {
        const reason = claim.afterLostAnswer ? 'refresh_outcome_unknown' : 'refresh_failed'
        await credentials.failRenewal(key, claim, { kind: 'reconnect', reason })
        memory.forget(memoryKeyOf(key))
        throw new BrokerError('connect_required', { reason, cause: failure })
      }
      case 'interaction_required':
        await release(key, claim)
        throw new BrokerError('connect_required', {
          reason: 'insufficient_scope',
          ...(verdict.claims === undefined ? {} : { claims: verdict.claims }),
          cause: failure,
        })
      case 'denied':
        await release(key, claim)
        throw new BrokerError('policy_denied', { cause: failure })
      case 'misconfigured':
        await release(key, claim)
        throw new BrokerError('upstream_misconfigured', { cause: failure })
      case 'retry_at':
        return passing(key, upstream, current, claim, verdict, failure)
    }
  }

  /**
   * The grant is as good as before, and time alone does not mend what stood in its way, so no time is waited for: whoever
   * puts it right is served at the next call.
   */
  function release(key: CredentialKey, claim: RenewalClaim): Promise<void> {
    return credentials.failRenewal(key, claim, {
      kind: 'retry',
      nextTryAt: due,
      outcomeKnown: true,
    })
  }

  async function passing(
    key: CredentialKey,
    upstream: Upstream,
    current: Credential,
    claim: RenewalClaim,
    verdict: Extract<FailureVerdict, { kind: 'retry_at' }>,
    cause: AcquisitionFailure,
  ): Promise<Renewal> {
    const lost = verdict.answer === 'lost'
    const again = lost && !claim.afterLostAnswer && maySendAgainNow(upstream, current)
    const nextTryAt = again ? due : nextTry(key, upstream, current, claim, verdict)
    await credentials.failRenewal(key, claim, { kind: 'retry', nextTryAt, outcomeKnown: !lost })
    if (again) return renew(key, upstream, current)
    throw unavailable((nextTryAt.getTime() - clock.now().getTime()) / 1000, cause)
  }

  function nextTry(
    key: CredentialKey,
    upstream: Upstream,
    current: Credential,
    claim: RenewalClaim,
    verdict: Extract<FailureVerdict, { kind: 'retry_at' }>,
  ): Date {
    const nextTryAt = pauseAfter(key, upstream, verdict)
    const end = current.expiresAt
    const firstLoss = verdict.answer === 'lost' && !claim.afterLostAnswer
    if (!firstLoss || end === undefined) return nextTryAt
    // A strict server kills the grant when a used token returns, so the old credential is used up before the one risky try.
    return end > nextTryAt ? end : nextTryAt
  }

  /** Whether a refresh token whose answer was lost may be sent again at once. */
  function maySendAgainNow(upstream: Upstream, current: Credential): boolean {
    if (upstream.credential.refreshReuse.kind !== 'strict') return true
    return current.expiresAt !== undefined && current.expiresAt <= clock.now()
  }

  function pauseAfter(
    key: CredentialKey,
    upstream: Upstream,
    verdict: Extract<FailureVerdict, { kind: 'retry_at' }>,
  ): Date {
    const server = bindingOf(upstream.credential).authorizationServer
    return pauses.failed(server, memoryKeyOf(key), verdict)
  }

  return { renew }
}

/** A refusal that says when to come back: whole seconds, 1 to 900. */
export function unavailable(seconds: number, cause?: unknown): BrokerError {
  const retryAfterSeconds = Math.min(900, Math.max(1, Math.ceil(seconds)))
  const addressRefused =
    cause instanceof AcquisitionFailure &&
    cause.verdict.kind === 'retry_at' &&
    cause.verdict.addressRefused === true
  return new BrokerError('upstream_unavailable', { retryAfterSeconds, addressRefused, cause })
}
