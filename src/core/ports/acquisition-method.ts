import type { TokenSet } from '../credential.ts'
import type { Secret } from '../secret.ts'
import type { MethodName, Upstream } from '../upstream.ts'

/**
 * A way in which a credential comes to be. Every function asks the server once and throws AcquisitionFailure, never
 * anything that holds the server's text.
 */
export interface AcquisitionMethod {
  readonly name: MethodName

  /** Exchanges the person's subject token. Absent where a person has to connect instead. */
  acquire?(upstream: Upstream, subjectToken: Secret): Promise<TokenSet>

  /** Redeems a refresh token (RFC 6749 §6). */
  refresh(upstream: Upstream, refreshToken: Secret, scopes: readonly string[]): Promise<TokenSet>

  /** Revokes a token (RFC 7009) where the server has an endpoint for it; resolves without doing anything where not. */
  revoke(upstream: Upstream, token: Secret, hint: 'refresh_token' | 'access_token'): Promise<void>
}
