import type { TokenSet } from '../credential.ts'
import type { Secret } from '../secret.ts'
import type { Upstream } from '../upstream.ts'

/** The redirect to make. */
export type AuthorizationRequest = {
  readonly url: URL
  readonly state: string
  readonly codeVerifier: Secret
  readonly expectedIssuer: string | undefined
  readonly issuerRequired: boolean
}

/** The authorization-code half of an OAuth client (RFC 6749 §4.1, RFC 7636 S256, RFC 8707, RFC 9207). */
export interface AuthorizationClient {
  /** Builds the authorization request. @throws AcquisitionFailure when the server's metadata cannot be had or do not do. */
  request(
    upstream: Upstream,
    options: { redirectUri: string; scopes: readonly string[]; claims: Secret | undefined },
  ): Promise<AuthorizationRequest>

  /** Redeems a code whose state, browser, person and issuer were checked before. @throws AcquisitionFailure */
  redeem(
    upstream: Upstream,
    options: { code: Secret; codeVerifier: Secret; redirectUri: string },
  ): Promise<TokenSet>

  /** Host of the authorization server, for the confirmation page. @throws AcquisitionFailure */
  host(upstream: Upstream): Promise<string>
}
