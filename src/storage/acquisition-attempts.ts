import { randomUUID } from 'node:crypto'
import type { CredentialKey } from '../core/credential.ts'
import { leaseSeconds } from '../core/lease.ts'
import type { AcquisitionAttempt, AcquisitionAttempts } from '../core/ports/acquisition-attempts.ts'
import type { SetbackKind } from '../core/setback.ts'
import type { Database } from './database.ts'
import { tellWaiters } from './notice-channel.ts'
import { isOwn } from './own-row.ts'
import { pauseServer } from './token-endpoint-pauses.ts'

const exchange = 'exchange'

/** How long a row is of any use: as long as its setback may count, and longer than any server takes to answer. */
const keptFor = '1 hour'

type StateRow = {
  generation: number | null
  leased_seconds: number | null
  blocked_seconds: number | null
  retry_seconds: number | null
  failure: SetbackKind | null
}

export function createAcquisitionAttempts(database: Database): AcquisitionAttempts {
  const { run, sql } = database
  const lease = sql`make_interval(secs => ${leaseSeconds})`
  const isOf = (key: CredentialKey) => isOwn(sql, 'acquisition_attempt', key)
  const isThis = (key: CredentialKey, { name, generation }: AcquisitionAttempt) => sql`
    ${isOf(key)} AND acquisition_attempt.name = ${name}
    AND acquisition_attempt.generation = ${generation}`

  return {
    async claimExchange(key, authorizationServer) {
      const [row] = await run(
        () => sql<{ generation: number; fail_count: number }[]>`
          INSERT INTO acquisition_attempt (
            issuer, user_id, upstream, name, generation, lease_until, expires_at
          )
          SELECT ${key.issuer}, ${key.userId}, ${key.upstream}, ${exchange},
            nextval('credential_generation'), now() + ${lease}, now() + ${keptFor}::interval
          WHERE NOT EXISTS (
            SELECT FROM token_endpoint_pause
            WHERE authorization_server = ${authorizationServer} AND paused_until > now())
          ON CONFLICT (issuer, user_id, upstream, name) DO UPDATE SET
            generation = excluded.generation, lease_until = excluded.lease_until,
            expires_at = excluded.expires_at
          WHERE (acquisition_attempt.lease_until IS NULL OR acquisition_attempt.lease_until <= now())
            AND (acquisition_attempt.next_try_at IS NULL OR acquisition_attempt.next_try_at <= now())
          RETURNING generation,
            -- A failure that is long over no longer counts towards the next pause.
            CASE WHEN next_try_at > now() - interval '1 minute' THEN fail_count ELSE 0 END AS fail_count`,
      )
      return row && { name: exchange, generation: row.generation, failCount: row.fail_count }
    },

    async lookAtExchange(key, authorizationServer) {
      const [row] = await run(
        () => sql<StateRow[]>`
          WITH pause AS (
            SELECT extract(epoch FROM paused_until - now())::float8 AS blocked_seconds
            FROM token_endpoint_pause
            WHERE authorization_server = ${authorizationServer} AND paused_until > now()
          ), attempt AS (
            SELECT generation, failure,
              extract(epoch FROM lease_until - now())::float8 AS leased_seconds,
              extract(epoch FROM next_try_at - now())::float8 AS retry_seconds
            FROM acquisition_attempt WHERE ${isOf(key)} AND name = ${exchange}
          )
          SELECT * FROM (VALUES (1)) AS always LEFT JOIN attempt ON true LEFT JOIN pause ON true`,
      )
      const over = (seconds: number | null | undefined) => !(Number(seconds) > 0)
      const { generation, failure, retry_seconds: retryInSeconds } = row ?? {}
      const isSetBack = failure != null && retryInSeconds != null && !over(retryInSeconds)
      return {
        generation: generation ?? undefined,
        leasedForSeconds: over(row?.leased_seconds)
          ? undefined
          : (row?.leased_seconds ?? undefined),
        blockedForSeconds: row?.blocked_seconds ?? undefined,
        setback: isSetBack ? { failure, retryInSeconds } : undefined,
      }
    },

    async beginCode(key) {
      const name = randomUUID()
      const [row] = await run(
        () => sql<[{ generation: number }]>`
          INSERT INTO acquisition_attempt (issuer, user_id, upstream, name, generation, expires_at)
          VALUES (${key.issuer}, ${key.userId}, ${key.upstream}, ${name},
            nextval('credential_generation'), now() + ${keptFor}::interval)
          RETURNING generation`,
      )
      return { name, generation: row.generation, failCount: 0 }
    },

    async end(key, attempt) {
      await run(
        () => sql`
          DELETE FROM acquisition_attempt WHERE ${isThis(key, attempt)} RETURNING ${tellWaiters(sql, key)}`,
      )
    },

    async fail(key, attempt, { failure, failCount, retryInSeconds, pause }) {
      const { count } = await run(
        () => sql`
          ${pause === undefined ? sql`` : sql`WITH paused AS (${pauseServer(sql, pause)})`}
          UPDATE acquisition_attempt SET
            lease_until = NULL, fail_count = ${failCount}, failure = ${failure},
            next_try_at = now() + make_interval(secs => ${retryInSeconds}),
            expires_at = now() + ${keptFor}::interval
          WHERE ${isThis(key, attempt)} RETURNING ${tellWaiters(sql, key)}`,
      )
      return count > 0
    },

    async pause(pause) {
      await run(() => pauseServer(sql, pause))
    },

    async failing({ issuer, userId }) {
      const rows = await run(
        () => sql<{ upstream: string | null; server: string | null }[]>`
          SELECT upstream, NULL AS server FROM acquisition_attempt
          WHERE issuer = ${issuer} AND user_id = ${userId} AND failure IS NOT NULL
          UNION ALL
          SELECT NULL, authorization_server FROM token_endpoint_pause WHERE paused_until > now()`,
      )
      return {
        upstreams: new Set(rows.flatMap(({ upstream }) => upstream ?? [])),
        authorizationServers: new Set(rows.flatMap(({ server }) => server ?? [])),
      }
    },
  }
}
