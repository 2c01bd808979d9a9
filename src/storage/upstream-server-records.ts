import type { UpstreamServerRecords } from '../core/ports/gateway-session-records.ts'
import type { Database } from './database.ts'

export function createUpstreamServerRecords(database: Database): UpstreamServerRecords {
  const { run, sql } = database
  return {
    async find(upstream) {
      const [row] = await run(
        () => sql<{ revisions: string[] | null; capabilities: Record<string, unknown> | null }[]>`
          SELECT revisions, capabilities FROM upstream_server WHERE upstream = ${upstream}`,
      )
      return {
        revisions: row?.revisions ?? undefined,
        capabilities: row?.capabilities ?? undefined,
      }
    },

    async note(upstream, { revisions, capabilities }) {
      const asArray = revisions === undefined ? null : sql.array([...revisions])
      const asJson = capabilities === undefined ? null : JSON.stringify(capabilities)
      await run(
        () => sql`
          INSERT INTO upstream_server (upstream, revisions, capabilities)
          VALUES (${upstream}, ${asArray}::text[], ${asJson}::text::jsonb)
          ON CONFLICT (upstream) DO UPDATE SET
            revisions = coalesce(excluded.revisions, upstream_server.revisions),
            capabilities = coalesce(excluded.capabilities, upstream_server.capabilities)
          WHERE upstream_server.revisions IS DISTINCT FROM coalesce(excluded.revisions, upstream_server.revisions)
            OR upstream_server.capabilities IS DISTINCT FROM coalesce(excluded.capabilities, upstream_server.capabilities)`,
      )
    },
  }
}
