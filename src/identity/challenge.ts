import type { Issuer } from '../core/issuer.ts'
import type { Upstream } from '../core/upstream.ts'

/** What a bearer is asked for: the API, an upstream at its gateway address, or an upstream behind another gateway. */
export type ProtectedTarget =
  | { readonly kind: 'api' }
  | { readonly kind: 'upstream'; readonly upstream: Upstream }
  | { readonly kind: 'external'; readonly upstream: Upstream }

/** A protected resource metadata document (RFC 9728 §2). */
export type ResourceMetadata = {
  readonly resource: string
  readonly authorization_servers: readonly string[]
  readonly bearer_methods_supported: readonly ['header']
  readonly scopes_supported?: readonly string[]
}

export type BearerRefusal = {
  /** Absent when no token was sent (RFC 6750 §3.1). */
  readonly error: 'invalid_token' | 'insufficient_scope' | undefined
  /** The scopes that the token lacked, for `insufficient_scope`; otherwise those that any issuer's tokens need are named. */
  readonly scopes: readonly string[]
}

/** Challenges (RFC 6750 §3) and the documents that they name (RFC 9728), made from one list so that they cannot disagree. */
export interface ProtectedResources {
  /** The value of `WWW-Authenticate`. */
  challenge(refusal: BearerRefusal, target?: ProtectedTarget): string

  /**
   * The document behind `/.well-known/oauth-protected-resource` and `path`, which is empty or begins with a slash. Undefined
   * for an upstream that does not exist, is of another kind, or has no external address.
   */
  document(path: string): ResourceMetadata | undefined
}

const wellKnownPath = '/.well-known/oauth-protected-resource'

export function createProtectedResources(options: {
  readonly publicUrl: string
  readonly issuers: readonly Pick<Issuer, 'issuer' | 'requiredScopes'>[]
  readonly upstreams: ReadonlyMap<string, Upstream>
}): ProtectedResources {
  const { publicUrl, issuers, upstreams } = options
  const scopes = [...new Set(issuers.flatMap((issuer) => issuer.requiredScopes))]
  const authorizationServers = issuers.map((issuer) => issuer.issuer)

  const targets = [...upstreams.values()].flatMap((upstream): ProtectedTarget[] => [
    { kind: 'upstream', upstream },
    { kind: 'external', upstream },
  ])
  const places = [{ kind: 'api' } as const, ...targets].flatMap(
    (target) => placeOf(publicUrl, target) ?? [],
  )
  const documents = new Map(
    places.map(({ path, resource }): [string, ResourceMetadata] => [
      path,
      {
        resource,
        authorization_servers: authorizationServers,
        bearer_methods_supported: ['header'],
        ...(scopes.length === 0 ? {} : { scopes_supported: scopes }),
      },
    ]),
  )

  return {
    document: (path) => documents.get(path),
    challenge(refusal, target = { kind: 'api' }) {
      const place = placeOf(publicUrl, target)
      const named = refusal.scopes.length > 0 ? refusal.scopes : scopes
      return bearerChallenge({
        resource_metadata:
          place === undefined ? undefined : `${publicUrl}${wellKnownPath}${place.path}`,
        scope: named.length === 0 ? undefined : named.join(' '),
        error: refusal.error,
      })
    },
  }
}

/**
 * Where the document of a target stands, behind the well-known path, and its resource, which is the audience of its tokens.
 * Undefined for an upstream without an external address.
 */
function placeOf(
  publicUrl: string,
  target: ProtectedTarget,
): { readonly path: string; readonly resource: string } | undefined {
  switch (target.kind) {
    case 'api':
      return { path: '', resource: publicUrl }
    case 'upstream': {
      const path = gatewayPath(target.upstream)
      return { path, resource: `${publicUrl}${path}` }
    }
    case 'external': {
      const { name, externalUrl } = target.upstream
      return externalUrl === undefined
        ? undefined
        : { path: `/ext-authz/${name}`, resource: externalUrl }
    }
  }
}

/** The audiences for which a token serves at this upstream, besides the configured ones of its issuer. */
export function audiencesOfUpstream(publicUrl: string, upstream: Upstream): readonly string[] {
  const targets: readonly ProtectedTarget[] = [
    { kind: 'upstream', upstream },
    { kind: 'external', upstream },
  ]
  return targets.flatMap((target) => placeOf(publicUrl, target)?.resource ?? [])
}

function gatewayPath(upstream: Upstream): string {
  return `${upstream.kind === 'mcp' ? '/mcp' : '/proxy'}/${upstream.name}`
}

/** A Bearer challenge of the parameters that have a value, in their order. Without any it is the scheme alone. */
function bearerChallenge(parameters: Readonly<Record<string, string | undefined>>): string {
  const written = Object.entries(parameters).flatMap(([name, value]) =>
    value === undefined ? [] : [`${name}=${quoted(value)}`],
  )
  return ['Bearer', written.join(', ')].filter((part) => part !== '').join(' ')
}

/** A quoted-string (RFC 9110 §5.6.4). What no header may hold is left out, so that no value can end it or begin another line. */
function quoted(value: string): string {
  return `"${value.replace(/[^\x20-\x7e]/g, '').replace(/["\\]/g, '\\$&')}"`
}
