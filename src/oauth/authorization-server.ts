import { AcquisitionFailure } from '../core/failure-verdict.ts'
import { createLineLimit } from '../core/line-limit.ts'
import type { Clock } from '../core/ports/clock.ts'
import type { Upstream } from '../core/upstream.ts'
import { discoveredEndpoint, type Endpoint, writtenEndpoint } from './endpoint.ts'
import type { MetadataSource, ServerMetadata } from './metadata.ts'
import type { TokenRequestLog } from './token-request-log.ts'

/** An endpoint with the issuer it belongs to, where one is known. */
export type ServerEndpoint = { readonly issuer: string | undefined; readonly endpoint: Endpoint }

/** Where a browser is sent, and what its answer must say. */
export type AuthorizationEndpoint = {
  readonly url: string
  /** What `iss` must be; undefined where no issuer is written. */
  readonly issuer: string | undefined
  readonly issuerRequired: boolean
}

/**
 * The authorization server of an upstream. What is written wins over what is discovered, and what is written needs no
 * network. All throw AcquisitionFailure; metadata that do not do for a token or an authorization are logged.
 */
export interface AuthorizationServers {
  token(upstream: Upstream): Promise<ServerEndpoint>
  authorization(upstream: Upstream): Promise<AuthorizationEndpoint>
  /** Undefined where the server has none (RFC 7009). */
  revocation(upstream: Upstream): Promise<ServerEndpoint | undefined>
}

export function createAuthorizationServers(ports: {
  readonly metadata: MetadataSource
  readonly clock: Clock
  readonly log?: TokenRequestLog | undefined
}): AuthorizationServers {
  const { metadata, clock, log } = ports
  const mayLog = createLineLimit({ clock })

  async function token(upstream: Upstream): Promise<ServerEndpoint> {
    const { issuer, tokenEndpoint } = upstream.credential
    if (tokenEndpoint !== undefined) {
      return { issuer, endpoint: writtenEndpoint(upstream, tokenEndpoint) }
    }
    const found = await discover(upstream)
    return discovered(upstream, found, found.tokenEndpoint)
  }

  async function revocation(upstream: Upstream): Promise<ServerEndpoint | undefined> {
    const { issuer, revocationEndpoint, discovery } = upstream.credential
    if (revocationEndpoint !== undefined) {
      return { issuer, endpoint: writtenEndpoint(upstream, revocationEndpoint) }
    }
    // What discovery did not find is not there.
    if (issuer === undefined || discovery !== undefined) return undefined
    const found = await metadata.find(upstream, issuer)
    if (found.revocationEndpoint === undefined) return undefined
    return discovered(upstream, found, found.revocationEndpoint)
  }

  async function authorization(upstream: Upstream): Promise<AuthorizationEndpoint> {
    const { issuer, authorizationEndpoint } = upstream.credential
    if (authorizationEndpoint !== undefined) {
      return { url: authorizationEndpoint, issuer, issuerRequired: await promisesIssuer(upstream) }
    }
    const found = await discover(upstream)
    // A server that does not say that it takes S256 may ignore the challenge, and then a stolen code is as good as ours
    // (RFC 9700 §4.8.2). Who knows that it does takes it writes the endpoint.
    if (found.authorizationEndpoint === undefined || !found.supportsS256) throw misconfigured()
    return {
      url: found.authorizationEndpoint,
      issuer: found.issuer,
      issuerRequired: found.issuerInResponses,
    }
  }

  /** A written endpoint works without metadata; where they can be had, their promise of an `iss` counts all the same. */
  async function promisesIssuer(upstream: Upstream): Promise<boolean> {
    const { issuer, discovery } = upstream.credential
    if (discovery?.found !== undefined) return discovery.found.issuerInResponses
    if (issuer === undefined) return false
    try {
      return (await metadata.find(upstream, issuer)).issuerInResponses
    } catch (error) {
      if (!(error instanceof AcquisitionFailure)) throw error
      return false
    }
  }

  async function discover(upstream: Upstream): Promise<ServerMetadata> {
    const { issuer } = upstream.credential
    if (issuer === undefined) throw misconfigured()
    return metadata.find(upstream, issuer)
  }

  function reported<Found>(find: (upstream: Upstream) => Promise<Found>) {
    return async (upstream: Upstream): Promise<Found> => {
      try {
        return await find(upstream)
      } catch (error) {
        const isFault =
          error instanceof AcquisitionFailure && error.verdict.kind === 'misconfigured'
        if (isFault && mayLog(upstream.name)) {
          log?.warn({ event: 'upstream_metadata_refused', upstream: upstream.name })
        }
        throw error
      }
    }
  }

  return { token: reported(token), authorization: reported(authorization), revocation }
}

function discovered(
  upstream: Upstream,
  { issuer }: ServerMetadata,
  url: string | undefined,
): ServerEndpoint {
  if (url === undefined) throw misconfigured()
  return { issuer, endpoint: discoveredEndpoint(upstream, issuer, url) }
}

function misconfigured(): AcquisitionFailure {
  return new AcquisitionFailure({ kind: 'misconfigured' })
}
