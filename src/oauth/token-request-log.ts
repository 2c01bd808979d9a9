import type { FailureVerdict } from '../core/failure-verdict.ts'
import type { GrantKind } from './token-answer.ts'

/** What this room tells the operator. Closed on purpose: nothing of a request or of a server's answer fits. */
export type TokenRequestLog = {
  warn(entry: TokenRequestRefused | UpstreamMetadataRefused): void
}

/** An authorization server gave an answer that brings no token. */
export type TokenRequestRefused = {
  readonly event: 'token_request_refused'
  readonly upstream: string
  readonly grant: GrantKind
  readonly status: number
  /** One of the words that we know, `other` for any further one, null where the answer names none. */
  readonly oauth_error: string | null
  /** The first of Entra's numbers that we know. */
  readonly entra_code?: number
  readonly verdict: FailureVerdict['kind']
}

/** The upstream's authorization server has no metadata of the written issuer, or they lack what is needed of them. */
export type UpstreamMetadataRefused = {
  readonly event: 'upstream_metadata_refused'
  readonly upstream: string
}
