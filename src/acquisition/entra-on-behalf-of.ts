import type { AcquisitionMethod } from '../core/ports/acquisition-method.ts'
import type { Secret } from '../core/secret.ts'
import type { Upstream } from '../core/upstream.ts'
import type { Revocations } from '../oauth/revocation.ts'
import {
  refreshGrant,
  scopeParameter,
  type TokenGrant,
  type TokenRequests,
} from '../oauth/token-request.ts'
import { presented } from './token-exchanger.ts'

/**
 * Exchanges the person's token at Microsoft Entra, on behalf of the person. What the token is for goes into the configured
 * scopes (`<resource>/.default`); Entra's v2 endpoint refuses `resource`.
 */
export function createEntraOnBehalfOf(ports: {
  readonly requests: TokenRequests
  readonly revocations: Revocations
}): AcquisitionMethod {
  const { requests, revocations } = ports
  return {
    name: 'entra_obo',
    async acquire(upstream, subjectToken, watch) {
      return requests.send(upstream, onBehalfOfGrant(upstream, subjectToken), watch)
    },
    // The configured scopes rather than the granted ones: Entra leaves `offline_access` out of what it says it granted, and
    // without it the next refresh brings no refresh token.
    async refresh(upstream, refreshToken, _scopes, watch) {
      const grant = refreshGrant(refreshToken, upstream.credential.scopes)
      return requests.send(upstream, { ...grant, sendsResource: false }, watch)
    },
    readRefresh: (upstream, answer) => requests.read(upstream, 'refresh', answer),
    async revoke(upstream, token, hint) {
      return revocations.revoke(upstream, token, hint)
    },
  }
}

function onBehalfOfGrant(upstream: Upstream, assertion: Secret): TokenGrant {
  return {
    kind: 'exchange',
    grantType: 'urn:ietf:params:oauth:grant-type:jwt-bearer',
    parameters: [
      ['assertion', presented(assertion)],
      ['requested_token_use', 'on_behalf_of'],
      ...scopeParameter(upstream.credential.scopes),
    ],
    sendsResource: false,
  }
}
