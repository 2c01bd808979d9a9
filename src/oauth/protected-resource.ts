import * as z from 'zod'
import { type BearerChallenge, readBearerChallenge, readScopes } from '../core/bearer-challenge.ts'
import type { HttpClient, OutboundResponse } from '../core/ports/http-client.ts'
import type { Upstream } from '../core/upstream.ts'
import { DiscoveryFailure, type DiscoveryFault, isPassing } from './discovery-failure.ts'
import { documentDeadlineMs, documentMaxBytes, faultOf, fetchDocument } from './document.ts'
import { writtenEndpoint } from './endpoint.ts'
import { isUsableUrl } from './usable-url.ts'

/** What a protected MCP server says of itself (RFC 9728 §2), as far as we use it. */
export type ProtectedResource = {
  /** Where the document was. */
  readonly url: string
  readonly resource: string
  readonly authorizationServers: readonly string[]
  readonly scopes: readonly string[] | undefined
}

/** Any server asks for a token before it reads a first request; one that asks for none is not asked for anything. */
const firstRequest = JSON.stringify({
  jsonrpc: '2.0',
  id: 'onbehalf-discovery',
  method: 'initialize',
  params: {
    protocolVersion: '2025-11-25',
    capabilities: {},
    clientInfo: { name: 'onbehalf', version: '1.0.0' },
  },
})

/** What a client sends first of all. @throws OutboundFailure */
export function sendFirstRequest(
  http: HttpClient,
  upstream: Upstream,
  headers: Readonly<Record<string, string>> = {},
): Promise<OutboundResponse> {
  return http.send({
    url: upstream.url,
    method: 'POST',
    headers: {
      'content-type': 'application/json',
      accept: 'application/json, text/event-stream',
      ...headers,
    },
    body: firstRequest,
    deadlineMs: documentDeadlineMs,
    maxBytes: documentMaxBytes,
    destination: writtenEndpoint(upstream, upstream.url).destination,
  })
}

/** Asks the upstream without a token. @throws DiscoveryFailure where it cannot be asked; `no_challenge` where it does not mind */
export async function askForChallenge(
  http: HttpClient,
  upstream: Upstream,
): Promise<BearerChallenge> {
  let fault: DiscoveryFault
  try {
    const answer = await sendFirstRequest(http, upstream)
    const challenge =
      answer.status === 401 ? readBearerChallenge(answer.headers['www-authenticate']) : undefined
    if (challenge !== undefined) return challenge
    fault = answer.status >= 500 || answer.status === 429 ? 'busy' : 'no_challenge'
  } catch (error) {
    fault = faultOf(error)
  }
  throw new DiscoveryFailure('challenge', fault)
}

/**
 * Finds the upstream's document: where its challenge says, else at the well-known places of its path and of its origin
 * (RFC 9728 §3.1). @throws DiscoveryFailure
 */
export async function findProtectedResource(
  http: HttpClient,
  upstream: Upstream,
  named: string | undefined,
): Promise<ProtectedResource> {
  const failed = (fault: DiscoveryFault) => new DiscoveryFailure('resource_metadata', fault)
  if (named !== undefined && !isUsableUrl(named, true)) throw failed('url_unusable')
  let fault: DiscoveryFault = 'not_found'
  for (const url of named === undefined ? wellKnownUrls(upstream.url) : [named]) {
    const document = await fetchDocument(http, writtenEndpoint(upstream, url))
    if (!('fault' in document)) return readDocument(document.json, url, upstream)
    if (document.fault === 'address_refused' || isPassing(document.fault)) {
      throw failed(document.fault)
    }
    if (fault === 'not_found') fault = document.fault
  }
  throw failed(fault)
}

function wellKnownUrls(resource: string): readonly string[] {
  const { origin, pathname } = new URL(resource)
  const root = `${origin}/.well-known/oauth-protected-resource`
  const path = pathname.replace(/\/$/, '')
  return path === '' ? [root] : [`${root}${path}`, root]
}

const resourceDocument = z.object({
  resource: z.string(),
  authorization_servers: z.array(z.string()).optional().catch(undefined),
  scopes_supported: z.array(z.string()).optional().catch(undefined),
})

const maxServers = 5

function readDocument(json: unknown, url: string, upstream: Upstream): ProtectedResource {
  const failed = (fault: DiscoveryFault) => new DiscoveryFailure('resource_metadata', fault)
  const parsed = resourceDocument.safeParse(json)
  if (!parsed.success) throw failed('unreadable')
  const { resource, authorization_servers: servers = [], scopes_supported: scopes } = parsed.data
  if (!isResourceOf(resource, upstream.url)) throw failed('resource_mismatch')
  if (servers.length === 0 && upstream.credential.discovery?.issuer !== false) {
    throw failed('no_authorization_server')
  }
  return {
    url,
    resource,
    authorizationServers: servers.slice(0, maxServers),
    scopes: scopes === undefined ? undefined : readScopes(scopes),
  }
}

/**
 * Whether a document speaks for this address: same origin, and its path is the address's or above it (RFC 9728 §3.3). One that
 * names another server would have people's tokens made for that server and sent to this one.
 */
export function isResourceOf(resource: string, address: string): boolean {
  if (resource.length > 2048 || !URL.canParse(resource)) return false
  const named = new URL(resource)
  const url = new URL(address)
  const { username, password, hash, search } = named
  if (username !== '' || password !== '' || hash !== '' || resource.includes('#')) return false
  if (search !== '' && search !== url.search) return false
  const withSlash = (path: string) => (path.endsWith('/') ? path : `${path}/`)
  return (
    named.origin === url.origin && withSlash(url.pathname).startsWith(withSlash(named.pathname))
  )
}
