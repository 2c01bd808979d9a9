import { AuthorizationResponseError, validateAuthResponse } from 'oauth4webapi'
import { AcquisitionFailure } from '../core/failure-verdict.ts'
import type { AuthorizationRequest } from '../core/ports/authorization-client.ts'
import type { Clock } from '../core/ports/clock.ts'
import type { RegisteredClient } from '../core/ports/discovery-store.ts'
import type { HttpClient } from '../core/ports/http-client.ts'
import { Secret } from '../core/secret.ts'
import type { Upstream } from '../core/upstream.ts'
import { buildAuthorizationRequest } from './authorization-request.ts'
import { createAuthorizationServers } from './authorization-server.ts'
import { bareUpstream } from './bare-upstream.ts'
import { nativeClientMetadata, registerClient } from './client-registration.ts'
import { DiscoveryFailure, type DiscoveryFault } from './discovery-failure.ts'
import { createMetadataSource } from './metadata.ts'
import { findProtectedResource, type ProtectedResource } from './protected-resource.ts'
import { type CompleteMetadata, findServer } from './server-search.ts'
import { codeGrant, createTokenRequests, refreshGrant, type TokenGrant } from './token-request.ts'

/** A person's sign-in for a broker, at a program of their own. */
export type PersonSession = SignedInAt & {
  readonly accessToken: Secret
  /** Absent when nobody said. */
  readonly expiresAt: Date | undefined
  readonly refreshToken: Secret | undefined
}

/** Where a session comes from: everything that renewing it needs besides the refresh token. */
type SignedInAt = {
  /** The broker, without a slash at its end. */
  readonly url: string
  readonly issuer: string
  readonly tokenEndpoint: string
  readonly client: RegisteredClient
  /** What the tokens are asked for (RFC 8707): the broker as it names itself. Undefined where the issuer is not to hear it. */
  readonly resource: string | undefined
  readonly allowPrivateNetwork: boolean
}

export type SignInRequest = Pick<SignedInAt, 'url' | 'allowPrivateNetwork'> & {
  /** Of this machine (RFC 8252 §7.3). */
  readonly redirectUri: string
  /** Needed where the broker names several. */
  readonly issuer: string | undefined
  /** Of a public client; registered where it is left out and the issuer takes registrations. */
  readonly clientId: string | undefined
  /** As they stand; what the broker and the issuer name where left out. */
  readonly scopes: readonly string[] | undefined
  /** False for issuers that refuse `resource`, such as Entra. */
  readonly sendsResource: boolean
}

/** A sign-in that the person has to go on with in a browser. */
export type BegunSignIn = {
  readonly authorizationUrl: URL
  /** What an answer must bring to be this sign-in's. */
  readonly state: string
  /** Redeems the answer that came to the redirect URI. State and issuer are checked before anything is sent. */
  readonly finish: (answer: URLSearchParams) => Promise<PersonSession>
}

/** Signs people in at a broker's issuer: code and PKCE, a redirect to this machine (RFC 8252). All throw SignInFailure. */
export interface PersonSignIns {
  begin(request: SignInRequest): Promise<BegunSignIn>
  /** The old refresh token may be spent afterwards, whatever comes of it. */
  renew(session: PersonSession): Promise<PersonSession>
}

/** Why a sign-in failed. Closed: nothing of a server's answer fits. */
export type SignInFault =
  | { readonly kind: 'broker_document'; readonly fault: DiscoveryFault }
  | { readonly kind: 'server_document' | 'registration'; readonly fault: DiscoveryFault }
  /** None was chosen of several, or another than they. */
  | { readonly kind: 'which_issuer'; readonly issuers: readonly string[] }
  | { readonly kind: 'no_client' }
  /** The person, or the issuer, said no. */
  | { readonly kind: 'denied' }
  /** The answer is not the one to our question: another state or issuer. */
  | { readonly kind: 'answer_refused' }
  | { readonly kind: 'token_refused' }
  /** The token endpoint cannot be asked for now. */
  | { readonly kind: 'passing' }

export class SignInFailure extends Error {
  readonly fault: SignInFault
  /** The server that was asked, where it came to that. A server's own words. */
  readonly issuer: string | undefined

  constructor(fault: SignInFault, issuer?: string) {
    super(`sign-in failed: ${fault.kind}`)
    this.name = 'SignInFailure'
    this.fault = fault
    this.issuer = issuer
  }
}

export function createPersonSignIns(ports: {
  readonly http: HttpClient
  readonly clock: Clock
}): PersonSignIns {
  const { http, clock } = ports
  const servers = createAuthorizationServers({
    metadata: createMetadataSource(ports),
    clock,
  })
  const requests = createTokenRequests({ http, clock, servers })

  async function begin(request: SignInRequest): Promise<BegunSignIn> {
    const { url, allowPrivateNetwork, redirectUri } = request
    const broker = bareUpstream(url, allowPrivateNetwork)
    const resource = await orFailure('broker_document', undefined, () =>
      findProtectedResource(http, broker, undefined),
    )
    const issuer = issuerOf(resource, request.issuer)
    const metadata = await orFailure('server_document', issuer, () =>
      findServer(http, broker, issuer),
    )
    const at: SignedInAt = {
      url,
      issuer,
      tokenEndpoint: metadata.tokenEndpoint,
      client: await clientAt(broker, metadata, request),
      resource: request.sendsResource ? resource.resource : undefined,
      allowPrivateNetwork,
    }
    const scopes = request.scopes ?? scopesToAskFor(resource, metadata)
    const authorization = await buildAuthorizationRequest(
      issuerAsUpstream(at, scopes),
      {
        url: metadata.authorizationEndpoint,
        issuer,
        issuerRequired: metadata.issuerInResponses,
      },
      { redirectUri, scopes, claims: undefined },
    )
    return {
      authorizationUrl: authorization.url,
      state: authorization.state,
      finish: (answer) => finish(at, authorization, redirectUri, answer),
    }
  }

  async function clientAt(
    broker: Upstream,
    metadata: CompleteMetadata,
    { clientId, redirectUri }: SignInRequest,
  ): Promise<RegisteredClient> {
    if (clientId !== undefined) return { clientId, authentication: { method: 'none' } }
    const { issuer } = metadata
    if (metadata.registrationEndpoint === undefined) {
      throw new SignInFailure({ kind: 'no_client' }, issuer)
    }
    const { client } = await orFailure('registration', issuer, () =>
      registerClient(http, broker, {
        metadata: nativeClientMetadata(redirectUri),
        found: metadata,
        // A secret that every copy of a program has is none (RFC 8252 §8.5).
        methods: ['none', 'client_secret_basic', 'client_secret_post'],
      }),
    )
    return client
  }

  async function finish(
    at: SignedInAt,
    authorization: AuthorizationRequest,
    redirectUri: string,
    answer: URLSearchParams,
  ): Promise<PersonSession> {
    const code = codeIn(answer, at, authorization)
    return tokensFor(
      at,
      codeGrant({ code, codeVerifier: authorization.codeVerifier, redirectUri }),
      undefined,
    )
  }

  async function renew(session: PersonSession): Promise<PersonSession> {
    const { refreshToken } = session
    if (refreshToken === undefined) throw new SignInFailure({ kind: 'token_refused' })
    return tokensFor(session, refreshGrant(refreshToken, []), refreshToken)
  }

  async function tokensFor(
    { url, issuer, tokenEndpoint, client, resource, allowPrivateNetwork }: SignedInAt,
    grant: TokenGrant,
    refreshToken: Secret | undefined,
  ): Promise<PersonSession> {
    const at = { url, issuer, tokenEndpoint, client, resource, allowPrivateNetwork }
    try {
      const tokens = await requests.send(issuerAsUpstream(at, []), grant)
      return {
        ...at,
        accessToken: tokens.accessToken,
        expiresAt: tokens.expiresAt,
        refreshToken: tokens.refreshToken ?? refreshToken,
      }
    } catch (error) {
      if (!(error instanceof AcquisitionFailure)) throw error
      const isPassing = error.verdict.kind === 'retry_at'
      throw new SignInFailure({ kind: isPassing ? 'passing' : 'token_refused' }, issuer)
    }
  }

  return { begin, renew }
}

/** The issuer that was written is asked only where the broker takes its tokens: nobody should sign in there for nothing. */
function issuerOf(
  { authorizationServers: issuers }: ProtectedResource,
  written: string | undefined,
): string {
  const named = written === undefined ? issuers : issuers.filter((issuer) => issuer === written)
  const [only] = named
  if (only === undefined || named.length > 1) {
    throw new SignInFailure({ kind: 'which_issuer', issuers })
  }
  return only
}

/**
 * What the broker's tokens need; where that is nothing, `openid`, without which some issuers refuse. And `offline_access`, so that
 * the session can be renewed.
 */
function scopesToAskFor(
  { scopes: needed = [] }: ProtectedResource,
  { scopes: listed = [] }: CompleteMetadata,
): readonly string[] {
  const wanted = [...(needed.length === 0 ? ['openid'] : []), 'offline_access']
  return [...new Set([...needed, ...wanted.filter((scope) => listed.includes(scope))])]
}

/** The issuer as token requests see it. Only the broker's own address is the person's; the rest was found. */
function issuerAsUpstream(
  { url, allowPrivateNetwork, issuer, tokenEndpoint, client, resource }: SignedInAt,
  scopes: readonly string[],
): Upstream {
  const broker = bareUpstream(url, allowPrivateNetwork)
  return {
    ...broker,
    credential: {
      ...broker.credential,
      issuer,
      tokenEndpoint,
      clientId: client.clientId,
      clientAuthentication: client.authentication,
      resource,
      scopes,
      // OpenID Connect Core §11: without it `offline_access` counts for nothing.
      authorizationParameters: scopes.includes('offline_access') ? { prompt: 'consent' } : {},
    },
  }
}

/** RFC 6749 §10.12, RFC 9207 §2.4. @throws SignInFailure */
function codeIn(
  answer: URLSearchParams,
  { issuer, client }: SignedInAt,
  { state, issuerRequired }: AuthorizationRequest,
): Secret {
  let code: string | null
  try {
    code = validateAuthResponse(
      { issuer, authorization_response_iss_parameter_supported: issuerRequired },
      { client_id: client.clientId },
      answer,
      state,
    ).get('code')
  } catch (error) {
    // Nothing of the error: it quotes the answer.
    const isDenied = error instanceof AuthorizationResponseError
    throw new SignInFailure({ kind: isDenied ? 'denied' : 'answer_refused' }, issuer)
  }
  if (code === null || code === '') throw new SignInFailure({ kind: 'answer_refused' }, issuer)
  return new Secret(code)
}

async function orFailure<Found>(
  kind: 'broker_document' | 'server_document' | 'registration',
  issuer: string | undefined,
  work: () => Promise<Found>,
): Promise<Found> {
  try {
    return await work()
  } catch (error) {
    if (!(error instanceof DiscoveryFailure)) throw error
    throw new SignInFailure({ kind, fault: error.fault }, issuer)
  }
}
