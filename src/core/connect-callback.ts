import type { AuditReason } from './audit-event.ts'
import {
  type AuthorizationErrorLabel,
  isFromExpectedIssuer,
  parseCallbackParameters,
} from './callback-parameters.ts'
import {
  type Credential,
  type CredentialKey,
  credentialKeyOf,
  type TokenSet,
} from './credential.ts'
import { type CredentialMemory, memoryKeyOf } from './credential-memory.ts'
import { BrokerError } from './errors.ts'
import { AcquisitionFailure } from './failure-verdict.ts'
import type { AcquisitionAttempt, AcquisitionAttempts } from './ports/acquisition-attempts.ts'
import type { AcquisitionMethod } from './ports/acquisition-method.ts'
import type { AuditSink } from './ports/audit-sink.ts'
import type { AuthorizationClient } from './ports/authorization-client.ts'
import type { OAuthConnector } from './ports/broker-services.ts'
import type { ConnectFlow, ConnectStore } from './ports/connect-store.ts'
import type { CredentialStore } from './ports/credential-store.ts'
import type { StepUps } from './ports/step-ups.ts'
import type { UpstreamDiscovery } from './ports/upstream-discovery.ts'
import { type ConnectResult, resultAddress } from './return-to.ts'
import { revokeTokens } from './revoke-tokens.ts'
import type { Secret } from './secret.ts'
import type { TokenEndpoints } from './token-endpoints.ts'
import { bindingOf, isSameBinding, methodOfMode, type Upstream } from './upstream.ts'

/** Connecting from the moment at which the browser comes back: whose answer it is, and what its code is worth. */
export function createConnectCallback(ports: {
  readonly redirectUri: (upstream: Upstream) => string
  readonly discovery: Pick<UpstreamDiscovery, 'settle'>
  readonly connects: Pick<ConnectStore, 'takeFlow'>
  readonly credentials: Pick<CredentialStore, 'putArrived'>
  readonly memory: Pick<CredentialMemory, 'forget'>
  readonly authorization: Pick<AuthorizationClient, 'redeem'>
  readonly method: AcquisitionMethod
  readonly tokenEndpoints: Pick<TokenEndpoints, 'authorizationServersOf'>
  readonly stepUps: Pick<StepUps, 'completed'>
  readonly attempts: Pick<AcquisitionAttempts, 'beginCode' | 'end' | 'pause'>
  readonly audit: AuditSink
}): Pick<OAuthConnector, 'complete'> {
  const { redirectUri, discovery, connects, credentials, memory, authorization, method } = ports
  const { tokenEndpoints, stepUps, attempts, audit } = ports

  const complete: OAuthConnector['complete'] = async (options) => {
    const callback = parseCallbackParameters(options.params)
    audit.admit()
    try {
      return await completeAdmitted(options, callback)
    } finally {
      await audit.settled()
    }
  }

  async function completeAdmitted(
    options: Parameters<OAuthConnector['complete']>[0],
    callback: ReturnType<typeof parseCallbackParameters>,
  ): Promise<{ readonly redirectTo: string }> {
    const { person, browser } = options
    let { upstream } = options
    const record = (reason: AuditReason | undefined) => recordConnect(options, reason)
    let flow: ConnectFlow | undefined
    try {
      upstream = await discovery.settle(upstream)
      const by = { ...credentialKeyOf(person, upstream), state: callback.state }
      flow = browser === undefined ? undefined : await connects.takeFlow({ ...by, browser })
    } catch (error) {
      record(failureOf(error).reason)
      throw error
    }
    if (flow === undefined) {
      record('state_invalid')
      throw new BrokerError('connect_link_invalid')
    }
    // Before anything else of the answer counts, its error included: another server's answer is no answer (RFC 9207 §2.4).
    if (!isFromExpectedIssuer(callback.iss, flow)) {
      record('issuer_mismatch')
      throw new BrokerError('connect_link_invalid')
    }
    if (!isSameBinding(flow.binding, bindingOf(upstream.credential))) {
      record('configuration_changed')
      throw new BrokerError('connect_link_invalid')
    }
    if (callback.kind === 'error') {
      record(callback.label)
      return resultOf(flow, { error: callback.label })
    }
    try {
      await redeem(flow, upstream, callback.code)
    } catch (error) {
      const { reason, label } = failureOf(error)
      record(reason)
      if (label === undefined) throw error
      return resultOf(flow, { error: label })
    }
    record(undefined)
    return resultOf(flow, { connected: true })
  }

  async function redeem(flow: ConnectFlow, upstream: Upstream, code: Secret): Promise<void> {
    const key = credentialKeyOf(flow, upstream)
    const attempt = await attempts.beginCode(key)
    let tokens: TokenSet
    try {
      tokens = await redeemNotingPause(flow, upstream, code)
    } catch (error) {
      // It goes by itself after a while where this fails too.
      await attempts.end(key, attempt).catch(() => {})
      throw error
    }
    await store(key, attempt, flow, upstream, tokens)
    const more = flow.scopes.some((scope) => !upstream.credential.scopes.includes(scope))
    // Counted so that an upstream which never has enough stops asking; a count that is lost costs one more question.
    if (more) await stepUps.completed(key, flow.scopes).catch(() => {})
  }

  /**
   * Sent during a pause too: a code lives a minute or so and would not outlive the pause, the server gives codes all the same, and
   * each is one request of one person, whom a refusal unasked would send through the consent again. What the server says of it
   * counts: a pause that it is told is everybody's.
   */
  async function redeemNotingPause(
    flow: ConnectFlow,
    upstream: Upstream,
    code: Secret,
  ): Promise<TokenSet> {
    const { codeVerifier } = flow
    try {
      const options = { code, codeVerifier, redirectUri: redirectUri(upstream) }
      return await authorization.redeem(upstream, options)
    } catch (error) {
      if (error instanceof AcquisitionFailure && error.verdict.kind === 'retry_at') {
        const authorizationServers = tokenEndpoints.authorizationServersOf(upstream)
        const seconds = error.verdict.retryAfterSeconds
        if (seconds !== undefined) {
          await attempts.pause({ authorizationServers, seconds }).catch(() => {})
        }
      }
      throw error
    }
  }

  async function store(
    key: CredentialKey,
    attempt: AcquisitionAttempt,
    flow: ConnectFlow,
    upstream: Upstream,
    tokens: TokenSet,
  ): Promise<void> {
    let stored: Credential | undefined
    try {
      stored = await credentials.putArrived(key, attempt, {
        tokens,
        method: methodOfMode[upstream.credential.mode],
        scopes: tokens.scopes ?? flow.scopes,
        audience: upstream.credential.resource,
        binding: flow.binding,
        renewed: false,
      })
    } catch (error) {
      // A grant that we could not keep must not live on at the server where nobody can see it.
      void revokeTokens(method, upstream, tokens)
      throw error
    }
    memory.forget(memoryKeyOf(key))
    if (stored !== undefined) return
    // Disconnected meanwhile: what arrived must not live on at the server.
    void revokeTokens(method, upstream, tokens)
    throw new AcquisitionFailure({ kind: 'denied' })
  }

  function recordConnect(
    options: Parameters<OAuthConnector['complete']>[0],
    reason: AuditReason | undefined,
  ): void {
    const { person, upstream, requestId, startedAt } = options
    audit.record({
      requestId,
      startedAt,
      userId: person.userId,
      issuer: person.issuer,
      actor: { kind: 'user', id: person.userId },
      upstream: upstream.name,
      action: 'connect',
      method: methodOfMode[upstream.credential.mode],
      outcome: reason === undefined ? 'success' : 'failure',
      reason,
      details: { identity: person.identity },
    })
  }

  return { complete }
}

function resultOf(flow: ConnectFlow, result: ConnectResult): { readonly redirectTo: string } {
  return { redirectTo: resultAddress(flow.returnTo, flow.upstream, result) }
}

/** How a failed redemption is recorded, and what the person is told; no label: it is not the server's fault. */
function failureOf(error: unknown): {
  reason: AuditReason
  label: AuthorizationErrorLabel | undefined
} {
  if (error instanceof BrokerError) {
    return {
      reason: error.code === 'storage_unavailable' ? 'storage_unavailable' : 'internal_error',
      label: undefined,
    }
  }
  if (!(error instanceof AcquisitionFailure)) return { reason: 'internal_error', label: undefined }
  switch (error.verdict.kind) {
    case 'retry_at':
      return { reason: 'upstream_unavailable', label: 'temporarily_unavailable' }
    case 'denied':
      return { reason: 'access_denied', label: 'access_denied' }
    case 'interaction_required':
      return { reason: 'interaction_required', label: 'interaction_required' }
    case 'misconfigured':
      return { reason: 'upstream_misconfigured', label: 'server_error' }
    case 'reconnect':
    case 'subject_token_refused':
      return { reason: 'server_error', label: 'server_error' }
  }
}
