import type { StepUps } from '../core/ports/step-ups.ts'
import type { Database } from './database.ts'
import { isOwn } from './own-row.ts'
import { textArray } from './text-array.ts'

const window = '10 minutes'

export function createStepUpRecords(database: Database): StepUps {
  const { run, sql } = database
  const sorted = (scopes: readonly string[]) => textArray(sql, scopes.toSorted())
  return {
    async completed(key, scopes) {
      // Those that no longer count go with each new one, so that the table is as small as what is going on.
      await run(
        () => sql`
          WITH old AS (DELETE FROM step_up WHERE completed_at < now() - ${window}::interval)
          INSERT INTO step_up (issuer, user_id, upstream, scopes, completed_at)
          VALUES (${key.issuer}, ${key.userId}, ${key.upstream}, ${sorted(scopes)}, now())`,
      )
    },
    async recent(key, scopes) {
      const [row] = await run(
        () => sql<[{ count: number }]>`
          SELECT count(*)::int AS count FROM step_up
          WHERE ${isOwn(sql, 'step_up', key)}
            AND scopes = ${sorted(scopes)} AND completed_at >= now() - ${window}::interval`,
      )
      return row.count
    },
  }
}
