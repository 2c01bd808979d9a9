import type { TokenSet } from './credential.ts'
import type { AcquisitionMethod, AcquisitionMethods } from './ports/acquisition-method.ts'
import type { TakenCredential } from './ports/credential-store.ts'
import { bindingOf, type Upstream } from './upstream.ts'

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

/**
 * Revokes the token of a connection that was removed. Waits for nothing: a server that fails or hangs keeps neither the row nor
 * the caller. A token goes to nobody but the server that gave it, which the configuration may have changed since.
 */
export function revokeTaken(
  methods: AcquisitionMethods,
  upstream: Upstream,
  taken: TakenCredential,
): void {
  if (taken.token === undefined) return
  const { authorizationServer, clientId } = bindingOf(upstream.credential)
  const { binding } = taken
  if (binding.authorizationServer !== authorizationServer || binding.clientId !== clientId) return
  void methods[upstream.credential.mode].revoke(upstream, taken.token, taken.hint).catch(() => {})
}
