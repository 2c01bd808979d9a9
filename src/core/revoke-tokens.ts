import type { TokenSet } from './credential.ts'
import type { AcquisitionMethod } from './ports/acquisition-method.ts'
import type { Upstream } from './upstream.ts'

/**
 * Revokes what a server gave and nobody will keep: the refresh token, else the access token. Never rejects, because a server
 * that fails or hangs must keep nobody.
 */
export async function revokeTokens(
  method: AcquisitionMethod,
  upstream: Upstream,
  tokens: Pick<TokenSet, 'accessToken' | 'refreshToken'>,
): Promise<void> {
  const { accessToken, refreshToken } = tokens
  const hint = refreshToken === undefined ? 'access_token' : 'refresh_token'
  await method.revoke(upstream, refreshToken ?? accessToken, hint).catch(() => {})
}
