import * as z from 'zod'
import { AcquisitionFailure } from '../core/failure-verdict.ts'
import type { Clock } from '../core/ports/clock.ts'
import type { HttpClient } from '../core/ports/http-client.ts'
import type { Upstream } from '../core/upstream.ts'
import { isPassing } from './discovery-failure.ts'
import { type DocumentFault, fetchDocument } from './document.ts'
import { mayBePlainHttp, writtenEndpoint } from './endpoint.ts'
import { isUsableUrl } from './usable-url.ts'

const keptSeconds = 600
const failureKeptSeconds = 5
/** How long an old document stands in for one that cannot be had. */
const staleSeconds = 86_400

/** What an authorization server says of itself (RFC 8414 §2), as far as we use it. */
export type ServerMetadata = {
  readonly issuer: string
  readonly authorizationEndpoint: string | undefined
  readonly tokenEndpoint: string | undefined
  readonly revocationEndpoint: string | undefined
  /** Where clients register themselves (RFC 7591). */
  readonly registrationEndpoint: string | undefined
  /** It takes the URL of a client's own document as its id. */
  readonly takesClientDocuments: boolean
  /** Undefined where it does not say. */
  readonly scopes: readonly string[] | undefined
  readonly clientAuthenticationMethods: readonly string[] | undefined
  readonly grantTypes: readonly string[] | undefined
  /** It takes PKCE with S256 (RFC 7636). */
  readonly supportsS256: boolean
  /** Its authorization responses name it (RFC 9207 §3). */
  readonly issuerInResponses: boolean
}

export interface MetadataSource {
  /**
   * The metadata of an issuer that an upstream's configuration names, at most ten minutes old, or a day while the server
   * cannot be asked. A failure is remembered for five seconds.
   * @throws AcquisitionFailure retry_at (could not be asked) or misconfigured (says nothing usable).
   */
  find(upstream: Upstream, issuer: string): Promise<ServerMetadata>
}

type Kept = {
  metadata?: { readonly value: ServerMetadata; readonly atMs: number }
  failure?: { readonly value: AcquisitionFailure; readonly atMs: number }
  loading?: Promise<ServerMetadata>
}

export function createMetadataSource(ports: {
  readonly http: HttpClient
  readonly clock: Clock
}): MetadataSource {
  const { http, clock } = ports
  // As many as the configuration has upstreams.
  const kept = new Map<string, Kept>()

  function find(upstream: Upstream, issuer: string): Promise<ServerMetadata> {
    const key = `${upstream.name} ${issuer}`
    const entry = kept.get(key) ?? {}
    kept.set(key, entry)
    const { metadata, failure } = entry
    if (metadata !== undefined && isYounger(metadata.atMs, keptSeconds)) {
      return Promise.resolve(metadata.value)
    }
    if (failure !== undefined && isYounger(failure.atMs, failureKeptSeconds)) {
      return insteadOf(failure.value, entry)
    }
    entry.loading ??= load(upstream, issuer, entry).finally(() => delete entry.loading)
    return entry.loading
  }

  async function load(upstream: Upstream, issuer: string, entry: Kept): Promise<ServerMetadata> {
    try {
      const value = await discover(http, upstream, issuer)
      entry.metadata = { value, atMs: clock.now().getTime() }
      delete entry.failure
      return value
    } catch (error) {
      if (!(error instanceof AcquisitionFailure)) throw error
      entry.failure = { value: error, atMs: clock.now().getTime() }
      // A server that cannot be asked keeps its last document; one that now says something unusable does not.
      if (error.verdict.kind !== 'retry_at') delete entry.metadata
      return insteadOf(error, entry)
    }
  }

  async function insteadOf(
    failure: AcquisitionFailure,
    { metadata }: Kept,
  ): Promise<ServerMetadata> {
    if (metadata !== undefined && isYounger(metadata.atMs, staleSeconds)) return metadata.value
    throw failure
  }

  function isYounger(atMs: number, seconds: number): boolean {
    return clock.now().getTime() - atMs < seconds * 1000
  }

  return { find }
}

async function discover(
  http: HttpClient,
  upstream: Upstream,
  issuer: string,
): Promise<ServerMetadata> {
  const found = await findServerMetadata(http, upstream, issuer)
  if ('metadata' in found) return found.metadata
  const { fault } = found
  // An answer that is too long may be anything that stands before the server.
  if (fault !== 'address_refused' && fault !== 'too_large' && !isPassing(fault)) {
    throw new AcquisitionFailure({ kind: 'misconfigured' })
  }
  // Whatever became of the document, the token request that needed it was never sent.
  throw new AcquisitionFailure({
    kind: 'retry_at',
    answer: 'not_sent',
    ...(fault === 'address_refused' ? { addressRefused: true } : {}),
  })
}

export type FoundMetadata =
  | { readonly metadata: ServerMetadata; readonly url: string }
  | { readonly fault: DocumentFault | 'issuer_mismatch' }

/** Asks the well-known places one after the other until one holds this issuer's document. */
export async function findServerMetadata(
  http: HttpClient,
  upstream: Upstream,
  issuer: string,
): Promise<FoundMetadata> {
  let fault: DocumentFault | 'issuer_mismatch' = 'not_found'
  for (const url of metadataUrls(issuer)) {
    const document = await fetchDocument(http, writtenEndpoint(upstream, url))
    const metadata =
      'fault' in document
        ? document.fault
        : readMetadata(document.json, issuer, mayBePlainHttp(upstream, issuer))
    if (typeof metadata !== 'string') return { metadata, url }
    fault = worse(fault, metadata)
    // Where not even a connection can be made, the other places of the same host will not do better.
    if (metadata === 'unreachable' || metadata === 'address_refused') break
  }
  return { fault }
}

/** What says most of two: another place's "not here" says little, and one that could not be asked may be the right one. */
function worse<Fault extends DocumentFault | 'issuer_mismatch'>(before: Fault, now: Fault): Fault {
  if (now === 'address_refused' || isPassing(now)) return now
  return before === 'not_found' ? now : before
}

/**
 * RFC 8414 §3 first, then OpenID Connect Discovery in both readings of an issuer with a path: the order that MCP prescribes for
 * authorization servers (2025-11-25, "Authorization Server Metadata Discovery").
 */
export function metadataUrls(issuer: string): readonly string[] {
  const { origin, pathname } = new URL(issuer)
  const path = pathname.replace(/\/$/, '')
  const urls = [
    `${origin}/.well-known/oauth-authorization-server${path}`,
    `${origin}/.well-known/openid-configuration${path}`,
  ]
  if (path !== '') urls.push(`${origin}${path}/.well-known/openid-configuration`)
  return urls
}

const text = z.string().optional().catch(undefined)
const texts = z.array(z.string()).optional().catch(undefined)

/** Tolerant: a member of a wrong type counts as absent, and what we do not use may be anything. */
const metadataDocument = z.object({
  issuer: z.string(),
  authorization_endpoint: text,
  token_endpoint: text,
  revocation_endpoint: text,
  registration_endpoint: text,
  client_id_metadata_document_supported: z.boolean().optional().catch(undefined),
  scopes_supported: texts,
  token_endpoint_auth_methods_supported: texts,
  grant_types_supported: texts,
  code_challenge_methods_supported: z.array(z.unknown()).optional().catch(undefined),
  authorization_response_iss_parameter_supported: z.boolean().optional().catch(undefined),
})

/**
 * The document of exactly this issuer, compared byte for byte (RFC 8414 §3.3): one that only resembles it is another
 * server's, and must not be used. Endpoints that no browser or client should be sent to count as absent.
 */
function readMetadata(
  json: unknown,
  issuer: string,
  plainHttp: boolean,
): ServerMetadata | 'unreadable' | 'issuer_mismatch' {
  const parsed = metadataDocument.safeParse(json)
  if (!parsed.success) return 'unreadable'
  if (parsed.data.issuer !== issuer) return 'issuer_mismatch'
  const document = parsed.data
  const endpoint = (url: string | undefined) => (isUsableUrl(url, plainHttp) ? url : undefined)
  return {
    issuer,
    authorizationEndpoint: endpoint(document.authorization_endpoint),
    tokenEndpoint: endpoint(document.token_endpoint),
    revocationEndpoint: endpoint(document.revocation_endpoint),
    registrationEndpoint: endpoint(document.registration_endpoint),
    takesClientDocuments: document.client_id_metadata_document_supported ?? false,
    scopes: document.scopes_supported,
    clientAuthenticationMethods: document.token_endpoint_auth_methods_supported,
    grantTypes: document.grant_types_supported,
    supportsS256: document.code_challenge_methods_supported?.includes('S256') ?? false,
    issuerInResponses: document.authorization_response_iss_parameter_supported ?? false,
  }
}
