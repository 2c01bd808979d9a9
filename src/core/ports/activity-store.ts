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
  readonly type?: readonly AuditType[]
  readonly userId?: readonly string[]
  readonly issuer?: readonly string[]
  readonly upstream?: readonly string[]
  readonly action?: readonly AuditAction[]
  readonly method?: readonly MethodName[]
  readonly outcome?: readonly AuditOutcome[]
  readonly reason?: readonly AuditReason[]
  readonly requestId?: readonly string[]
  readonly actorId?: readonly string[]
  /** Included. */
  readonly since?: Date
  /** Not included. */
  readonly until?: Date
}

/** Place of a record in the order newest first by `occurredAt`, then `id`. */
export type ActivityPosition = { readonly occurredAt: Date; readonly id: string }

/** Questions to the activity log. All throw BrokerError storage_unavailable. */
export interface ActivityStore {
  /** One page, newest first, starting behind `after`. */
  page(
    filter: ActivityFilter,
    limit: number,
    after: ActivityPosition | undefined,
  ): Promise<readonly ActivityRecord[]>

  find(id: string): Promise<ActivityRecord | undefined>

  /** When each upstream's credential of this person was last handed out. */
  lastUses(person: PersonId): Promise<ReadonlyMap<string, Date>>
}
