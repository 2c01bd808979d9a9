import * as z from 'zod'
import { renderCsv, renderTable } from './terminal-text.ts'

// Only these fields are read, so nothing else that an answer might hold can be printed.
export const activityRecord = z.object({
  id: z.string(),
  occurred_at: z.string(),
  request_id: z.string(),
  type: z.string(),
  user_id: z.string().nullable(),
  issuer: z.string().nullable(),
  actor: z.object({ kind: z.string(), id: z.string() }),
  upstream: z.string().nullable(),
  action: z.string(),
  method: z.string(),
  outcome: z.string(),
  reason: z.string().nullable(),
  duration_ms: z.number(),
  details: z.object({
    identity: z.string().nullish(),
    client_id: z.string().optional(),
    sub: z.string().optional(),
    aud: z.union([z.string(), z.array(z.string())]).optional(),
    scope: z.union([z.string(), z.array(z.string())]).optional(),
    jti: z.string().optional(),
  }),
})
export type PrintedRecord = z.output<typeof activityRecord>

/** The columns of a CSV export, in the order of the record's fields. */
const columns = [
  'id',
  'occurred_at',
  'request_id',
  'type',
  'user_id',
  'issuer',
  'actor_kind',
  'actor_id',
  'upstream',
  'action',
  'method',
  'outcome',
  'reason',
  'duration_ms',
  'details',
] as const

function cellsOf(record: PrintedRecord): Record<(typeof columns)[number], string | null> {
  const { actor, duration_ms: duration, details, ...fields } = record
  return {
    ...fields,
    actor_kind: actor.kind,
    actor_id: actor.id,
    duration_ms: String(duration),
    details: JSON.stringify(details),
  }
}

export function recordsAsCsv(records: readonly PrintedRecord[]): string {
  const rows = records.map((record) => {
    const cells = cellsOf(record)
    return columns.map((column) => cells[column])
  })
  return renderCsv([columns, ...rows])
}

export function recordsAsTable(records: readonly PrintedRecord[]): string {
  return renderTable(
    ['TIME', 'PERSON', 'UPSTREAM', 'ACTION', 'METHOD', 'OUTCOME', 'REASON', 'ACTOR', 'ID'],
    records.map((record) => [
      record.occurred_at,
      record.user_id,
      record.upstream,
      record.action,
      record.method,
      record.outcome,
      record.reason,
      `${record.actor.kind}:${record.actor.id}`,
      record.id,
    ]),
  )
}

/** One record, a field a line. */
export function recordAsTable(record: PrintedRecord): string {
  const cells = cellsOf(record)
  return renderTable(
    ['FIELD', 'VALUE'],
    columns.map((column) => [column, cells[column]]),
  )
}
