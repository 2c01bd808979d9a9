import type { BearerChallenge } from '../core/bearer-challenge.ts'
import type { FoundServer } from '../core/ports/discovery-store.ts'
import type { HttpClient } from '../core/ports/http-client.ts'
import type { Upstream } from '../core/upstream.ts'
import {
  DiscoveryFailure,
  type DiscoveryFault,
  type DiscoveryStep,
  isPassing,
} from './discovery-failure.ts'
import { mayBePlainHttp } from './endpoint.ts'
import { findServerMetadata, type ServerMetadata } from './metadata.ts'
import {
  askForChallenge,
  findProtectedResource,
  type ProtectedResource,
} from './protected-resource.ts'
import { isUsableUrl } from './usable-url.ts'

/** What a step came to, for whoever watches. */
export type DiscoveryProgress =
  | { readonly step: 'challenge'; readonly found: BearerChallenge }
  | { readonly step: 'resource_metadata'; readonly found: ProtectedResource }
  | { readonly step: 'server_metadata'; readonly url: string; readonly found: ServerMetadata }
  | {
      readonly step: DiscoveryStep
      readonly fault: DiscoveryFault
      /** The server that was asked, where several may be. */
      readonly issuer?: string
    }

/**
 * Finds the authorization server of an upstream: its challenge, its document, the server's metadata. Registers nothing.
 * @throws DiscoveryFailure of the step that led nowhere
 */
export async function searchServer(
  http: HttpClient,
  upstream: Upstream,
  options: {
    /** The server that was found before: kept where the upstream still names it. */
    readonly known?: string | undefined
    readonly told?: (progress: DiscoveryProgress) => void
  } = {},
): Promise<FoundServer> {
  const { known, told = () => {} } = options
  const { credential } = upstream
  const { resource, scopes } = await whatUpstreamSays(http, upstream, told)
  const issuers =
    credential.discovery?.issuer === false && credential.issuer !== undefined
      ? [credential.issuer]
      : inOrder(resource?.authorizationServers ?? [], known)
  let failure: DiscoveryFailure | undefined
  for (const issuer of issuers) {
    try {
      const metadata = await findUsableServer(http, upstream, issuer, told)
      return foundServer(upstream, metadata, resource, scopes)
    } catch (error) {
      if (!(error instanceof DiscoveryFailure)) throw error
      told({ step: error.step, fault: error.fault, issuer })
      failure ??= error
      // An outage of the server that people are connected at is no reason to send them to another.
      if (issuer === known && isPassing(error.fault)) break
    }
  }
  throw failure ?? new DiscoveryFailure('resource_metadata', 'no_authorization_server')
}

async function whatUpstreamSays(
  http: HttpClient,
  upstream: Upstream,
  told: (progress: DiscoveryProgress) => void,
): Promise<{ resource: ProtectedResource | undefined; scopes: readonly string[] | undefined }> {
  const { discovery } = upstream.credential
  const isToldAll = discovery?.issuer === false && !discovery.resource && !discovery.scopes
  if (isToldAll) return { resource: undefined, scopes: undefined }
  let challenge: BearerChallenge | undefined
  try {
    challenge = await askForChallenge(http, upstream)
    told({ step: 'challenge', found: challenge })
  } catch (error) {
    if (!(error instanceof DiscoveryFailure)) throw error
    told({ step: error.step, fault: error.fault })
    const isAway = error.fault === 'address_refused' || error.fault === 'unreachable'
    if (isAway && !canDoWithout(upstream, error)) throw error
  }
  try {
    const resource = await findProtectedResource(http, upstream, challenge?.resourceMetadata)
    told({ step: 'resource_metadata', found: resource })
    return { resource, scopes: challenge?.scopes ?? resource.scopes }
  } catch (error) {
    if (!(error instanceof DiscoveryFailure)) throw error
    told({ step: error.step, fault: error.fault })
    if (!canDoWithout(upstream, error)) throw error
    return { resource: undefined, scopes: challenge?.scopes }
  }
}

/**
 * Where the server is written, the upstream has only its scopes to add. One that is away for a moment may have some; one that says
 * that it is another is none of ours.
 */
function canDoWithout({ credential }: Upstream, { fault }: DiscoveryFailure): boolean {
  const { discovery } = credential
  if (discovery?.issuer !== false || fault === 'resource_mismatch') return false
  return !discovery.scopes || !isPassing(fault)
}

function inOrder(issuers: readonly string[], known: string | undefined): readonly string[] {
  const isKnown = (issuer: string) => issuer === known
  return [...issuers.filter(isKnown), ...issuers.filter((issuer) => !isKnown(issuer))]
}

async function findUsableServer(
  http: HttpClient,
  upstream: Upstream,
  issuer: string,
  told: (progress: DiscoveryProgress) => void,
): Promise<CompleteMetadata> {
  const metadata = await findServer(http, upstream, issuer, told)
  // A server that does not say that it takes S256 may ignore the challenge (RFC 9700 §4.8.2).
  if (!metadata.supportsS256) throw new DiscoveryFailure('server_metadata', 'pkce_not_advertised')
  return metadata
}

/** Of a server that people can be sent to. */
export type CompleteMetadata = ServerMetadata & {
  readonly authorizationEndpoint: string
  readonly tokenEndpoint: string
}

/** An authorization server by its issuer, whatever it says of PKCE. @throws DiscoveryFailure */
export async function findServer(
  http: HttpClient,
  upstream: Upstream,
  issuer: string,
  told: (progress: DiscoveryProgress) => void = () => {},
): Promise<CompleteMetadata> {
  const failed = (fault: DiscoveryFault) => new DiscoveryFailure('server_metadata', fault)
  if (!isIssuer(issuer, upstream)) throw failed('issuer_unusable')
  const answer = await findServerMetadata(http, upstream, issuer)
  if ('fault' in answer) throw failed(answer.fault)
  const { metadata, url } = answer
  told({ step: 'server_metadata', url, found: metadata })
  const { authorizationEndpoint, tokenEndpoint } = metadata
  if (authorizationEndpoint === undefined || tokenEndpoint === undefined) {
    throw failed('endpoint_missing')
  }
  return { ...metadata, authorizationEndpoint, tokenEndpoint }
}

/** RFC 8414 §2: a URL without query or fragment. */
function isIssuer(issuer: string, upstream: Upstream): boolean {
  if (!isUsableUrl(issuer, true) || /[?#]/.test(issuer)) return false
  return isUsableUrl(issuer, mayBePlainHttp(upstream, issuer))
}

function foundServer(
  { url, credential }: Upstream,
  metadata: CompleteMetadata,
  resource: ProtectedResource | undefined,
  scopes: readonly string[] | undefined,
): FoundServer {
  const isWritten = credential.discovery?.scopes === false
  return {
    issuer: metadata.issuer,
    resource: resource?.resource ?? url,
    // What is written is asked for as it is written.
    scopes: isWritten ? credential.scopes : withOfflineAccess(scopes ?? [], metadata),
    authorizationEndpoint: metadata.authorizationEndpoint,
    tokenEndpoint: metadata.tokenEndpoint,
    revocationEndpoint: metadata.revocationEndpoint,
    registrationEndpoint: metadata.registrationEndpoint,
    takesClientDocuments: metadata.takesClientDocuments,
    clientAuthenticationMethods: metadata.clientAuthenticationMethods,
    issuerInResponses: metadata.issuerInResponses,
  }
}

/** `offline_access` goes along where the server lists it: no refresh token comes without it there (OpenID Connect Core §11). */
function withOfflineAccess(
  scopes: readonly string[],
  { scopes: listed = [] }: ServerMetadata,
): readonly string[] {
  const isAdded =
    scopes.length > 0 && listed.includes('offline_access') && !scopes.includes('offline_access')
  return isAdded ? [...scopes, 'offline_access'] : scopes
}
