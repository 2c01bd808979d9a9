import type { ActivityFilter, ActivityPosition } from '../core/ports/activity-store.ts'

/**
 * What a question covers: records not before `from` and older than `position`, both in the database's own six digits. One
 * position stands for a cursor and for `until`, because an index scan begins at one of several upper bounds, perhaps the wrong one.
 */
export type ActivitySpan = { readonly from: string; readonly position: ActivityPosition }

const highestId = 'ffffffff-ffff-ffff-ffff-ffffffffffff'

export function spanOf(
  { since, until }: Pick<ActivityFilter, 'since' | 'until'>,
  after: ActivityPosition | undefined,
): ActivitySpan {
  const from = since === undefined ? '-infinity' : exactly(since)
  const end = until === undefined ? undefined : before(until)
  // Years have four digits, so texts are in the order of their times.
  if (after !== undefined && (end === undefined || after.occurredAt < end.occurredAt)) {
    return { from, position: after }
  }
  return { from, position: end ?? { occurredAt: 'infinity', id: highestId } }
}

/** Behind every record of this instant. It is in the week before where a week begins, so that week alone is looked at. */
export function before(instant: Date): ActivityPosition {
  const last = instant.getTime() - 1
  const occurredAt =
    last < firstInstantMs ? '-infinity' : new Date(last).toISOString().replace('Z', '999Z')
  return { occurredAt, id: highestId }
}

/** Of the year 1: what was earlier is written in another way. */
const firstInstantMs = Date.parse('0001-01-01T00:00:00Z')

/** As the database writes it: `2026-11-21T12:00:00.000000Z`. */
export function exactly(instant: Date): string {
  return instant.toISOString().replace('Z', '000Z')
}

const weekMs = 7 * 86_400_000
const firstMondayMs = Date.UTC(1970, 0, 5)

/** The Monday 00:00 UTC that begins the week of an instant: where a partition begins. */
export function weekOf(instantMs: number): Date {
  return new Date(Math.floor((instantMs - firstMondayMs) / weekMs) * weekMs + firstMondayMs)
}
