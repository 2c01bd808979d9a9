import type { Issuer } from '../core/issuer.ts'
import type {
  ProtectedResources,
  ProtectedTarget,
  ResourceMetadata,
} from '../core/ports/protected-resources.ts'
import type { Upstream } from '../core/upstream.ts'

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
