import * as z from 'zod'
import { type ActivityColumn, activityColumns } from '../core/ports/activity-batches.ts'
import { CommandFailure } from './cli-error.ts'
import { parseJson } from './parse-json.ts'
import type { CliOutput } from './services.ts'
import { printableJson, renderCsv, renderTable } from './terminal-text.ts'

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

function cellsOf(record: PrintedRecord): Record<ActivityColumn, string | null> {
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
  return renderCsv([activityColumns, ...records.map(rowOf)])
}

function rowOf(record: PrintedRecord): readonly (string | null)[] {
  const cells = cellsOf(record)
  return activityColumns.map((column) => cells[column])
}

const tableHead = [
  'TIME',
  'PERSON',
  'UPSTREAM',
  'ACTION',
  'METHOD',
  'OUTCOME',
  'REASON',
  'ACTOR',
  'ID',
] as const

function tableRow(record: PrintedRecord): readonly (string | null)[] {
  return [
    record.occurred_at,
    record.user_id,
    record.upstream,
    record.action,
    record.method,
    record.outcome,
    record.reason,
    `${record.actor.kind}:${record.actor.id}`,
    record.id,
  ]
}

/** Cut to the terminal, where there is one; not its time and id, by which a record is found again. */
export function recordsAsTable(
  records: readonly PrintedRecord[],
  terminalColumns: number | undefined,
): string {
  return renderTable(tableHead, records.map(tableRow), {
    columns: terminalColumns,
    whole: ['TIME', 'ID'],
  })
}

/** Prints records one after the other, however many there are. */
export function createRecordPrinter(
  format: 'table' | 'json' | 'ndjson' | 'csv',
  { out, columns: terminal }: Pick<CliOutput, 'out' | 'columns'>,
): { readonly print: (record: PrintedRecord) => void; readonly end: () => void } {
  let printed = 0
  if (format === 'csv') out(renderCsv([activityColumns]))
  const print = {
    csv: (record: PrintedRecord) => out(renderCsv([rowOf(record)])),
    ndjson: (record: PrintedRecord) => out(`${printableJson(record, 0)}\n`),
    json: (record: PrintedRecord) => out(`${printed === 0 ? '[' : ','}\n${printableJson(record)}`),
    table(record: PrintedRecord) {
      // Widths are not known before the end, so they are those of what is usual.
      const table = renderTable(tableHead, [usualRow, tableRow(record)], {
        columns: terminal,
        whole: ['TIME', 'ID'],
      })
      const [head, , row] = table.split('\n')
      out(`${printed === 0 ? `${head ?? ''}\n` : ''}${row ?? ''}\n`)
    },
  }[format]
  return {
    print(record) {
      print(record)
      printed += 1
    },
    end() {
      if (format === 'json') out(printed === 0 ? '[]\n' : '\n]\n')
    },
  }
}

const usualRow = [
  '2026-11-21T12:00:00.000Z',
  'a-person-of-usual',
  'an-upstream',
  'disconnect',
  'token_exchange',
  'failure',
  'credential_expired',
  'service:a-proxy',
  '01a1fdfa-46fa-7000-8000-0123456789ab',
]

/** @throws CommandFailure when it is none. */
export function parseRecord(json: string): PrintedRecord {
  const found = activityRecord.safeParse(parseJson(json))
  if (found.success) return found.data
  throw new CommandFailure('The answer is not one of onbehalf. Is --url the address of the broker?')
}

/** One record, a field a line. */
export function recordAsTable(record: PrintedRecord): string {
  const cells = cellsOf(record)
  return renderTable(
    ['FIELD', 'VALUE'],
    activityColumns.map((column) => [column, cells[column]]),
  )
}
