import type {
  AuditAction,
  AuditDetails,
  AuditOutcome,
  AuditReason,
  AuditType,
} from '../core/audit-event.ts'
import type { Actor } from '../core/caller.ts'
import { activityColumns } from '../core/ports/activity-batches.ts'
import type { ActivityFilter, ActivityRecord } from '../core/ports/activity-store.ts'
import type { MethodName } from '../core/upstream.ts'

/** The columns of a record, as a SELECT of `activity` names them. */
export const recordColumns = activityColumns.join(', ')

/** An `ActivityRow`, as a SELECT of `activity AS record` names it. */
export const exactColumns = `
  record.id, request_id AS "requestId", type, user_id AS "userId", issuer, actor_kind AS "actorKind",
  actor_id AS "actorId", upstream, action, method, outcome, reason, duration_ms AS "durationMs", details,
  record.writer, seq, hash,
  coalesce(to_char(occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), '') AS "occurredAt"`

export type RecordRow = {
  readonly id: string
  readonly occurred_at: Date
  readonly request_id: string
  readonly type: string
  readonly user_id: string | null
  readonly issuer: string | null
  readonly actor_kind: string
  readonly actor_id: string
  readonly upstream: string | null
  readonly action: string
  readonly method: string
  readonly outcome: string
  readonly reason: string | null
  readonly duration_ms: number
  readonly details: AuditDetails
}

export function recordOfRow(row: RecordRow): ActivityRecord {
  return {
    id: row.id,
    occurredAt: row.occurred_at,
    requestId: row.request_id,
    type: row.type as AuditType,
    userId: row.user_id,
    issuer: row.issuer,
    actor: { kind: row.actor_kind as Actor['kind'], id: row.actor_id },
    upstream: row.upstream,
    action: row.action as AuditAction,
    method: row.method as MethodName,
    outcome: row.outcome as AuditOutcome,
    reason: row.reason as AuditReason | null,
    durationMs: row.duration_ms,
    details: row.details,
  }
}

/**
 * A value as this server spells it in an index: every field with few values, as one number. The text must be that of the migration,
 * or no index is used.
 */
export const shapeOfRecord =
  'activity_shape_of(type, issuer, upstream, action, method, outcome, reason)'

/** The same without issuer and upstream, for uncommon records alone: there are some dozens of them. */
export const kindOfRecord = 'activity_shape_of(type, NULL, NULL, action, method, outcome, reason)'

/** All but the successful uses of stored credentials. As in the migration, for the indexes over those records alone. */
export const isUncommon =
  "not (type = 'credential_broker' and action = 'inject' and outcome = 'success')"

/** The filters by fields that have few values, which `activity_shape` knows; parameters 1 to 7. */
export const shapeMatches = `
  ($1::text[] IS NULL OR type = ANY($1)) AND ($2::text[] IS NULL OR issuer = ANY($2))
  AND ($3::text[] IS NULL OR upstream = ANY($3)) AND ($4::text[] IS NULL OR action = ANY($4))
  AND ($5::text[] IS NULL OR method = ANY($5)) AND ($6::text[] IS NULL OR outcome = ANY($6))
  AND ($7::text[] IS NULL OR reason = ANY($7))`

export type ShapeValues = readonly (readonly string[] | null)[]

export function shapeValues(filter: ActivityFilter): ShapeValues {
  const { type, issuer, upstream, action, method, outcome, reason } = filter
  return [type, issuer, upstream, action, method, outcome, reason].map((values) => values ?? null)
}

/** All filters; parameters 1 to 10. */
export const recordMatches = `${shapeMatches}
  AND ($8::text[] IS NULL OR user_id = ANY($8)) AND ($9::text[] IS NULL OR actor_id = ANY($9))
  AND ($10::uuid[] IS NULL OR request_id = ANY($10))`

export function recordValues(filter: ActivityFilter): ShapeValues {
  const { userId, actorId, requestId } = filter
  return [...shapeValues(filter), ...[userId, actorId, requestId].map((values) => values ?? null)]
}
