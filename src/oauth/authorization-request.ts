import {
  calculatePKCECodeChallenge,
  generateRandomCodeVerifier,
  generateRandomState,
} from 'oauth4webapi'
import type { AuthorizationRequest } from '../core/ports/authorization-client.ts'
import { Secret } from '../core/secret.ts'
import type { Upstream } from '../core/upstream.ts'
import type { AuthorizationEndpoint } from './authorization-server.ts'

/**
 * Builds an authorization request (RFC 6749 §4.1.1) with a state of 256 random bits, a PKCE challenge of its own (RFC 7636,
 * S256 always) and the resource that the credential is for (RFC 8707 §2.1).
 */
export async function buildAuthorizationRequest(
  upstream: Upstream,
  server: AuthorizationEndpoint,
  options: {
    readonly redirectUri: string
    readonly scopes: readonly string[]
    readonly claims: Secret | undefined
  },
): Promise<AuthorizationRequest> {
  const { clientId, resource, authorizationParameters } = upstream.credential
  const state = generateRandomState()
  const codeVerifier = generateRandomCodeVerifier()
  const ours = new URLSearchParams({
    response_type: 'code',
    client_id: clientId,
    redirect_uri: options.redirectUri,
    ...(options.scopes.length === 0 ? {} : { scope: options.scopes.join(' ') }),
    state,
    code_challenge: await calculatePKCECodeChallenge(codeVerifier),
    code_challenge_method: 'S256',
    ...(resource === undefined ? {} : { resource }),
    ...(options.claims === undefined ? {} : { claims: options.claims.reveal() }),
  })
  for (const [name, value] of Object.entries(authorizationParameters)) {
    if (!ours.has(name)) ours.append(name, value)
  }
  return {
    url: withParameters(server.url, ours),
    state,
    codeVerifier: new Secret(codeVerifier),
    expectedIssuer: server.issuer,
    issuerRequired: server.issuerRequired,
  }
}

/**
 * Appends our parameters to the endpoint's own query, which stays as it is written (RFC 6749 §3.1), except for a parameter
 * that would then be there twice.
 */
function withParameters(endpoint: string, ours: URLSearchParams): URL {
  const url = new URL(endpoint)
  const kept = url.search
    .slice(1)
    .split('&')
    .filter(
      (pair) =>
        pair !== '' && ![...new URLSearchParams(pair).keys()].some((name) => ours.has(name)),
    )
  url.search = [...kept, ours.toString()].join('&')
  return url
}
