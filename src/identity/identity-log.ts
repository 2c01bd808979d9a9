/** What this room tells the operator. Closed on purpose: nothing of a token or of an issuer's answer fits. */
export type IdentityLog = {
  warn(entry: IssuerFailed | TokenRefused): void
}

type IssuerFailed = {
  readonly event:
    | 'issuer_keys_unavailable'
    | 'introspection_unavailable'
    | 'sign_in_unavailable'
    | 'sign_in_token_unusable'
  readonly issuer: string
  readonly failure: IssuerFailureKind
}

/** A bearer or subject token that was not taken. `issuer` is null where it names none of the configured ones. */
type TokenRefused = {
  readonly event: 'token_refused'
  readonly issuer: string | null
  readonly check: TokenCheck
}

/**
 * The first thing that is not as it should be. `signature`: key, algorithm or the signature itself. `typ`: another kind of token.
 * `claims`: it names nobody, lacks a required claim, has unusable times or is bound to a key. `inactive`: an introspection says no.
 * `cut_off`: its person was offboarded after it was issued.
 */
export type TokenCheck =
  | 'audience'
  | 'issuer'
  | 'expired'
  | 'signature'
  | 'typ'
  | 'scope'
  | 'claims'
  | 'format'
  | 'inactive'
  | 'cut_off'

/**
 * `unreachable`: no answer. `refused`: an answer of failure. `unreadable`: an answer that makes no sense. `mismatch`: it speaks for
 * another issuer. `corrupt`: what was stored does not open.
 */
export type IssuerFailureKind = 'unreachable' | 'refused' | 'unreadable' | 'mismatch' | 'corrupt'
