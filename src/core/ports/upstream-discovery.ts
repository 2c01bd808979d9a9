import type { Upstream } from '../upstream.ts'

/**
 * Finds what the configuration leaves to an upstream to say: its authorization server, its scopes, a client there. What was found
 * is shared by all replicas and outlives them. An upstream of which everything is written comes back as it is.
 */
export interface UpstreamDiscovery {
  /**
   * The upstream with everything that connecting needs; asks the network where nothing is known yet.
   * @throws BrokerError upstream_misconfigured, upstream_unavailable, storage_unavailable
   */
  settle(upstream: Upstream): Promise<Upstream>

  /**
   * Looks again, because the upstream refused a credential that should be good. What cannot be found out now stays as it was
   * known. Not more often than makes sense, whoever asks. @throws what `settle` throws where nothing was known
   */
  lookAgain(upstream: Upstream): Promise<Upstream>

  /** Whether the last try to find out about it failed, and nothing is known. */
  isFailing(upstream: Upstream): boolean
}
