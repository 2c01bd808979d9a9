import { namesLoopback } from '../core/loopback-url.ts'
import type { OutboundDestination } from '../core/ports/http-client.ts'
import type { Upstream } from '../core/upstream.ts'

/** A URL of an authorization server's that we send requests to, with the address rules for it. */
export type Endpoint = { readonly url: string; readonly destination: OutboundDestination }

/** An endpoint that stands in the configuration, or that discovery put where it would stand. */
export function writtenEndpoint(upstream: Upstream, url: string): Endpoint {
  return { url, destination: destinationOf(upstream, isAsWritten(upstream, url)) }
}

/**
 * Whether a URL counts as the operator's own. Of what an upstream led to only that does which has the origin of something that
 * is written: an upstream must not aim our requests at a neighbour (RFC 9728 §7.7).
 */
function isAsWritten({ url: upstreamUrl, credential }: Upstream, url: string): boolean {
  const { discovery, issuer } = credential
  if (discovery === undefined) return true
  const { origin } = new URL(url)
  if (origin === new URL(upstreamUrl).origin) return true
  return !discovery.issuer && issuer !== undefined && origin === new URL(issuer).origin
}

/**
 * An endpoint that the written issuer's metadata name. One at the issuer's own origin is as good as written; a loopback or
 * private address elsewhere is not, so that metadata cannot aim our requests at a neighbour (RFC 9728 §7.7, RFC 8414 §6).
 */
export function discoveredEndpoint(upstream: Upstream, issuer: string, url: string): Endpoint {
  const isOwn = new URL(url).origin === new URL(issuer).origin
  return { url, destination: destinationOf(upstream, isOwn && isAsWritten(upstream, url)) }
}

/** Whether what this issuer names may be plain http: where the issuer itself is this machine, or the operator allowed it. */
export function mayBePlainHttp(upstream: Upstream, issuer: string): boolean {
  return upstream.allowPrivateNetwork || namesLoopback(new URL(issuer))
}

function destinationOf(upstream: Upstream, configured: boolean): OutboundDestination {
  return {
    allowPrivateNetwork: upstream.allowPrivateNetwork,
    configured,
    setting: `upstreams.${upstream.name}.allow_private_network`,
  }
}
