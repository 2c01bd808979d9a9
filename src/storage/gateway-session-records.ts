import type { CredentialKey } from '../core/credential.ts'
import type {
  ConnectionMark,
  GatewaySessionRecord,
  GatewaySessionRecords,
} from '../core/ports/gateway-session-records.ts'
import { invalidation } from './invalidations.ts'
import type { Database } from './database.ts'
import { isOwn } from './own-row.ts'

/** Whoever opens a session at an upstream and dies leaves it to another after this. */
const openingTime = '30 seconds'
/** How exactly a use is written down; enough for sessions that end days after their last one. */
const useGrain = '1 hour'
/** Those of a person at an upstream; of more, the ones that were not used for longest end. A client need only begin to make one. */
const mostSessions = 1000
/** A client that was told of so many prompts does not wait for the oldest any more. */
const mostElicitations = 20

type SessionRow = {
  initialize: Record<string, unknown>
  revision: string
  upstream_session: Buffer | null
  upstream_revision: string | null
  is_open: boolean
}

export function createGatewaySessionRecords(database: Database): GatewaySessionRecords {
  const { run, sql } = database

  const isThis = (session: CredentialKey & { readonly idHash: Uint8Array }) => sql`
    gateway_session.id_hash = ${session.idHash} AND ${isOwn(sql, 'gateway_session', session)}`
  const connectedAt = sql`(
    SELECT connected_at FROM credential
    WHERE credential.issuer = gateway_session.issuer AND credential.user_id = gateway_session.user_id
      AND credential.upstream = gateway_session.upstream)`

  /** A session that was opened while another connection took the place of its own is not open: it is another account's. */
  const openedFor = (connection: ConnectionMark) =>
    sql`CASE WHEN ${connectedAt}::text = ${connection ?? null}::text THEN ${connectedAt} END`
  const isOpen = sql`coalesce(opened_for = ${connectedAt}, false) AS is_open`

  return {
    async insert(session, connection) {
      await run(
        () => sql`
          WITH oldest AS (
            SELECT id_hash FROM gateway_session
            WHERE ${isOwn(sql, 'gateway_session', session)}
            ORDER BY used_at DESC OFFSET ${mostSessions - 1}
          ),
          swept AS (
            DELETE FROM gateway_session WHERE id_hash IN (
              SELECT id_hash FROM gateway_session WHERE id_hash IN (SELECT id_hash FROM oldest)
              FOR UPDATE SKIP LOCKED)
          )
          INSERT INTO gateway_session (
            id_hash, issuer, user_id, upstream, initialize, revision,
            upstream_session, upstream_revision, opened_for, elicitations, used_at
          )
          SELECT ${session.idHash}, ${session.issuer}, ${session.userId}, ${session.upstream},
            ${JSON.stringify(session.initialize)}::text::jsonb, ${session.revision},
            ${session.at?.sealedId ?? null}, ${session.at?.revision ?? null}::text,
            CASE WHEN ${session.at !== undefined} THEN (
              SELECT connected_at FROM credential
              WHERE ${isOwn(sql, 'credential', session)}
                AND connected_at::text = ${connection ?? null}::text
            ) END, '{}', now()`,
      )
    },

    async find(idHash, key) {
      const [row] = await run(
        () => sql<SessionRow[]>`
          WITH used AS (
            UPDATE gateway_session SET used_at = now()
            WHERE ${isThis({ ...key, idHash })} AND used_at < now() - ${useGrain}::interval
          )
          SELECT initialize, revision, upstream_session, upstream_revision, ${isOpen}
          FROM gateway_session WHERE ${isThis({ ...key, idHash })}`,
      )
      return row && toRecord(row, idHash, key)
    },

    async connectionOf(key) {
      const [row] = await run(
        () => sql<{ connection: string }[]>`
          SELECT connected_at::text AS connection FROM credential
          WHERE ${isOwn(sql, 'credential', key)}`,
      )
      return row?.connection
    },

    async claimOpening(session) {
      const [row] = await run(
        () => sql<{ connection: string | null }[]>`
          UPDATE gateway_session SET opening_until = now() + ${openingTime}::interval
          WHERE ${isThis(session)} AND opened_for IS DISTINCT FROM ${connectedAt}
            AND (opening_until IS NULL OR opening_until <= now())
          RETURNING ${connectedAt}::text AS connection`,
      )
      return row && { connection: row.connection ?? undefined }
    },

    async setOpened(session, at, connection) {
      const { count } = await run(
        () => sql`
          UPDATE gateway_session SET
            upstream_session = ${at.sealedId ?? null}, upstream_revision = ${at.revision},
            opened_for = ${openedFor(connection)}, opening_until = NULL
          WHERE ${isThis(session)}`,
      )
      return count > 0
    },

    async setClosed(session) {
      const wasOpen = session.at !== undefined
      // Only the one that was seen: another replica may have opened the next already.
      await run(
        () => sql`
          WITH closed AS (UPDATE gateway_session SET
            upstream_session = NULL, upstream_revision = NULL, opened_for = NULL, opening_until = NULL
          WHERE ${isThis(session)}
            AND upstream_session IS NOT DISTINCT FROM ${session.at?.sealedId ?? null}
          RETURNING 1)
          ${wasOpen ? sql`, ${invalidation(sql, session, 'closed', { ended: false, onlyIfAny: true })}` : sql``}
          SELECT FROM closed`,
      )
    },

    async addElicitation(session, elicitationId) {
      await run(
        () => sql`
          UPDATE gateway_session
          SET elicitations = (elicitations || ${elicitationId}::text)[
            greatest(1, cardinality(elicitations) + 2 - ${mostElicitations}):]
          WHERE ${isThis(session)}`,
      )
    },

    async takeElicitations(session) {
      const [row] = await run(
        () => sql<{ elicitations: string[] }[]>`
          WITH before AS (
            SELECT id_hash, elicitations FROM gateway_session
            WHERE ${isThis(session)} AND elicitations <> '{}' FOR UPDATE
          )
          UPDATE gateway_session SET elicitations = '{}' FROM before
          WHERE gateway_session.id_hash = before.id_hash
          RETURNING before.elicitations`,
      )
      return row?.elicitations ?? []
    },

    async remove(session) {
      const [row] = await run(
        () => sql<SessionRow[]>`
          WITH removed AS (
            DELETE FROM gateway_session WHERE ${isThis(session)}
            RETURNING initialize, revision, upstream_session, upstream_revision, ${isOpen}
          ),
          ${invalidation(sql, session, 'removed', { ended: false, onlyIfAny: true })}
          SELECT * FROM removed`,
      )
      return row && toRecord(row, session.idHash, session)
    },
  }
}

function toRecord(row: SessionRow, idHash: Uint8Array, key: CredentialKey): GatewaySessionRecord {
  return {
    issuer: key.issuer,
    userId: key.userId,
    upstream: key.upstream,
    idHash,
    initialize: row.initialize,
    revision: row.revision,
    at: row.is_open
      ? {
          sealedId: row.upstream_session ?? undefined,
          revision: row.upstream_revision ?? row.revision,
        }
      : undefined,
  }
}
