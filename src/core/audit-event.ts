import type { Actor } from './caller.ts'
import type { MethodName } from './upstream.ts'

export const auditTypes = [
  'credential_broker',
  'oauth.mcp.token.issued',
  'oauth.mcp.token.refreshed',
  'oauth.mcp.token.rejected',
  'administration',
] as const
export type AuditType = (typeof auditTypes)[number]

export const auditActions = [
  'acquire',
  'refresh',
  'inject',
  'connect',
  'disconnect',
  'key_rewrap',
  'connection_removed',
  'offboard',
  'credential_corrupt',
] as const
export type AuditAction = (typeof auditActions)[number]

export const auditMethods = [
  'token_exchange',
  'entra_obo',
  'connect',
  'id_jag',
  'user_key',
  'unknown',
] as const satisfies readonly MethodName[]

export const auditOutcomes = ['success', 'failure'] as const
export type AuditOutcome = (typeof auditOutcomes)[number]

/** Why an operation failed. A closed set of our own words: no server's or caller's text can become one. */
export const auditReasons = [
  'access_denied',
  'account_selection_required',
  'authorization_denied',
  'configuration_changed',
  'consent_required',
  'credential_corrupt',
  'credential_expired',
  'forbidden',
  'insufficient_scope',
  'interaction_required',
  'internal_error',
  'interrupted',
  'invalid_scope',
  'invalid_subject_token',
  'issuer_mismatch',
  'issuer_unavailable',
  'login_required',
  'not_connected',
  'policy_denied',
  'refresh_failed',
  'refresh_outcome_unknown',
  'server_error',
  'state_invalid',
  'storage_unavailable',
  'temporarily_unavailable',
  'unknown_upstream',
  'upstream_misconfigured',
  'upstream_not_allowed',
  'upstream_unavailable',
] as const
export type AuditReason = (typeof auditReasons)[number]

/**
 * One operation, as callers of `AuditSink` say it; it has no id before it is recorded. No field can hold a secret: closed sets, ids
 * and numbers. `userId` and `issuer` come from a verified token only, `upstream` is a configured name, `requestId` a UUID.
 */
export type AuditRecord = {
  readonly requestId: string
  readonly startedAt: Date
  readonly type?: AuditType
  readonly userId: string | undefined
  readonly issuer: string | undefined
  readonly actor: Actor
  readonly upstream: string | undefined
  readonly action: AuditAction
  readonly method: MethodName
  readonly outcome: AuditOutcome
  readonly reason: AuditReason | undefined
  readonly details?: AuditDetails
}

/** The type's own closed fields. */
export type AuditDetails = {
  readonly identity?: 'token' | 'asserted'
}
