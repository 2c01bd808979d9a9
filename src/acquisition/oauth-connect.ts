import type { AcquisitionMethod } from '../core/ports/acquisition-method.ts'
import type { AuthorizationClient } from '../core/ports/authorization-client.ts'
import { buildAuthorizationRequest } from '../oauth/authorization-request.ts'
import type { AuthorizationServers } from '../oauth/authorization-server.ts'
import type { Revocations } from '../oauth/revocation.ts'
import { codeGrant, refreshGrant, type TokenRequests } from '../oauth/token-request.ts'

/** Keeps what a person connected alive; the connecting itself is the AuthorizationClient's, so there is nothing to acquire. */
export function createOAuthConnect(ports: {
  readonly requests: TokenRequests
  readonly revocations: Revocations
}): AcquisitionMethod {
  const { requests, revocations } = ports
  return {
    name: 'connect',
    async refresh(upstream, refreshToken, scopes, watch) {
      return requests.send(upstream, refreshGrant(refreshToken, scopes), watch)
    },
    readRefresh: (upstream, answer) => requests.read(upstream, 'refresh', answer),
    async revoke(upstream, token, hint) {
      return revocations.revoke(upstream, token, hint)
    },
  }
}

/** The authorization-code half: where the browser goes, and what the code that it brings back is worth. */
export function createCodeFlow(ports: {
  readonly servers: AuthorizationServers
  readonly requests: TokenRequests
}): AuthorizationClient {
  const { servers, requests } = ports
  return {
    async request(upstream, options) {
      return buildAuthorizationRequest(upstream, await servers.authorization(upstream), options)
    },
    async redeem(upstream, options) {
      return requests.send(upstream, codeGrant(options))
    },
    async host(upstream) {
      return new URL((await servers.authorization(upstream)).url).host
    },
  }
}
