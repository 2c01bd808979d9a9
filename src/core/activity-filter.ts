import type { ActivityFilter, ActivityRecord } from './ports/activity-store.ts'

/** Whether a record is one that a filter asks for: what the database does with those that it has. */
export function fitsFilter(record: ActivityRecord, filter: ActivityFilter): boolean {
  const { since, until, requestId } = filter
  return (
    isAnyOf(record.type, filter.type) &&
    isAnyOf(record.userId, filter.userId) &&
    isAnyOf(record.issuer, filter.issuer) &&
    isAnyOf(record.upstream, filter.upstream) &&
    isAnyOf(record.action, filter.action) &&
    isAnyOf(record.method, filter.method) &&
    isAnyOf(record.outcome, filter.outcome) &&
    isAnyOf(record.reason, filter.reason) &&
    isAnyOf(record.actor.id, filter.actorId) &&
    isAnyOf(
      record.requestId,
      requestId?.map((id) => id.toLowerCase()),
    ) &&
    (since === undefined || record.occurredAt >= since) &&
    (until === undefined || record.occurredAt < until)
  )
}

function isAnyOf(value: string | null, of: readonly string[] | undefined): boolean {
  return of === undefined || (value !== null && of.includes(value))
}
