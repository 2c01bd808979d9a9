import type { CutOffRecords } from '../core/ports/cut-off-records.ts'
import type { Database } from './database.ts'
import { invalidation } from './invalidations.ts'

export function createCutOffRecords({ run, sql }: Database): CutOffRecords {
  return {
    async find({ issuer, userId }) {
      const [row] = await run(
        () => sql<{ cut_at: Date; returned: boolean }[]>`
          SELECT cut_at, returned_at IS NOT NULL AS returned FROM cut_off
          WHERE issuer = ${issuer} AND user_id = ${userId}`,
      )
      return row && { cutAt: row.cut_at, returned: row.returned }
    },

    async noteReturn(person, issuedAtSeconds) {
      const { issuer, userId } = person
      await run(
        () => sql`
          WITH returned AS (
            UPDATE cut_off SET returned_at = now()
            WHERE issuer = ${issuer} AND user_id = ${userId} AND returned_at IS NULL
              AND date_trunc('second', cut_at) < to_timestamp(${issuedAtSeconds})
            RETURNING 1
          ),
          ${invalidation(sql, { ...person, upstream: undefined }, 'returned', { ended: false, onlyIfAny: true })}
          SELECT 1`,
      )
    },
  }
}
