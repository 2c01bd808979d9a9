import type { ActivityArrivals } from '../core/ports/activity-arrivals.ts'
import type { ActivityRow } from '../core/ports/activity-proof.ts'
import { exactColumns } from './activity-rows.ts'
import type { Database } from './database.ts'

/** More than one statement takes, with its batch: an id that is missing for so long was never committed. */
const settledSeconds = 60
const batchesAtOnce = 100

type Batch = {
  readonly id: number
  readonly before: number
  readonly settled: boolean
  readonly records: number
}

export function createActivityArrivals({ run, sql }: Database): ActivityArrivals {
  return {
    async register(destination) {
      const [row] = await run(
        () => sql<{ batch_id: number }[]>`
          INSERT INTO activity_destination (id, batch_id, seen_at)
          VALUES (${destination}, (SELECT coalesce(max(id), 0) FROM activity_batch), now())
          ON CONFLICT (id) DO UPDATE SET seen_at = now() RETURNING batch_id`,
      )
      return row?.batch_id ?? 0
    },

    async next(after, limit) {
      const batches = await run(
        () => sql<Batch[]>`
          SELECT id, lag(id, 1, ${after}::bigint) OVER (ORDER BY id) AS before, last_seq - first_seq + 1 AS records,
            arrived_at < now() - ${settledSeconds} * interval '1 second' AS settled
          FROM activity_batch WHERE id > ${after} ORDER BY id LIMIT ${batchesAtOnce}`,
      )
      const ready = readyOf(batches, limit)
      const upTo = ready.at(-1)?.id
      if (upTo === undefined) return undefined
      const rows = await run(
        () => sql<ActivityRow[]>`
          SELECT ${sql.unsafe(exactColumns)}
          FROM activity_batch AS batch JOIN activity AS record
            ON record.occurred_at BETWEEN batch.min_occurred_at AND batch.max_occurred_at
              AND record.writer = batch.writer AND record.seq BETWEEN batch.first_seq AND batch.last_seq
          WHERE batch.id > ${after} AND batch.id <= ${upTo}
          ORDER BY batch.id, seq`,
      )
      return { upTo, rows }
    },

    async delivered(destination, upTo) {
      await run(
        () => sql`
          UPDATE activity_destination SET batch_id = ${upTo}, delivered_at = now(), seen_at = now()
          WHERE id = ${destination} AND batch_id < ${upTo}`,
      )
    },
  }
}

/**
 * Ids are given before commits, so one that is missing may still come: everything behind it waits, until nobody can be at it
 * any more. (The transaction's own number would not do: an earlier id may have a later transaction.)
 */
function readyOf(batches: readonly Batch[], limit: number): readonly Batch[] {
  const ready: Batch[] = []
  let records = 0
  for (const batch of batches) {
    const follows = batch.before === batch.id - 1
    if (!follows && !batch.settled) break
    if (ready.length > 0 && records + batch.records > limit) break
    ready.push(batch)
    records += batch.records
  }
  return ready
}
