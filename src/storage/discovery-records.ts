import type { DiscoveryRecords } from '../core/ports/discovery-records.ts'
import type { RegistrationKey } from '../core/ports/discovery-store.ts'
import type { Database } from './database.ts'

/** Whoever registers has so long; then another may. */
const registering = '30 seconds'
const dropAgainAfter = '1 hour'
/** A secret that ends sooner is not begun with. */
const margin = '10 minutes'

export function createDiscoveryRecords(database: Database): DiscoveryRecords {
  const { run, sql } = database
  const isAt = ({ authorizationServer, redirectUri }: RegistrationKey) => sql`
    authorization_server = ${authorizationServer} AND redirect_uri = ${redirectUri}`
  const isUsable = sql`
    client_registration.client IS NOT NULL AND (
      client_registration.expires_at IS NULL
      OR client_registration.expires_at > now() + ${margin}::interval)`

  return {
    async version() {
      const [row] = await run(
        () => sql<[{ version: string }]>`
          SELECT md5(concat(
            (SELECT string_agg(concat_ws(' ', upstream, found_at), ',' ORDER BY upstream)
             FROM upstream_discovery),
            (SELECT string_agg(client_id, ',' ORDER BY authorization_server, redirect_uri)
             FROM client_registration))) AS version`,
      )
      return row.version
    },

    async find({ upstream, source }) {
      const [row] = await run(
        () => sql<{ found: Buffer }[]>`
          SELECT found FROM upstream_discovery WHERE upstream = ${upstream} AND source = ${source}`,
      )
      return row?.found
    },

    async put({ upstream, source }, sealedFound) {
      await run(
        () => sql`
          INSERT INTO upstream_discovery (upstream, source, found, found_at)
          VALUES (${upstream}, ${source}, ${sealedFound}, now())
          ON CONFLICT (upstream) DO UPDATE SET
            source = excluded.source, found = excluded.found, found_at = excluded.found_at`,
      )
    },

    async findClient(key) {
      const [row] = await run(
        () => sql<{ client: Buffer }[]>`
          SELECT client FROM client_registration WHERE ${isAt(key)} AND ${isUsable}`,
      )
      return row?.client
    },

    async claimRegistration({ authorizationServer, redirectUri }) {
      const rows = await run(
        () => sql`
          INSERT INTO client_registration (authorization_server, redirect_uri, registering_until)
          VALUES (${authorizationServer}, ${redirectUri}, now() + ${registering}::interval)
          ON CONFLICT (authorization_server, redirect_uri) DO UPDATE SET
            registering_until = excluded.registering_until
          WHERE NOT (${isUsable}) AND (
            client_registration.registering_until IS NULL
            OR client_registration.registering_until < now())
          RETURNING redirect_uri`,
      )
      return rows.length === 1
    },

    async putClient(key, { clientId, sealed, expiresAt }) {
      await run(
        () => sql`
          UPDATE client_registration SET
            client_id = ${clientId}, client = ${sealed}, expires_at = ${expiresAt ?? null},
            registering_until = NULL
          WHERE ${isAt(key)}`,
      )
    },

    async releaseRegistration(key) {
      await run(
        () => sql`
          UPDATE client_registration SET registering_until = NULL WHERE ${isAt(key)}`,
      )
    },

    async dropClient(key, clientId) {
      const rows = await run(
        () => sql`
          UPDATE client_registration SET
            client_id = NULL, client = NULL, expires_at = NULL, dropped_at = now()
          WHERE ${isAt(key)} AND client_id = ${clientId}
            AND (dropped_at IS NULL OR dropped_at < now() - ${dropAgainAfter}::interval)
          RETURNING redirect_uri`,
      )
      return rows.length === 1
    },
  }
}
