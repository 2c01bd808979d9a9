import * as z from 'zod'
import { AcquisitionFailure } from '../core/failure-verdict.ts'
import type { Clock } from '../core/ports/clock.ts'
import {
  type HttpClient,
  OutboundFailure,
  type OutboundResponse,
} from '../core/ports/http-client.ts'
import type { Upstream } from '../core/upstream.ts'
import { mayBePlainHttp, writtenEndpoint } from './endpoint.ts'

const documentDeadlineMs = 4000
const documentMaxBytes = 256 * 1024
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

/** Asks the well-known places one after the other until one holds this issuer's document. */
async function discover(
  http: HttpClient,
  upstream: Upstream,
  issuer: string,
): Promise<ServerMetadata> {
  let unanswered: Unanswered | undefined
  for (const url of metadataUrls(issuer)) {
    const answer = await fetchDocument(http, upstream, url)
    if ('unanswered' in answer) {
      unanswered = answer
      // Where not even a connection can be made, the other places of the same host will not do better.
      if (answer.unanswered === 'not_connected') break
    } else {
      const metadata = readMetadata(answer, issuer, mayBePlainHttp(upstream, issuer))
      if (metadata !== undefined) return metadata
    }
  }
  if (unanswered === undefined) throw new AcquisitionFailure({ kind: 'misconfigured' })
  // Whatever became of the document, the token request that needed it was never sent.
  throw new AcquisitionFailure({
    kind: 'retry_at',
    answer: 'not_sent',
    ...(unanswered.addressRefused ? { addressRefused: true } : {}),
  })
}

/** RFC 8414 §3 first, then OpenID Connect Discovery in both readings of an issuer with a path. */
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

type Unanswered = {
  readonly unanswered: 'not_connected' | 'no_answer' | 'busy'
  readonly addressRefused: boolean
}

async function fetchDocument(
  http: HttpClient,
  upstream: Upstream,
  url: string,
): Promise<OutboundResponse | Unanswered> {
  try {
    const response = await http.send({
      url,
      method: 'GET',
      headers: { accept: 'application/json' },
      deadlineMs: documentDeadlineMs,
      maxBytes: documentMaxBytes,
      destination: writtenEndpoint(upstream, url).destination,
    })
    const isBusy = response.status >= 500 || response.status === 429
    return isBusy ? { unanswered: 'busy', addressRefused: false } : response
  } catch (error) {
    if (!(error instanceof OutboundFailure)) throw error
    return {
      unanswered: error.answer === 'not_sent' ? 'not_connected' : 'no_answer',
      addressRefused: error.addressRefused,
    }
  }
}

const text = z.string().optional().catch(undefined)

/** Tolerant: a member of a wrong type counts as absent, and what we do not use may be anything. */
const metadataDocument = z.object({
  issuer: z.string(),
  authorization_endpoint: text,
  token_endpoint: text,
  revocation_endpoint: text,
  code_challenge_methods_supported: z.array(z.unknown()).optional().catch(undefined),
  authorization_response_iss_parameter_supported: z.boolean().optional().catch(undefined),
})

/**
 * The document of exactly this issuer, compared byte for byte (RFC 8414 §3.3): one that only resembles it is another
 * server's, and must not be used. Endpoints that no browser or client should be sent to count as absent.
 */
function readMetadata(
  response: OutboundResponse,
  issuer: string,
  plainHttp: boolean,
): ServerMetadata | undefined {
  if (response.status !== 200) return undefined
  const parsed = metadataDocument.safeParse(parseJson(response.body))
  if (!parsed.success || parsed.data.issuer !== issuer) return undefined
  const document = parsed.data
  const endpoint = (url: string | undefined) => (isUsable(url, plainHttp) ? url : undefined)
  return {
    issuer,
    authorizationEndpoint: endpoint(document.authorization_endpoint),
    tokenEndpoint: endpoint(document.token_endpoint),
    revocationEndpoint: endpoint(document.revocation_endpoint),
    supportsS256: document.code_challenge_methods_supported?.includes('S256') ?? false,
    issuerInResponses: document.authorization_response_iss_parameter_supported ?? false,
  }
}

/** `javascript:` and its kin would run in the person's browser on our page; a fragment is never part of an endpoint (RFC 6749 §3). */
function isUsable(url: string | undefined, plainHttp: boolean): boolean {
  if (url === undefined || url.length > 2048 || !URL.canParse(url)) return false
  const { protocol, username, password, hash } = new URL(url)
  const isHttp = protocol === 'https:' || (protocol === 'http:' && plainHttp)
  return isHttp && username === '' && password === '' && hash === ''
}

function parseJson(body: string): unknown {
  try {
    return JSON.parse(body)
  } catch {
    // The error quotes the document; nothing of it may travel on.
    return undefined
  }
}
