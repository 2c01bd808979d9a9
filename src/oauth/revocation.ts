import { allowInsecureRequests, customFetch, revocationRequest } from 'oauth4webapi'
import { AcquisitionFailure } from '../core/failure-verdict.ts'
import type { HttpClient } from '../core/ports/http-client.ts'
import type { Secret } from '../core/secret.ts'
import type { Upstream } from '../core/upstream.ts'
import type { AuthorizationServers } from './authorization-server.ts'
import { audienceOf, clientOf, sendForm } from './client-request.ts'

const revocationDeadlineMs = 5000
const revocationMaxBytes = 64 * 1024

export interface Revocations {
  /**
   * Revokes a token (RFC 7009 §2.1) where the server has an endpoint for it, and does nothing where not. A server that no
   * longer knows the token says 200 too (§2.2). @throws AcquisitionFailure
   */
  revoke(upstream: Upstream, token: Secret, hint: 'refresh_token' | 'access_token'): Promise<void>
}

export function createRevocations(ports: {
  readonly http: HttpClient
  readonly servers: AuthorizationServers
}): Revocations {
  const { http, servers } = ports

  async function revoke(
    upstream: Upstream,
    token: Secret,
    hint: 'refresh_token' | 'access_token',
  ): Promise<void> {
    const server = await servers.revocation(upstream)
    if (server === undefined) return
    const { client, authentication } = await clientOf(upstream)
    const limits = { deadlineMs: revocationDeadlineMs, maxBytes: revocationMaxBytes }
    const answer = await sendForm(http, server.endpoint, limits, (fetch) =>
      revocationRequest(
        { issuer: audienceOf(server), revocation_endpoint: server.endpoint.url },
        client,
        authentication,
        token.reveal(),
        {
          [customFetch]: fetch,
          [allowInsecureRequests]: true,
          additionalParameters: { token_type_hint: hint },
        },
      ),
    )
    if (answer.status < 200 || answer.status > 299) {
      throw new AcquisitionFailure({ kind: 'retry_at', answer: 'complete' })
    }
  }

  return { revoke }
}
