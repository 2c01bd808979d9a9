import type { PersonId } from '../core/caller.ts'
import type { Sql } from './connections.ts'
import { notify } from './notice-channel.ts'

/** Of invalidations: every replica has seen them. The minute is for one that is just joining: it does not show in the table yet. */
export function isOutdated(sql: Sql) {
  return sql`created_at < now() - interval '1 minute' AND id <= ALL (SELECT seen FROM replica)`
}

/**
 * CTEs, to stand last in the WITH of the statement that changes what replicas keep in memory: they get told with its commit, or
 * not at all. `changed` is the CTE that changes the rows. It comes first, so that whoever holds the counter waits for nobody, and the
 * counter is held until the commit, so that ids become visible in their order. `ended`: what was granted is gone, and open calls are
 * cut. `onlyIfAny`: nothing is told where it changed none.
 */
export function invalidation(
  sql: Sql,
  { issuer, userId, upstream }: PersonId & { readonly upstream: string | undefined },
  changed: string,
  { ended, onlyIfAny = false }: { readonly ended: boolean; readonly onlyIfAny?: boolean },
) {
  return sql`
    counted AS (
      UPDATE invalidation_counter SET last = last + 1
      WHERE (SELECT count(*) FROM ${sql(changed)}) >= ${onlyIfAny ? 1 : 0}
      RETURNING last
    ),
    told AS (
      INSERT INTO invalidation (id, issuer, user_id, upstream, ended)
      SELECT last, ${issuer}::text, ${userId}::text, ${upstream ?? null}::text, ${ended}::boolean
      FROM counted
      RETURNING ${notify(sql, 'invalidation', 'made')}
    ),
    -- A few with each new one, so that whoever removes again and again fills no table.
    outdated AS (
      DELETE FROM invalidation WHERE id IN (
        SELECT id FROM invalidation
        WHERE ${isOutdated(sql)}
        ORDER BY id LIMIT 3 FOR UPDATE SKIP LOCKED)
    )`
}
