import {
  and,
  type Column,
  desc,
  eq,
  getTableColumns,
  gte,
  inArray,
  lt,
  lte,
  max,
  type SQL,
  sql,
} from 'drizzle-orm'
import type {
  AuditAction,
  AuditDetails,
  AuditOutcome,
  AuditReason,
  AuditType,
} from '../core/audit-event.ts'
import type {
  ActivityFilter,
  ActivityPosition,
  ActivityRecord,
  ActivityStore,
} from '../core/ports/activity-store.ts'
import { type Actor, type PersonId, personKey } from '../core/caller.ts'
import { createSingleFlight } from '../core/single-flight.ts'
import type { MethodName } from '../core/upstream.ts'
import type { Database } from './database.ts'
import { activity } from './schema/activity.ts'

const columns = getTableColumns(activity)

/** All six digits: a `Date` has three. */
const exactOccurredAt = sql<string>`to_char(${activity.occurredAt} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`

const uses: readonly AuditAction[] = ['inject', 'acquire', 'refresh']

const DAY_MS = 86_400_000
/** End of the year 9999: what comes later is written in a way that the database does not read. */
const LAST_INSTANT_MS = Date.UTC(10_000, 0) - 1

/**
 * Questions are asked through drizzle without a name, so that the server plans each for the values at hand: the plan that a
 * prepared statement ends with was 20 to 300 times slower here. Give it a pool of its own: a search that
 * takes seconds keeps no call waiting then.
 */
export function createActivityStore(database: Database): ActivityStore {
  const { db, run } = database
  /** It goes over all records of a person, so one who asks again and again must not hold every connection of the pool. */
  const lastUses = createSingleFlight<ReadonlyMap<string, Date>>()

  return {
    async page(filter, limit, after) {
      const rows = await run(() =>
        db
          .select({ ...columns, exactOccurredAt })
          .from(activity)
          .where(and(...conditionsOf(filter), ...(after === undefined ? [] : olderThan(after))))
          .orderBy(desc(activity.occurredAt), desc(activity.id))
          .limit(limit + 1),
      )
      const shown = rows.slice(0, limit)
      const last = shown.at(-1)
      return {
        records: shown.map(toRecord),
        next:
          rows.length > limit && last !== undefined
            ? { occurredAt: last.exactOccurredAt, id: last.id }
            : undefined,
      }
    },

    async find(id) {
      const [row] = await run(() =>
        db
          .select()
          .from(activity)
          .where(and(eq(activity.id, id), ...aroundTheTimeOf(id)))
          .limit(1),
      )
      return row === undefined ? undefined : toRecord(row)
    },

    lastUses: (person) => lastUses.join(personKey(person), () => findLastUses(person)).result,
  }

  async function findLastUses(person: PersonId): Promise<ReadonlyMap<string, Date>> {
    const rows = await run(() =>
      db
        .select({ upstream: activity.upstream, lastUsedAt: max(activity.occurredAt) })
        .from(activity)
        .where(
          and(
            eq(activity.userId, person.userId),
            eq(activity.issuer, person.issuer),
            eq(activity.type, 'credential_broker'),
            eq(activity.outcome, 'success'),
            inArray(activity.action, [...uses]),
          ),
        )
        .groupBy(activity.upstream),
    )
    const found = new Map<string, Date>()
    for (const { upstream, lastUsedAt } of rows) {
      if (upstream !== null && lastUsedAt !== null) found.set(upstream, lastUsedAt)
    }
    return found
  }
}

function conditionsOf(filter: ActivityFilter): SQL[] {
  const anyOf = (column: Column, values: readonly string[] | undefined) =>
    values === undefined ? [] : [inArray(column, [...values])]
  return [
    ...anyOf(activity.type, filter.type),
    ...anyOf(activity.userId, filter.userId),
    ...anyOf(activity.issuer, filter.issuer),
    ...anyOf(activity.upstream, filter.upstream),
    ...anyOf(activity.action, filter.action),
    ...anyOf(activity.method, filter.method),
    ...anyOf(activity.outcome, filter.outcome),
    ...anyOf(activity.reason, filter.reason),
    ...anyOf(activity.requestId, filter.requestId),
    ...anyOf(activity.actorId, filter.actorId),
    ...(filter.since === undefined ? [] : [gte(activity.occurredAt, filter.since)]),
    ...(filter.until === undefined ? [] : [lt(activity.occurredAt, filter.until)]),
  ]
}

function olderThan({ occurredAt, id }: ActivityPosition): SQL[] {
  const instant = sql`${occurredAt}::timestamptz`
  return [
    sql`(${activity.occurredAt}, ${activity.id}) < (${instant}, ${id}::uuid)`,
    // Says nothing new, but lets the planner leave newer partitions out.
    lte(activity.occurredAt, instant),
  ]
}

/**
 * A UUIDv7 holds the time of its record, and only that spares a look at every partition. A day to each side, in case another
 * program with another clock made it.
 */
function aroundTheTimeOf(id: string): SQL[] {
  const hex = id.replaceAll('-', '')
  if (hex[12] !== '7') return []
  const ms = Number.parseInt(hex.slice(0, 12), 16)
  const at = (instantMs: number) => new Date(Math.min(Math.max(instantMs, 0), LAST_INSTANT_MS))
  return [gte(activity.occurredAt, at(ms - DAY_MS)), lte(activity.occurredAt, at(ms + DAY_MS))]
}

function toRecord(row: typeof activity.$inferSelect): ActivityRecord {
  return {
    id: row.id,
    occurredAt: row.occurredAt,
    requestId: row.requestId,
    type: row.type as AuditType,
    userId: row.userId,
    issuer: row.issuer,
    actor: { kind: row.actorKind as Actor['kind'], id: row.actorId },
    upstream: row.upstream,
    action: row.action as AuditAction,
    method: row.method as MethodName,
    outcome: row.outcome as AuditOutcome,
    reason: row.reason as AuditReason | null,
    durationMs: row.durationMs,
    details: row.details as AuditDetails,
  }
}
