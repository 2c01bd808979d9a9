import { randomBytes } from 'node:crypto'
import type { HttpClient } from '../core/ports/http-client.ts'
import type { Upstream } from '../core/upstream.ts'
import { bareUpstream } from './bare-upstream.ts'
import { DiscoveryFailure, type DiscoveryFault } from './discovery-failure.ts'
import { faultOf } from './document.ts'
import type { ServerMetadata } from './metadata.ts'
import {
  askForChallenge,
  findProtectedResource,
  type ProtectedResource,
  sendFirstRequest,
} from './protected-resource.ts'
import { findServer } from './server-search.ts'

/** What is looked at, in this order; the middle three once for each authorization server. */
export type EndpointCheckName =
  | 'challenge'
  | 'resource_metadata'
  | 'server_metadata'
  | 'pkce'
  | 'refresh'
  | 'audience'

/** Why a check failed. Closed: nothing of a server's answer fits. */
export type EndpointFault =
  | DiscoveryFault
  | 'metadata_not_named'
  | 'refresh_not_advertised'
  | 'foreign_token_taken'
  | 'foreign_token_misjudged'

/** What one check came to. What it found is a server's own words. */
export type EndpointCheck = {
  readonly check: EndpointCheckName
  /** `not_checked`: what it would have looked at is not there. */
  readonly outcome: 'passed' | 'failed' | 'not_checked'
  readonly fault: EndpointFault | undefined
  /** Of the three that concern a server, where one is named. */
  readonly issuer: string | undefined
  readonly found: Readonly<Record<string, string | readonly string[] | null>>
}

/** Looks at a protected MCP endpoint as a client does that has no token: all that the client will need later must be there. */
export async function checkEndpoint(
  http: HttpClient,
  url: string,
  allowPrivateNetwork: boolean,
): Promise<readonly EndpointCheck[]> {
  const upstream = bareUpstream(url, allowPrivateNetwork)
  const { check: challenge, named } = await checkChallenge(http, upstream)
  const { check: document, resource } = await checkDocument(http, upstream, named)
  const servers: EndpointCheck[] = []
  // Clients choose among them, so each has to do.
  for (const issuer of resource?.authorizationServers ?? [undefined]) {
    servers.push(...(await checkServer(http, upstream, issuer)))
  }
  return [challenge, document, ...servers, await checkAudience(http, upstream, resource)]
}

async function checkChallenge(
  http: HttpClient,
  upstream: Upstream,
): Promise<{ readonly check: EndpointCheck; readonly named: string | undefined }> {
  try {
    const { resourceMetadata: named, scopes } = await askForChallenge(http, upstream)
    const found = { resource_metadata: named ?? null, scope: scopes ?? null }
    // Without it a client has to guess where the document is (RFC 9728 §5.1).
    return named === undefined
      ? { check: failed('challenge', 'metadata_not_named', { found }), named }
      : { check: passed('challenge', { found }), named }
  } catch (error) {
    return { check: failed('challenge', faultIn(error)), named: undefined }
  }
}

async function checkDocument(
  http: HttpClient,
  upstream: Upstream,
  named: string | undefined,
): Promise<{ readonly check: EndpointCheck; readonly resource: ProtectedResource | undefined }> {
  try {
    const resource = await findProtectedResource(http, upstream, named)
    const found = {
      resource: resource.resource,
      authorization_servers: resource.authorizationServers,
      url: resource.url,
    }
    return { check: passed('resource_metadata', { found }), resource }
  } catch (error) {
    return { check: failed('resource_metadata', faultIn(error)), resource: undefined }
  }
}

async function checkServer(
  http: HttpClient,
  upstream: Upstream,
  issuer: string | undefined,
): Promise<readonly EndpointCheck[]> {
  let metadata: ServerMetadata | undefined
  let server = notChecked('server_metadata', issuer)
  if (issuer !== undefined) {
    try {
      let url: string | null = null
      metadata = await findServer(http, upstream, issuer, (progress) => {
        if ('url' in progress) url = progress.url
      })
      server = passed('server_metadata', { issuer, found: { issuer, url } })
    } catch (error) {
      server = failed('server_metadata', faultIn(error), { issuer })
    }
  }
  if (metadata === undefined) {
    return [server, notChecked('pkce', issuer), notChecked('refresh', issuer)]
  }
  return [server, checkPkce(metadata), checkRefresh(metadata)]
}

function checkPkce({ issuer, supportsS256 }: ServerMetadata): EndpointCheck {
  return supportsS256
    ? passed('pkce', { issuer, found: { code_challenge_method: 'S256' } })
    : failed('pkce', 'pkce_not_advertised', { issuer })
}

/** A server that does not list its grants has no such one (RFC 8414 §2): people would have to come back at every expiry. */
function checkRefresh({ issuer, grantTypes = [], scopes = [] }: ServerMetadata): EndpointCheck {
  if (!grantTypes.includes('refresh_token')) {
    return failed('refresh', 'refresh_not_advertised', { issuer })
  }
  const scope = scopes.includes('offline_access') ? 'offline_access' : null
  return passed('refresh', { issuer, found: { grant_type: 'refresh_token', scope } })
}

/**
 * Tokens can be asked for this endpoint (RFC 8707), because its document says as what, and those of others are refused: one that names
 * another audience, which nobody has signed, must be 401 (RFC 6750 §3.1).
 */
async function checkAudience(
  http: HttpClient,
  upstream: Upstream,
  resource: ProtectedResource | undefined,
): Promise<EndpointCheck> {
  if (resource === undefined) return notChecked('audience', undefined)
  const found = { resource: resource.resource }
  try {
    const token = foreignToken(resource.authorizationServers[0] ?? '')
    const { status } = await sendFirstRequest(http, upstream, { authorization: `Bearer ${token}` })
    if (status === 401) return passed('audience', { found })
    const isBusy = status >= 500 || status === 429
    const isTaken = status >= 200 && status <= 299
    const fault = isTaken ? 'foreign_token_taken' : 'foreign_token_misjudged'
    return failed('audience', isBusy ? 'busy' : fault, { found })
  } catch (error) {
    return failed('audience', faultOf(error), { found })
  }
}

/** Looks like a token of that issuer for somebody else; worth nothing anywhere. */
function foreignToken(issuer: string): string {
  const parts = [
    { alg: 'RS256', typ: 'at+jwt', kid: 'onbehalf-smoke' },
    {
      iss: issuer,
      sub: 'onbehalf-smoke',
      aud: 'https://another-resource.invalid',
      iat: 1_700_000_000,
      exp: 4_102_444_800,
    },
  ].map((part) => Buffer.from(JSON.stringify(part)).toString('base64url'))
  return [...parts, randomBytes(256).toString('base64url')].join('.')
}

/** @throws whatever else it is */
function faultIn(error: unknown): DiscoveryFault {
  if (!(error instanceof DiscoveryFailure)) throw error
  return error.fault
}

type More = Partial<Pick<EndpointCheck, 'issuer' | 'found'>>

function passed(check: EndpointCheckName, { issuer, found = {} }: More): EndpointCheck {
  return { check, outcome: 'passed', fault: undefined, issuer, found }
}

function failed(
  check: EndpointCheckName,
  fault: EndpointFault,
  { issuer, found = {} }: More = {},
): EndpointCheck {
  return { check, outcome: 'failed', fault, issuer, found }
}

function notChecked(check: EndpointCheckName, issuer: string | undefined): EndpointCheck {
  return { check, outcome: 'not_checked', fault: undefined, issuer, found: {} }
}
