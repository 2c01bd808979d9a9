import type { ActivityFeedRecords, ArrivedBatch } from '../core/ports/activity-feed-records.ts'
import { recordColumns, recordOfRow, type RecordRow } from './activity-rows.ts'
import type { Database } from './database.ts'
import { preparedQueryOf } from './prepared-query.ts'

type BatchRow = Omit<ArrivedBatch, 'occurred'> & { readonly min: string; readonly max: string }

/** One without a batch says how far one may go. */
type SinceRow = BatchRow & { readonly transaction: string; readonly again: boolean }

const batchColumns = `id, writer, first_seq AS "firstSeq", last_seq AS "lastSeq", arrived_at AS "arrivedAt",
  min_occurred_at::text AS min, max_occurred_at::text AS max`

const transactionNow = 'pg_snapshot_xmin(pg_current_snapshot())::text'

/** Short statements by key, prepared once: `pageSettings` suit them. */
export function createActivityFeedRecords(database: Database): ActivityFeedRecords {
  const query = preparedQueryOf(database)

  return {
    async now() {
      const [row] = await query<{ transaction: string }>(
        `SELECT ${transactionNow} AS transaction`,
        [],
      )
      return { transaction: row?.transaction ?? '0' }
    },

    async since({ transaction }) {
      const rows = await query<SinceRow>(
        `SELECT snapshot.transaction, batch.*, xid >= snapshot.transaction::xid8 AS again
         FROM (SELECT ${transactionNow} AS transaction) AS snapshot
         LEFT JOIN LATERAL (
           SELECT ${batchColumns}, xid FROM activity_batch WHERE xid >= $1::text::xid8
         ) AS batch ON true ORDER BY batch.id`,
        [transaction],
      )
      const batches = rows.filter(({ id }) => id !== null)
      return {
        batches: batches.map(toBatch),
        again: batches.filter(({ again }) => again).map(({ id }) => id),
        mark: { transaction: rows[0]?.transaction ?? transaction },
      }
    },

    async arrivalOf(id) {
      const [row] = await query<{ arrivedAt: Date; now: Date }>(arrivalOfRecord, [id])
      return row
    },

    async from(arrivedAt, after, limit) {
      const rows = await query<BatchRow>(
        `SELECT ${batchColumns} FROM activity_batch
         WHERE id > $1::bigint AND arrived_at >= $2::timestamptz ORDER BY activity_batch.id LIMIT $3::bigint`,
        [after, arrivedAt, limit],
      )
      return rows.map(toBatch)
    },

    async records(batch) {
      const rows = await query<RecordRow>(
        `SELECT ${recordColumns} FROM activity
         WHERE occurred_at >= $1::text::timestamptz AND occurred_at <= $2::text::timestamptz
           AND writer = $3::uuid AND seq >= $4::bigint AND seq <= $5::bigint ORDER BY seq`,
        [batch.occurred.min, batch.occurred.max, batch.writer, batch.firstSeq, batch.lastSeq],
      )
      return rows.map(recordOfRow)
    },
  }
}

/** A UUIDv7 says when its record was made, so that not every week is looked through for an id that somebody has made up. */
const arrivalOfRecord = `
  SELECT batch.arrived_at AS "arrivedAt", now() AS now
  FROM activity AS record JOIN activity_batch AS batch
    ON batch.writer = record.writer AND record.seq BETWEEN batch.first_seq AND batch.last_seq
  WHERE record.id = $1::uuid AND batch.arrived_at >= now() - interval '1 hour'
    AND record.occurred_at >= to_timestamp(('x' || left(replace($1::text, '-', ''), 12))::bit(48)::bigint / 1000.0 - 1)
    AND record.occurred_at <= to_timestamp(('x' || left(replace($1::text, '-', ''), 12))::bit(48)::bigint / 1000.0 + 1)`

function toBatch({ id, writer, firstSeq, lastSeq, arrivedAt, min, max }: BatchRow): ArrivedBatch {
  return { id, writer, firstSeq, lastSeq, arrivedAt, occurred: { min, max } }
}
