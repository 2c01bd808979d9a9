import { BrokerError, isBrokerError } from './errors.ts'
import type { UpstreamDiscovery } from './ports/upstream-discovery.ts'
import { upstreamUnavailable } from './refusals.ts'
import { bindingOf, type CredentialBinding, isSameBinding, type Upstream } from './upstream.ts'
import { waitAtMost } from './wait-at-most.ts'

/**
 * What a resolution has to know of upstreams whose authorization server was found and not written: it may be another one by now,
 * and then nothing that the old one gave is any good or may be shown to the new one.
 */
export type ServerChanges = {
  /** The upstream with its server. @throws BrokerError upstream_misconfigured, upstream_unavailable, storage_unavailable */
  readonly settled: (upstream: Upstream, waitMs: number) => Promise<Upstream>

  /**
   * The upstream refused a credential that should be good; another server would explain it.
   * @throws BrokerError connect_required (configuration_changed)
   */
  readonly refuseIfChanged: (upstream: Upstream, binding: CredentialBinding) => Promise<void>

  /** What a failed renewal came to: a server that forgot a client of our own gets another one, and then only the person can help. */
  readonly verdictOn: (
    failure: unknown,
    upstream: Upstream,
    binding: CredentialBinding,
  ) => Promise<unknown>
}

export function createServerChanges({
  discovery,
}: {
  readonly discovery: UpstreamDiscovery
}): ServerChanges {
  return {
    async settled(upstream, waitMs) {
      const settled = await waitAtMost(discovery.settle(upstream), waitMs)
      if (settled === 'late') throw upstreamUnavailable(1)
      return settled
    },

    async refuseIfChanged(upstream, binding) {
      const now = await discovery.lookAgain(upstream)
      if (!isSameBinding(binding, bindingOf(now.credential))) throw changed()
    },

    async verdictOn(failure, upstream, binding) {
      const { discovery: isDiscovered } = upstream.credential
      if (isDiscovered === undefined || !isBrokerError(failure, 'upstream_misconfigured')) {
        return failure
      }
      try {
        const now = await discovery.settle(upstream)
        return isSameBinding(binding, bindingOf(now.credential)) ? failure : changed()
      } catch {
        return failure
      }
    },
  }
}

function changed(): BrokerError {
  return new BrokerError('connect_required', { reason: 'configuration_changed' })
}
