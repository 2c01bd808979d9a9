import type { ActivityFilter, ActivityPosition } from '../core/ports/activity-store.ts'
import type {
  ActivityBucket,
  ActivityExportFormat,
  ActivityReports,
} from '../core/ports/activity-reports.ts'
import { randomUUID } from 'node:crypto'
import {
  isUncommon,
  kindOfRecord,
  shapeMatches,
  shapeOfRecord,
  shapeValues,
} from './activity-rows.ts'
import { before, exactly, spanOf, weekOf } from './activity-span.ts'
import { csvHead, csvLine, exactTime, jsonLine } from './activity-text.ts'
import type { Database } from './database.ts'
import { sqlStates } from './sql-states.ts'
import { faultCodeOf } from './storage-fault.ts'

/** Nothing is planned ahead here: what these go over differs by millions of records. */
export const reportSettings = { plan_cache_mode: 'force_custom_plan', jit: 'off' } as const

const lengths: Readonly<Record<ActivityBucket, string>> = {
  '1m': '1 minute',
  '1h': '1 hour',
  '1d': '1 day',
}

/** Records of one statement of an export: some 15 ms and 0.8 MB of text. */
const rowsPerPiece = 2000
/** So few shapes are looked for by index. */
const mostShapesByIndex = 8

/** The parts of a WHERE, and their values. */
type Conditions = { readonly texts: readonly string[]; readonly values: readonly unknown[] }

export function createActivityReports(database: Database): ActivityReports {
  const { run, sql } = database

  return {
    async summarize({ filter, bucket, groupBy, mostCounts }) {
      const fitting = await narrow(filter)
      if (fitting === undefined) return []
      const groups = groupBy.join(', ')
      const { from, position } = spanOf(filter, undefined)
      const { texts, values } = within(fitting, from, position)
      // Counted first and named after: a time as text for each record would take as long as the counting.
      const text = `
        SELECT bucket, ${groupBy.length === 0 ? '' : `ARRAY[${groups}]::text[] AS values, `}count
        FROM (
          SELECT date_bin('${lengths[bucket]}', occurred_at, '2000-01-03T00:00:00Z') AS bucket, ${[...groupBy, ''].join(', ')}
            count(*) AS count
          FROM activity WHERE ${texts.join(' AND ')} GROUP BY ${[1, ...groupBy].join(', ')}
        ) AS counted ORDER BY ${['bucket', ...groupBy].join(', ')} LIMIT ${mostCounts + 1}`
      try {
        const rows = await run(() =>
          sql.unsafe<{ bucket: Date; values?: (string | null)[]; count: number }[]>(
            text,
            values as string[],
          ),
        )
        if (rows.length > mostCounts) return 'too_many'
        return rows.map((row) => ({
          bucket: row.bucket,
          values: row.values ?? [],
          count: row.count,
        }))
      } catch (error) {
        // By `statement_timeout`, or by us.
        if (faultCodeOf(error) === sqlStates.queryCanceled) return 'too_long'
        throw error
      }
    },

    export: (filter, format, signal) => exported(filter, format, signal),
  }

  async function* exported(
    filter: ActivityFilter,
    format: ActivityExportFormat,
    signal: AbortSignal,
  ): AsyncGenerator<string> {
    // Sent with the first records, so that what fails before them is known before anything is sent.
    let head = format === 'csv' ? csvHead : ''
    const fitting = await narrow(filter)
    if (fitting === undefined) {
      if (head !== '') yield head
      return
    }
    const { from, position: start } = spanOf(filter, undefined)
    // Not the driver's own way to cancel: what fails there ends the process.
    const mark = `/* ${randomUUID()} */`
    let isReading = false
    const stop = () => {
      if (isReading) void cancel(mark).catch(() => {})
    }
    signal.addEventListener('abort', stop)

    const read = async (position: ActivityPosition, weekBegins: string) => {
      const oldest = from === '-infinity' || from < weekBegins ? weekBegins : from
      const { texts, values } = within(fitting, oldest, position)
      const text = `${mark}
        SELECT string_agg(line, '') AS text, count(*)::int AS count, min((exactly || id) COLLATE "C") AS last FROM (
          SELECT id, exactly, ${format === 'csv' ? csvLine : jsonLine} AS line FROM (
            SELECT *, ${exactTime} AS exactly FROM activity
            WHERE ${texts.join(' AND ')} ORDER BY occurred_at DESC, id DESC LIMIT ${rowsPerPiece}
          ) AS found ORDER BY occurred_at DESC, id DESC
        ) AS written`
      isReading = true
      const [row] = await run(() =>
        sql.unsafe<{ text: string | null; count: number; last: string | null }[]>(
          text,
          values as string[],
        ),
      )
      isReading = false
      return row
    }

    try {
      let position: ActivityPosition | undefined = start
      for (;;) {
        if (signal.aborted) return
        // A week at a time, because a statement that looks for few records in all of them might not end in time.
        const newest: string | undefined = await newestIn(from, position)
        if (newest === undefined) {
          if (head !== '') yield head
          return
        }
        const week = weekOf(Date.parse(newest))
        let piece = read(position, exactly(week))
        for (;;) {
          const row: Awaited<typeof piece> = await piece
          const last = row?.last ?? undefined
          const isLast = last === undefined || row?.count !== rowsPerPiece
          if (!isLast) {
            position = { occurredAt: last.slice(0, timeLength), id: last.slice(timeLength) }
            piece = read(position, exactly(week))
            // Whoever leaves while it is read does not wait for it.
            piece.catch(() => {})
          }
          if (row?.text != null) {
            yield head + row.text
            head = ''
          }
          if (isLast || signal.aborted) break
        }
        position = before(week)
      }
    } finally {
      signal.removeEventListener('abort', stop)
      stop()
    }
  }

  /** Ends the statement that begins with a mark. */
  async function cancel(mark: string): Promise<void> {
    await run(
      () => sql`
        SELECT pg_cancel_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND state = 'active' AND starts_with(query, ${mark})`,
    )
  }

  /** When the newest record was made, whatever it is; undefined where there is none. */
  async function newestIn(from: string, { occurredAt }: ActivityPosition) {
    const [row] = await run(() =>
      sql.unsafe<{ newest: string }[]>(
        `SELECT ${exactTime} AS newest FROM activity WHERE occurred_at >= $1::timestamptz AND occurred_at <= $2::timestamptz
         ORDER BY occurred_at DESC LIMIT 1`,
        [from, occurredAt],
      ),
    )
    return row?.newest
  }

  /** What a record must be to fit, with what the shapes that there are say about it; undefined where none can. */
  async function narrow(filter: ActivityFilter): Promise<Conditions | undefined> {
    const texts: string[] = []
    const values: unknown[] = []
    const anyOf = (expression: string, type: string, of: readonly string[] | undefined) => {
      if (of === undefined) return
      values.push(of)
      texts.push(`${expression} = ANY($${values.length}::${type}[])`)
    }
    anyOf('type', 'text', filter.type)
    anyOf('issuer', 'text', filter.issuer)
    anyOf('upstream', 'text', filter.upstream)
    anyOf('action', 'text', filter.action)
    anyOf('method', 'text', filter.method)
    anyOf('outcome', 'text', filter.outcome)
    anyOf('reason', 'text', filter.reason)
    const isByShape = values.length > 0
    anyOf('user_id', 'text', filter.userId)
    anyOf('actor_id', 'text', filter.actorId)
    anyOf('request_id', 'uuid', filter.requestId)
    if (!isByShape) return { texts, values }

    const shapes = await run(() =>
      sql.unsafe<{ shape: string; kind: string; uncommon: boolean }[]>(
        `SELECT shape::text AS shape, ${kindOfRecord}::text AS kind, ${isUncommon} AS uncommon
         FROM activity_shape WHERE ${shapeMatches}`,
        shapeValues(filter) as string[][],
      ),
    )
    if (shapes.length === 0) return undefined
    if (shapes.every(({ uncommon }) => uncommon)) {
      texts.push(isUncommon)
      anyOf(kindOfRecord, 'bigint', [...new Set(shapes.map(({ kind }) => kind))])
    } else if (shapes.length <= mostShapesByIndex) {
      anyOf(
        shapeOfRecord,
        'bigint',
        shapes.map(({ shape }) => shape),
      )
    }
    return { texts, values }
  }
}

/** As long as `exactTime` is. */
const timeLength = '2026-11-21T12:00:00.000000Z'.length

function within(
  { texts, values }: Conditions,
  from: string,
  position: ActivityPosition,
): Conditions {
  const first = values.length + 1
  return {
    texts: [
      ...texts,
      `occurred_at >= $${first}::timestamptz`,
      `occurred_at <= $${first + 1}::timestamptz`,
      `(occurred_at, id) < ($${first + 1}::timestamptz, $${first + 2}::uuid)`,
    ],
    values: [...values, from, position.occurredAt, position.id],
  }
}
