import type { TokenSet } from '../credential.ts'
import type { Secret } from '../secret.ts'
import type { CredentialMode, MethodName, Upstream } from '../upstream.ts'

/** What whoever asks a server wants to have a say in while it is asked. */
export type TokenRequestWatch = {
  /** Asked right before the first byte leaves. False: nothing is sent, and the failure says `not_sent`. */
  readonly maySend?: () => boolean
  /** Gets the whole answer of a success before it is read; the reading waits. Never rejects. */
  readonly keep?: (answer: Secret) => Promise<void>
}

/**
 * A way in which a credential comes to be. Every function asks the server once and throws AcquisitionFailure, never
 * anything that holds the server's text.
 */
export interface AcquisitionMethod {
  readonly name: MethodName

  /** Exchanges the person's subject token. Absent where a person has to connect instead. */
  acquire?(upstream: Upstream, subjectToken: Secret, watch?: TokenRequestWatch): Promise<TokenSet>

  /** Redeems a refresh token (RFC 6749 §6). */
  refresh(
    upstream: Upstream,
    refreshToken: Secret,
    scopes: readonly string[],
    watch?: TokenRequestWatch,
  ): Promise<TokenSet>

  /** Reads an answer that `refresh` handed to `keep`, as it would have been read then. Asks nobody. */
  readRefresh(upstream: Upstream, answer: Secret): TokenSet

  /** Revokes a token (RFC 7009) where the server has an endpoint for it; resolves without doing anything where not. */
  revoke(upstream: Upstream, token: Secret, hint: 'refresh_token' | 'access_token'): Promise<void>
}

/** One for every mode that the configuration can name. */
export type AcquisitionMethods = Readonly<Record<CredentialMode, AcquisitionMethod>>
