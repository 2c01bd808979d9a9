import { activityColumns } from '../core/ports/activity-batches.ts'

/*
 * Records as text, written by the database: that takes it no longer than sending their fields, and nothing of them is parsed or
 * built here. Expressions over a row of `activity` with its time as `exactly`. `http/activity-json.ts` writes the same JSON.
 */

/** RFC 3339 in UTC with all six digits. */
export const exactTime = `to_char(occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`

const time = `left(exactly, 23) || 'Z'`

const orNull = (json: string) => `coalesce(${json}, 'null')`
const jsonText = (column: string) => orNull(`to_json(${column})::text`)

/** As JSON. The fields of a type are always there, null without a value. */
const details = `CASE type WHEN 'credential_broker' THEN '{"identity": ' || ${orNull(`(details -> 'identity')::text`)} || '}' ELSE details::text END`

/** An object of members that are JSON already. One that is built and then turned into text, as by `row_to_json`, takes a tenth longer. */
function jsonObject(members: Readonly<Record<string, string>>): string {
  const texts = Object.entries(members).map(([name, text]) => `"${name}":' || ${text}`)
  return `'{${texts.join(` || ',`)} || '}'`
}

/** One JSON object and a line feed. */
export const jsonLine = `${jsonObject({
  id: `'"' || id || '"'`,
  occurred_at: `'"' || ${time} || '"'`,
  request_id: orNull(`'"' || request_id || '"'`),
  type: jsonText('type'),
  user_id: jsonText('user_id'),
  issuer: jsonText('issuer'),
  actor: jsonObject({ kind: jsonText('actor_kind'), id: jsonText('actor_id') }),
  upstream: jsonText('upstream'),
  action: jsonText('action'),
  method: jsonText('method'),
  outcome: jsonText('outcome'),
  reason: jsonText('reason'),
  duration_ms: orNull('duration_ms::text'),
  details: orNull(details),
})} || E'\\n'`

export const csvHead = `${activityColumns.join(',')}\r\n`

/** The characters = + - @, tab and carriage return. */
const startsFormula = (column: string) => `ascii(${column}) IN (61, 43, 45, 64, 9, 13)`

/**
 * RFC 4180, and no cell that a spreadsheet would take for a formula. Nearly all cells need neither, which is looked at first: done
 * to every cell it takes twice as long.
 */
function csvCell(column: string): string {
  const special = [`','`, `'"'`, `E'\\n'`, `E'\\r'`].map((text) => `strpos(${column}, ${text})`)
  const isSpecial = `${special.join(' + ')} > 0`
  const harmless = `CASE WHEN ${startsFormula(column)} THEN '''' ELSE '' END || ${column}`
  return `CASE WHEN NOT (${startsFormula(column)} OR ${isSpecial}) OR ${column} IS NULL THEN coalesce(${column}, '')
    WHEN ${isSpecial} THEN '"' || replace(${harmless}, '"', '""') || '"' ELSE ${harmless} END`
}

const csvCells = activityColumns.map((column) => {
  if (column === 'occurred_at') return time
  if (column === 'id' || column === 'request_id' || column === 'duration_ms')
    return `${column}::text`
  if (column === 'details') return `'"' || replace(${details}, '"', '""') || '"'`
  return csvCell(column)
})

/** The fields in their order, and the end of the line. */
export const csvLine = `${csvCells.join(` || ',' || `)} || E'\\r\\n'`
