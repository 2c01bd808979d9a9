import type { ConnectionReason } from './credential.ts'
import type { Secret } from './secret.ts'

/** Every way in which the broker refuses; `http/problem.ts` gives each its status and text. */
export type ErrorCode =
  | 'audit_unavailable'
  | 'connect_link_invalid'
  | 'connect_required'
  | 'connect_wrong_person'
  | 'credential_corrupt'
  | 'forbidden'
  | 'insufficient_scope'
  | 'internal_error'
  | 'invalid_request'
  | 'invalid_subject_token'
  | 'issuer_unavailable'
  | 'method_not_allowed'
  | 'not_connectable'
  | 'not_found'
  | 'payload_too_large'
  | 'policy_denied'
  | 'storage_unavailable'
  | 'too_many_streams'
  | 'unauthenticated'
  | 'unknown_upstream'
  | 'upstream_misconfigured'
  | 'upstream_not_allowed'
  | 'upstream_redirect'
  | 'upstream_rejected_credential'
  | 'upstream_timeout'
  | 'upstream_unavailable'

/** What a refusal may carry besides its code. Closed on purpose: nothing of a request or of a server's answer fits. */
export type ErrorDetails = {
  /** The request field at fault, as a path such as `user.issuer`. */
  readonly field?: string
  /** Our own sentence about that field; never input. */
  readonly expectation?: string
  /** Why the person must connect. */
  readonly reason?: ConnectionReason
  readonly connectUrl?: string
  /** The challenge that the person's next sign-in has to answer. Stays on our side: it is in no answer, log or record. */
  readonly claims?: Secret
  /** Whole seconds, 1 to 900. */
  readonly retryAfterSeconds?: number
  /** The server's address is one that must not be reached; said as 502, because time does not mend it. */
  readonly addressRefused?: boolean
  /** The scopes that a bearer lacks. */
  readonly scopes?: readonly string[]
  /** The value of `WWW-Authenticate`. */
  readonly challenge?: string
  /** What the address takes instead, for `Allow`. */
  readonly allowedMethods?: readonly string[]
  readonly cause?: unknown
}

export class BrokerError extends Error {
  readonly code: ErrorCode
  readonly details: ErrorDetails

  constructor(code: ErrorCode, details: ErrorDetails = {}) {
    super(code, details.cause === undefined ? undefined : { cause: details.cause })
    this.name = 'BrokerError'
    this.code = code
    this.details = details
  }
}

export function isBrokerError(error: unknown, ...codes: ErrorCode[]): error is BrokerError {
  return error instanceof BrokerError && (codes.length === 0 || codes.includes(error.code))
}
