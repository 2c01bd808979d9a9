import { BrokerError } from '../core/errors.ts'
import type { CredentialResolver } from '../core/ports/broker-services.ts'
import type { GatewayCall } from '../core/ports/gateway.ts'
import type { Upstream } from '../core/upstream.ts'
import { readBody, refuseAnnounced } from './body.ts'
import { announcedBytes, type Forwarder, resolution } from './forward.ts'
import type { StepUpLinks } from './step-up.ts'
import { targetBelow } from './target.ts'

/** Carries calls of plain HTTP to their upstream with the person's own credential, and the answer back as it comes. */
export function createHttpProxy(ports: {
  readonly resolver: CredentialResolver
  readonly forwarder: Forwarder
  readonly stepUpLinks: StepUpLinks
}): (call: GatewayCall) => Promise<void> {
  const bases = new Map<string, URL>()

  function baseOf({ name, url }: Upstream): URL {
    const base = bases.get(name) ?? new URL(url)
    bases.set(name, base)
    return base
  }

  return async (call) => {
    const target = targetBelow(baseOf(call.upstream), call.tail)
    if (target === undefined) {
      throw new BrokerError('invalid_request', {
        field: 'path',
        expectation: 'The path must stay below the address of the upstream, in every spelling.',
      })
    }
    const { headers, answer } = call
    refuseAnnounced(announcedBytes(call))
    // Both at once: the record becomes safe while the body comes.
    const [credential, body] = await Promise.all([
      ports.resolver.resolve(resolution(call)),
      readBody(call.body, announcedBytes(call)),
    ])
    const outcome = await ports.forwarder.forward(
      {
        call,
        method: call.method,
        target,
        headers,
        body,
        answer,
        whenGone: 'abort',
        mayStepUp: true,
      },
      credential,
    )
    if (typeof outcome === 'string') return
    const stepUp = await ports.stepUpLinks.offer(call, outcome.challenged)
    if (stepUp === undefined) return outcome.pass()
    throw new BrokerError('connect_required', {
      reason: 'insufficient_scope',
      connectUrl: stepUp.link,
    })
  }
}
