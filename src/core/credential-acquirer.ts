import type { Arrivals } from './arrivals.ts'
import type { PersonId } from './caller.ts'
import type { Credential, CredentialKey, TokenSet } from './credential.ts'
import { type CredentialMemory, memoryKeyOf } from './credential-memory.ts'
import { BrokerError } from './errors.ts'
import { AcquisitionFailure } from './failure-verdict.ts'
import type { AcquisitionMethod } from './ports/acquisition-method.ts'
import type { Clock } from './ports/clock.ts'
import type { CredentialStore } from './ports/credential-store.ts'
import type { SubjectTokens } from './ports/subject-tokens.ts'
import { unavailable } from './refresh-coordinator.ts'
import { revokeTokens } from './revoke-tokens.ts'
import type { Secret } from './secret.ts'
import type { TokenEndpointPauses } from './token-endpoint-pauses.ts'
import { bindingOf, methodOfMode, type Upstream } from './upstream.ts'

/** Exchanges a person's subject token for a credential and stores it. */
export interface CredentialAcquirer {
  /** The token to exchange: the one presented with the call, else the stored sign-in token. Undefined where there is none. */
  subjectToken(
    person: PersonId,
    upstream: Upstream,
    presented: Secret | undefined,
  ): Promise<Secret | undefined>

  /**
   * One request to the server. @throws BrokerError invalid_subject_token, connect_required (insufficient_scope, with the
   * server's challenge), policy_denied, upstream_unavailable, upstream_misconfigured, storage_unavailable.
   */
  acquire(
    key: CredentialKey,
    upstream: Upstream,
    subjectToken: Secret,
    current: Credential | undefined,
  ): Promise<Credential>
}

export function createCredentialAcquirer(ports: {
  readonly credentials: CredentialStore
  readonly memory: CredentialMemory
  readonly methods: Readonly<Record<Upstream['credential']['mode'], AcquisitionMethod>>
  readonly subjectTokens: SubjectTokens
  readonly pauses: TokenEndpointPauses
  readonly arrivals: Arrivals
  readonly clock: Clock
}): CredentialAcquirer {
  const { credentials, memory, methods, subjectTokens, pauses, arrivals, clock } = ports

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

  async function acquire(
    key: CredentialKey,
    upstream: Upstream,
    token: Secret,
    current: Credential | undefined,
  ): Promise<Credential> {
    const method = methods[upstream.credential.mode]
    const acquireAtServer = method.acquire?.bind(method)
    if (acquireAtServer === undefined) {
      throw new BrokerError('connect_required', { reason: 'not_connected' })
    }
    const server = bindingOf(upstream.credential).authorizationServer
    const seconds = pauses.remainingSeconds(server, memoryKeyOf(key))
    if (seconds !== undefined) throw unavailable(seconds)
    const arrived = await arrivals.receive(memoryKeyOf(key), {
      async ask() {
        try {
          return await acquireAtServer(upstream, token)
        } catch (error) {
          if (!(error instanceof AcquisitionFailure)) throw error
          throw refusal(key, upstream, error)
        }
      },
      keep: (tokens) => store(key, upstream, tokens, current !== undefined),
    })
    pauses.succeeded(memoryKeyOf(key))
    if ('kept' in arrived) return arrived.kept
    // Disconnected meanwhile: what arrived must not live on at the server.
    void revokeTokens(method, upstream, arrived.refused)
    throw new BrokerError('connect_required', { reason: 'not_connected' })
  }

  async function store(
    key: CredentialKey,
    upstream: Upstream,
    tokens: TokenSet,
    renewed: boolean,
  ): Promise<Credential> {
    const stored = await credentials.put(key, {
      tokens,
      method: methodOfMode[upstream.credential.mode],
      scopes: tokens.scopes ?? upstream.credential.scopes,
      audience: upstream.credential.resource ?? upstream.credential.audiences[0],
      binding: bindingOf(upstream.credential),
      renewed,
    })
    memory.forget(memoryKeyOf(key))
    return stored
  }

  function refusal(
    key: CredentialKey,
    upstream: Upstream,
    failure: AcquisitionFailure,
  ): BrokerError {
    const { verdict } = failure
    switch (verdict.kind) {
      case 'reconnect':
      case 'subject_token_refused':
        return new BrokerError('invalid_subject_token', { cause: failure })
      case 'interaction_required':
        return new BrokerError('connect_required', {
          reason: 'insufficient_scope',
          ...(verdict.claims === undefined ? {} : { claims: verdict.claims }),
          cause: failure,
        })
      case 'denied':
        return new BrokerError('policy_denied', { cause: failure })
      case 'misconfigured':
        pauses.misconfigured(memoryKeyOf(key))
        return new BrokerError('upstream_misconfigured', { cause: failure })
      case 'retry_at': {
        const server = bindingOf(upstream.credential).authorizationServer
        const nextTryAt = pauses.failed(server, memoryKeyOf(key), verdict)
        return unavailable((nextTryAt.getTime() - clock.now().getTime()) / 1000, failure)
      }
    }
  }

  return { subjectToken, acquire }
}
