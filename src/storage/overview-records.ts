import type { OverviewRecords } from '../core/ports/administration.ts'
import {
  type ConnectionRow,
  connectionColumnsOf,
  toBinding,
  toConnection,
} from './credential-rows.ts'
import type { Database } from './database.ts'

type OverviewConnectionRow = ConnectionRow & { last_used_at: Date | null }

type CountRow = Pick<
  ConnectionRow,
  'upstream' | 'status' | 'authorization_server' | 'client_id' | 'resource' | 'renewable'
> & { ended: boolean; failing: boolean; connections: number }

/** Over the pool of searches: what goes through everybody's rows keeps no call waiting. */
export function createOverviewRecords({ run, sql }: Database): OverviewRecords {
  return {
    async connections({ userId, upstream }, after, limit) {
      const rows = await run(
        () => sql<OverviewConnectionRow[]>`
          SELECT ${connectionColumnsOf(sql)}, last_use.last_used_at
          FROM credential LEFT JOIN last_use USING (issuer, user_id, upstream)
          WHERE true
            ${userId === undefined ? sql`` : sql`AND credential.user_id = ${userId}`}
            ${upstream === undefined ? sql`` : sql`AND credential.upstream = ${upstream}`}
            ${
              after === undefined
                ? sql``
                : sql`AND (credential.issuer, credential.user_id, credential.upstream)
                    > (${after.issuer}, ${after.userId}, ${after.upstream})`
            }
          ORDER BY credential.issuer, credential.user_id, credential.upstream
          LIMIT ${limit}`,
      )
      return rows.map((row) => ({
        ...toConnection(row),
        lastUsedAt: row.last_used_at ?? undefined,
      }))
    },

    async counts() {
      const rows = await run(
        () => sql<CountRow[]>`
          SELECT upstream, status, authorization_server, client_id, resource,
            refresh_token IS NOT NULL AS renewable,
            coalesce(expires_at <= now(), false) AS ended,
            next_try_at IS NOT NULL AS failing,
            count(*) AS connections
          FROM credential GROUP BY 1, 2, 3, 4, 5, 6, 7, 8`,
      )
      return rows.map((row) => ({
        upstream: row.upstream,
        status: row.status,
        binding: toBinding(row),
        renewable: row.renewable,
        ended: row.ended,
        failing: row.failing,
        connections: row.connections,
      }))
    },

    async lastUses() {
      const rows = await run(
        () => sql<{ upstream: string; last_used_at: Date }[]>`
          SELECT upstream, max(last_used_at) AS last_used_at FROM last_use GROUP BY upstream`,
      )
      return new Map(rows.map((row) => [row.upstream, row.last_used_at]))
    },

    async pauses() {
      const rows = await run(
        () => sql<{ authorization_server: string; paused_until: Date }[]>`
          SELECT authorization_server, paused_until FROM token_endpoint_pause
          WHERE paused_until > now()`,
      )
      return new Map(rows.map((row) => [row.authorization_server, row.paused_until]))
    },
  }
}
