import type {
  AuditAction,
  AuditDetails,
  AuditOutcome,
  AuditReason,
  AuditType,
} from '../audit-event.ts'
import type { Actor, PersonId } from '../caller.ts'
import type { MethodName } from '../upstream.ts'

/** One record as it is read back. */
export type ActivityRecord = {
  readonly id: string
  readonly occurredAt: Date
  readonly requestId: string
  readonly type: AuditType
  readonly userId: string | null
  readonly issuer: string | null
  readonly actor: Actor
  readonly upstream: string | null
  readonly action: AuditAction
  readonly method: MethodName
  readonly outcome: AuditOutcome
  readonly reason: AuditReason | null
  readonly durationMs: number
  readonly details: AuditDetails
}

/** Each list means any of; an absent one means no filter. */
export type ActivityFilter = {
  readonly type?: readonly AuditType[] | undefined
  readonly userId?: readonly string[] | undefined
  readonly issuer?: readonly string[] | undefined
  readonly upstream?: readonly string[] | undefined
  readonly action?: readonly AuditAction[] | undefined
  readonly method?: readonly MethodName[] | undefined
  readonly outcome?: readonly AuditOutcome[] | undefined
  readonly reason?: readonly AuditReason[] | undefined
  readonly requestId?: readonly string[] | undefined
  readonly actorId?: readonly string[] | undefined
  /** Included. */
  readonly since?: Date | undefined
  /** Not included. */
  readonly until?: Date | undefined
}

/**
 * Place of a record in the order newest first by `occurredAt`, then `id`. The time is RFC 3339 in UTC with the six digits that
 * the database keeps: a `Date` would cut three of them, and the next page would leave out or repeat records.
 */
export type ActivityPosition = { readonly occurredAt: string; readonly id: string }

export type ActivityPage = {
  readonly records: readonly ActivityRecord[]
  /** Of the last record, where older ones follow. */
  readonly next: ActivityPosition | undefined
}

/** Questions to the activity log. All throw BrokerError storage_unavailable. */
export interface ActivityStore {
  /** At most `limit` records, newest first, starting behind `after`. */
  page(
    filter: ActivityFilter,
    limit: number,
    after: ActivityPosition | undefined,
  ): Promise<ActivityPage>

  /** `id` is a UUID. */
  find(id: string): Promise<ActivityRecord | undefined>

  /** When each upstream's credential of this person was last handed out. */
  lastUses(person: PersonId): Promise<ReadonlyMap<string, Date>>
}
