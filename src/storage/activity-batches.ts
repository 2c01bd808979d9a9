import { isBrokerError } from '../core/errors.ts'
import {
  type ActivityBatches,
  type ActivityColumn,
  activityColumns,
} from '../core/ports/activity-batches.ts'
import type { Database } from './database.ts'
import { StorageFault } from './storage-fault.ts'

const columnTypes: Readonly<Record<ActivityColumn, string>> = {
  id: 'uuid',
  occurred_at: 'timestamptz',
  request_id: 'uuid',
  type: 'text',
  user_id: 'text',
  issuer: 'text',
  actor_kind: 'text',
  actor_id: 'text',
  upstream: 'text',
  action: 'text',
  method: 'text',
  outcome: 'text',
  reason: 'text',
  duration_ms: 'float8',
  details: 'jsonb',
}

/**
 * One text parameter for the whole batch, which the server takes apart: 1.3 µs of our CPU a row and 7 ms for 500, where
 * json_to_recordset costs 2.1 µs and 9 ms and unnest of array literals 2.5 µs and 8 ms (PostgreSQL 15, medians of 60).
 * `OFFSET 0` keeps the planner from splitting each line once a column.
 */
const insertLines = `
  INSERT INTO activity (${activityColumns.join(', ')})
  SELECT ${activityColumns.map((column, index) => `value[${index + 1}]::${columnTypes[column]}`).join(', ')}
  FROM (
    SELECT string_to_array(line, E'\\t', '') AS value FROM string_to_table($1, E'\\n') AS line OFFSET 0
  ) AS lines
  ON CONFLICT DO NOTHING`

/** Give it a database of its own with a pool of 1: batches wait for each other anyway, and nobody else waits for them. */
export function createActivityBatches(database: Database): ActivityBatches {
  return {
    async insert(lines) {
      try {
        await database.run(() =>
          database.sql.unsafe(insertLines, [lines.join('\n')], { prepare: true }),
        )
        return 'stored'
      } catch (error) {
        if (isAboutTheRows(error)) return 'refused'
        throw error
      }
    },
  }
}

/** SQLSTATE classes 22 (a value cannot be read), 23 (a constraint), 54 (too long for an index): as wrong the next time. */
function isAboutTheRows(error: unknown): boolean {
  if (!isBrokerError(error, 'storage_unavailable')) return false
  const { cause } = error
  return cause instanceof StorageFault && /^(?:22|23|54)\w{3}$/.test(cause.code ?? '')
}
