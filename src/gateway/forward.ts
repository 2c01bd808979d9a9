import { BrokerError, isBrokerError } from '../core/errors.ts'
import type {
  CredentialResolver,
  ResolvedCredential,
  ResolveRequest,
} from '../core/ports/broker-services.ts'
import type { GatewayCall } from '../core/ports/gateway.ts'
import type { UpstreamClient } from '../core/ports/upstream-client.ts'
import { isConnectable } from '../core/upstream.ts'
import type { OpenCalls } from './open-calls.ts'
import { createSender, disconnected, type Forwarding, type InsufficientScope } from './sender.ts'

export type Forwarder = {
  /**
   * Sends it with this credential. An upstream that answers 401 gets it once more with a renewed one, as long as nothing of the
   * answer has left and the body is still at hand. Nothing else is ever tried again: the upstream may have done what it was asked.
   * Resolves when the answer is out, or its caller is gone.
   */
  readonly forward: (
    forwarding: Forwarding,
    credential: ResolvedCredential,
  ) => Promise<'done' | 'stale' | InsufficientScope>
  /** For whoever waits before forwarding. @throws BrokerError connect_required, with the link, where the credential was taken away */
  readonly refuseCut: (call: GatewayCall, credential: ResolvedCredential) => Promise<void>
}

export function createForwarder(ports: {
  readonly resolver: CredentialResolver
  readonly upstreamClient: UpstreamClient
  readonly openCalls: OpenCalls
  /** Whether the credential was taken away between its resolution and its use, when nothing was open yet that could be cut. */
  readonly isCut: (call: GatewayCall, credential: ResolvedCredential) => boolean
}): Forwarder {
  const { resolver, isCut } = ports
  const send = createSender(ports)

  async function forward(
    forwarding: Forwarding,
    credential: ResolvedCredential,
  ): Promise<'done' | 'stale' | InsufficientScope> {
    const first = await send(forwarding, credential).catch((error: unknown) =>
      withLink(forwarding.call, error),
    )
    if (first !== 'refused') return first
    const renewed = await resolver.resolve(
      resolution(forwarding.call, { rejected: credential.fingerprint }),
    )
    const isTheSame = renewed.fingerprint === credential.fingerprint
    // What was not kept cannot be sent again; the caller's own next try has the renewed credential.
    if (isTheSame || forwarding.body.kind === 'once') throw rejected()
    const second = await send(forwarding, renewed)
    if (second === 'refused') throw rejected()
    return second
  }

  /** A disconnect that came first leaves its caller the way to connect again. Always throws. */
  async function withLink(call: GatewayCall, error: unknown): Promise<never> {
    const lacksLink =
      isBrokerError(error, 'connect_required') && error.details.connectUrl === undefined
    if (!lacksLink || !isConnectable(call.upstream)) throw error
    await resolver.resolve(resolution(call, { mayGoOnUnconnected: true }))
    // Connected again meanwhile; whether the upstream did what it was asked is not known.
    throw new BrokerError('upstream_unavailable')
  }

  return {
    forward,
    async refuseCut(call, credential) {
      if (isCut(call, credential)) await withLink(call, disconnected())
    },
  }
}

function rejected(): BrokerError {
  return new BrokerError('upstream_rejected_credential')
}

/** What a gateway call asks of the resolver. */
export function resolution(
  call: GatewayCall,
  more: { readonly rejected?: string; readonly mayGoOnUnconnected?: boolean } = {},
): ResolveRequest {
  const { person, bearer, upstream, requestId, startedAt } = call
  return {
    person,
    subjectToken: bearer,
    service: undefined,
    actor: { kind: 'user', id: person.userId },
    upstream,
    rejected: more.rejected,
    mayGoOnUnconnected: more.mayGoOnUnconnected === true,
    requestId,
    startedAt,
  }
}

/** The link in a refusal that a connection would mend; any other is thrown on. */
export function linkIn(error: unknown): string {
  const link = isBrokerError(error, 'connect_required') ? error.details.connectUrl : undefined
  if (link === undefined) throw error
  return link
}

/** What a head announces of its body. */
export function announcedBytes({ header }: GatewayCall): number | undefined {
  const value = header('content-length')
  return value === undefined ? undefined : Number(value)
}
