/** What this room tells the operator. Closed on purpose: nothing of a token or of an issuer's answer fits. */
export type IdentityLog = {
  warn(entry: {
    readonly event:
      | 'issuer_keys_unavailable'
      | 'introspection_unavailable'
      | 'sign_in_unavailable'
      | 'sign_in_token_unusable'
    readonly issuer: string
    readonly failure: IssuerFailureKind
  }): void
}

/**
 * `unreachable`: no answer. `refused`: an answer of failure. `unreadable`: an answer that makes no sense. `mismatch`: it speaks for
 * another issuer. `corrupt`: what was stored does not open.
 */
export type IssuerFailureKind = 'unreachable' | 'refused' | 'unreadable' | 'mismatch' | 'corrupt'
