import type { Upstream } from '../upstream.ts'

/** What a bearer is asked for: the API, an upstream at its gateway address, or an upstream behind another gateway. */
export type ProtectedTarget =
  | { readonly kind: 'api' }
  | { readonly kind: 'upstream'; readonly upstream: Upstream }
  | { readonly kind: 'external'; readonly upstream: Upstream }

/** A protected resource metadata document (RFC 9728 §2). */
export type ResourceMetadata = {
  readonly resource: string
  readonly authorization_servers: readonly string[]
  readonly bearer_methods_supported: readonly ['header']
  readonly scopes_supported?: readonly string[]
}

/** Why a caller is refused. */
export type BearerRefusal = {
  /** Absent when no token was sent (RFC 6750 §3.1). */
  readonly error: 'invalid_token' | 'insufficient_scope' | undefined
  /** The scopes that the token lacked, for `insufficient_scope`; otherwise those that any issuer's tokens need are named. */
  readonly scopes: readonly string[]
}

/** The value of `WWW-Authenticate`, which names the document of the target; that of the API where there is none. */
export type Challenge = (refusal: BearerRefusal, target?: ProtectedTarget) => string

/** Challenges (RFC 6750 §3) and the documents that they name (RFC 9728), made from one list so that they cannot disagree. */
export interface ProtectedResources {
  readonly challenge: Challenge

  /**
   * The document behind `/.well-known/oauth-protected-resource` and `path`, which is empty or begins with a slash. Undefined
   * for an upstream that does not exist, is of another kind, or has no external address.
   */
  document(path: string): ResourceMetadata | undefined
}
