import * as z from 'zod'
import { namesLoopback } from '../core/loopback-url.ts'
import type { FoundServer, RegisteredClient } from '../core/ports/discovery-store.ts'
import type { HttpClient, OutboundResponse } from '../core/ports/http-client.ts'
import { Secret } from '../core/secret.ts'
import type { Upstream } from '../core/upstream.ts'
import { DiscoveryFailure } from './discovery-failure.ts'
import { faultOf } from './document.ts'
import { writtenEndpoint } from './endpoint.ts'

const registrationDeadlineMs = 10_000
const registrationMaxBytes = 64 * 1024

/** What we say of ourselves, whether a server asks for it or is told (RFC 7591 §2). */
export function clientMetadata(publicUrl: string, upstreamName: string) {
  return {
    client_name: `onbehalf (${new URL(publicUrl).host})`,
    client_uri: publicUrl,
    redirect_uris: [`${publicUrl}/callback/${upstreamName}`],
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
    // A server may refuse plain http of anything but a native client (OpenID Connect Registration §2).
    application_type: isLoopback(publicUrl) ? 'native' : 'web',
  }
}

/** What a program of a person's own says of itself: whoever signs in with it is at the machine that it listens on (RFC 8252 §8.4). */
export function nativeClientMetadata(redirectUri: string) {
  return {
    client_name: 'onbehalf (command line)',
    redirect_uris: [redirectUri],
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
    application_type: 'native',
  }
}

/** The document that stands behind a client id which is a URL (OAuth Client ID Metadata Document). */
export function clientDocument(publicUrl: string, upstreamName: string) {
  return {
    client_id: clientDocumentUrl(publicUrl, upstreamName),
    ...clientMetadata(publicUrl, upstreamName),
    token_endpoint_auth_method: 'none',
  }
}

/** One for each upstream: what one of them learns of a client is of no use at another's server. */
export function clientDocumentUrl(publicUrl: string, upstreamName: string): string {
  return `${publicUrl}/oauth-client/${upstreamName}`
}

/**
 * How a client comes to be at a server. A document is preferred: nothing has to be kept on either side. Servers fetch it from https
 * only, so one of this machine is registered where it can be.
 */
export function wayToRegister(
  publicUrl: string,
  found: Pick<FoundServer, 'takesClientDocuments' | 'registrationEndpoint'>,
): 'document' | 'registration' | 'none' {
  const canRegister = found.registrationEndpoint !== undefined
  if (found.takesClientDocuments && !(isLoopback(publicUrl) && canRegister)) return 'document'
  return canRegister ? 'registration' : 'none'
}

function isLoopback(publicUrl: string): boolean {
  const url = new URL(publicUrl)
  return url.protocol === 'http:' && namesLoopback(url)
}

type RegisteredMethod = RegisteredClient['authentication']['method']

const knownMethods = ['client_secret_basic', 'client_secret_post', 'none'] as const

/** The first of ours that the server takes; without a word from it RFC 8414 §2 says which one it takes. */
function methodFor(
  taken: readonly string[] = ['client_secret_basic'],
  methods: readonly RegisteredMethod[] = knownMethods,
): RegisteredMethod {
  return methods.find((method) => taken.includes(method)) ?? 'client_secret_basic'
}

const visible = z.string().regex(/^[\x20-\x7e]{1,2048}$/)

/** The last one that a date can be. */
const latestSeconds = 8.64e12

const registrationAnswer = z.object({
  client_id: visible,
  client_secret: visible.nullish(),
  token_endpoint_auth_method: z.string().nullish().catch(undefined),
  client_secret_expires_at: z.number().min(0).max(latestSeconds).nullish().catch(undefined),
})

/** Registers a client of ours (RFC 7591 §3.1). @throws DiscoveryFailure */
export async function registerClient(
  http: HttpClient,
  upstream: Upstream,
  options: {
    readonly metadata: Readonly<Record<string, unknown>>
    readonly found: Pick<FoundServer, 'registrationEndpoint' | 'clientAuthenticationMethods'>
    /** How it would like to authenticate, the most wanted first. */
    readonly methods?: readonly RegisteredMethod[]
  },
): Promise<{ readonly client: RegisteredClient; readonly expiresAt: Date | undefined }> {
  const { metadata, found, methods } = options
  const { registrationEndpoint: url } = found
  if (url === undefined) throw new DiscoveryFailure('client', 'no_way_to_register')
  const method = methodFor(found.clientAuthenticationMethods, methods)
  let answer: OutboundResponse
  try {
    answer = await http.send({
      url,
      method: 'POST',
      headers: { 'content-type': 'application/json', accept: 'application/json' },
      body: JSON.stringify({ ...metadata, token_endpoint_auth_method: method }),
      deadlineMs: registrationDeadlineMs,
      maxBytes: registrationMaxBytes,
      destination: writtenEndpoint(upstream, url).destination,
    })
  } catch (error) {
    throw new DiscoveryFailure('client', faultOf(error))
  }
  return readRegistration(answer, method)
}

function readRegistration(
  { status, body }: OutboundResponse,
  asked: RegisteredMethod,
): { readonly client: RegisteredClient; readonly expiresAt: Date | undefined } {
  if (status >= 500 || status === 429) throw new DiscoveryFailure('client', 'busy')
  if (status >= 300 && status <= 399) throw new DiscoveryFailure('client', 'redirect')
  if (status !== 201 && status !== 200) throw new DiscoveryFailure('client', 'registration_refused')
  const parsed = registrationAnswer.safeParse(parseJson(body))
  if (!parsed.success) throw new DiscoveryFailure('client', 'unreadable')
  const { client_id: clientId, client_secret: secret } = parsed.data
  const endsAt = parsed.data.client_secret_expires_at ?? 0
  // The server may have decided otherwise (RFC 7591 §3.2.1).
  const method = parsed.data.token_endpoint_auth_method ?? asked
  const expiresAt = endsAt === 0 ? undefined : new Date(endsAt * 1000)
  if (method === 'none' || secret === undefined || secret === null) {
    return { client: { clientId, authentication: { method: 'none' } }, expiresAt: undefined }
  }
  const byPost = method === 'client_secret_post'
  return {
    client: {
      clientId,
      authentication: {
        method: byPost ? 'client_secret_post' : 'client_secret_basic',
        secret: new Secret(secret),
      },
    },
    expiresAt,
  }
}

function parseJson(body: string): unknown {
  try {
    return JSON.parse(body)
  } catch {
    return undefined
  }
}
