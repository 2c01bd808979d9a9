import { isUsableUrl } from '../oauth/usable-url.ts'
import type { Claims } from './claims.ts'
import { IssuerFailure, type IssuerNetwork } from './issuer-network.ts'

/**
 * Fetches what an issuer publishes about itself: OpenID Connect Discovery §4, then RFC 8414 §3. The document must name
 * exactly this issuer, or anyone who can answer for the address could speak for it (RFC 8414 §3.3). @throws IssuerFailure
 */
export async function discoverIssuer(network: IssuerNetwork, issuer: string): Promise<Claims> {
  const [first, second] = metadataUrls(issuer)
  let metadata: Claims
  try {
    metadata = await network.getJson(first)
  } catch (error) {
    // A server that does not answer at all will not answer the second question either.
    if (!(error instanceof IssuerFailure) || error.kind === 'unreachable') throw error
    metadata = await network.getJson(second)
  }
  if (metadata['issuer'] !== issuer) throw new IssuerFailure('mismatch')
  return metadata
}

/**
 * OpenID Connect first, because these are issuers that people sign in at: most answer the first request. Authorization servers of
 * upstreams are asked in the order of MCP, which begins with RFC 8414 and knows one place more.
 */
function metadataUrls(issuer: string): readonly [string, string] {
  const url = new URL(issuer)
  const path = url.pathname.replace(/\/$/, '')
  return [
    `${url.origin}${path}/.well-known/openid-configuration`,
    `${url.origin}/.well-known/oauth-authorization-server${path}`,
  ]
}

/** An endpoint that the metadata name. @throws IssuerFailure unreadable when it is missing or no usable URL */
export function endpointOf(metadata: Claims, name: string, network: IssuerNetwork): string {
  const value = metadata[name]
  if (typeof value === 'string' && isUsableUrl(value, network.allowsPlainHttp)) return value
  throw new IssuerFailure('unreadable')
}
