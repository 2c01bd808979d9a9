import type { PersonId } from '../core/caller.ts'
import type { CredentialKey } from '../core/credential.ts'
import type {
  CredentialRecords,
  NewCredentialRecord,
  TakenRecord,
} from '../core/ports/credential-records.ts'
import type { MethodName } from '../core/upstream.ts'
import { createCredentialClaims } from './credential-claims.ts'
import {
  type ConnectionRow,
  type CredentialRow,
  connectionColumnsOf,
  credentialColumnsOf,
  toBinding,
  toConnection,
  toRecord,
} from './credential-rows.ts'
import type { Database } from './database.ts'
import { invalidation } from './invalidations.ts'
import { tellWaiters } from './notice-channel.ts'
import { isOwn } from './own-row.ts'
import { textArray } from './text-array.ts'

type TakenRow = {
  generation: number
  method: MethodName
  authorization_server: string
  client_id: string
  resource: string | null
  access_token: Buffer | null
  refresh_token: Buffer | null
}

export function createCredentialRecords(database: Database): CredentialRecords {
  const { run, sql } = database

  const connectionColumns = connectionColumnsOf(sql)
  const credentialColumns = credentialColumnsOf(sql)

  /** What arrives for this connection from here on is not stored. */
  const refusal = (key: CredentialKey) => sql`
    DELETE FROM acquisition_attempt WHERE ${isOwn(sql, 'acquisition_attempt', key)}`

  /** A call that came in before its person was cut off must leave nothing behind afterwards. */
  const isCutOff = (person: PersonId) => sql`
    EXISTS (
      SELECT FROM cut_off
      WHERE cut_off.issuer = ${person.issuer} AND cut_off.user_id = ${person.userId}
        AND returned_at IS NULL
    )`

  const newColumns = sql`
    issuer, user_id, upstream, generation, status, method, scopes, audience, account,
    authorization_server, client_id, resource, access_token, refresh_token,
    renewed, connected_at, obtained_at, expires_at`
  const newValues = (key: CredentialKey, record: NewCredentialRecord) => sql`
    ${key.issuer}, ${key.userId}, ${key.upstream}, ${record.generation}::bigint, 'connected', ${record.method},
    ${textArray(sql, record.scopes)}, ${record.audience ?? null}, ${record.account ?? null},
    ${record.binding.authorizationServer}, ${record.binding.clientId}, ${record.binding.resource ?? null},
    ${record.sealedAccessToken}::bytea, ${record.sealedRefreshToken ?? null}::bytea,
    ${record.renewed}::boolean, now(), now(), ${record.expiresAt ?? null}::timestamptz`
  const replacement = sql`
    generation = excluded.generation, status = excluded.status, reason = NULL,
    method = excluded.method, scopes = excluded.scopes,
    audience = excluded.audience, account = excluded.account,
    authorization_server = excluded.authorization_server, client_id = excluded.client_id,
    resource = excluded.resource,
    access_token = excluded.access_token, refresh_token = excluded.refresh_token,
    renewed = excluded.renewed,
    -- A repeated exchange goes on with the connection that there was; a person who connects makes a new one.
    connected_at = CASE WHEN excluded.renewed THEN credential.connected_at ELSE excluded.connected_at END,
    obtained_at = excluded.obtained_at, expires_at = excluded.expires_at,
    lease_owner = NULL, lease_until = NULL, attempt_started_at = NULL,
    -- What kept the one before from being renewed ahead says nothing about this one.
    fail_count = 0, next_try_at = NULL, failure = NULL, ahead_after = NULL,
    forced_at = CASE WHEN excluded.renewed THEN credential.forced_at ELSE '{}' END`
  /** Exchanges bring what other replicas would have got as well; who connects may have meant another account. */
  const isGiven = ({ method }: NewCredentialRecord) => method === 'connect' || method === 'user_key'

  return {
    ...createCredentialClaims(database),

    async nextGeneration() {
      const [row] = await run(
        () => sql<[{ generation: number }]>`SELECT nextval('credential_generation') AS generation`,
      )
      return row.generation
    },

    async find(key) {
      const [row] = await run(
        () => sql<CredentialRow[]>`
          SELECT ${credentialColumns} FROM credential WHERE ${isOwn(sql, 'credential', key)}`,
      )
      return row && toRecord(row)
    },

    async list(person) {
      const rows = await run(
        () => sql<ConnectionRow[]>`
          SELECT ${connectionColumns} FROM credential
          WHERE credential.issuer = ${person.issuer} AND credential.user_id = ${person.userId}
          ORDER BY credential.upstream COLLATE "C"`,
      )
      return rows.map(toConnection)
    },

    async put(key, record) {
      const [row] = await run(
        () => sql<CredentialRow[]>`
          WITH stored AS (
            INSERT INTO credential (${newColumns}) SELECT ${newValues(key, record)}
            WHERE NOT ${isCutOff(key)}
            ON CONFLICT (issuer, user_id, upstream) DO UPDATE SET ${replacement}
            WHERE credential.generation < excluded.generation
            RETURNING ${credentialColumns}, ${tellWaiters(sql, key)}
          )
          ${isGiven(record) ? sql`, ${invalidation(sql, key, 'stored', { ended: false })}` : sql``}
          SELECT * FROM stored`,
      )
      return row && toRecord(row)
    },

    async putArrived(key, record, { name, rejected }) {
      // Whatever generation is there: it was there before this came, and who refused this has removed the attempt.
      const isForAll = isGiven(record) || rejected
      const [row] = await run(
        () => sql<CredentialRow[]>`
          WITH attempt AS (
            DELETE FROM acquisition_attempt
            WHERE ${isOwn(sql, 'acquisition_attempt', key)}
              AND name = ${name} AND generation = ${record.generation}
            RETURNING name
          ), stored AS (
            INSERT INTO credential (${newColumns}) SELECT ${newValues(key, record)} FROM attempt
            WHERE NOT ${isCutOff(key)}
            ON CONFLICT (issuer, user_id, upstream) DO UPDATE SET ${replacement}
            RETURNING ${credentialColumns}, ${tellWaiters(sql, key)}
          )
          ${isForAll ? sql`, ${invalidation(sql, key, 'stored', { ended: false })}` : sql``}
          SELECT * FROM stored`,
      )
      return row && toRecord(row)
    },

    async take(key) {
      // First, and by itself: it waits for answers that are just being stored, which the statement after it then finds.
      await run(() => refusal(key))
      const [row] = await run(
        () => sql<TakenRow[]>`
          WITH refused AS (${refusal(key)} RETURNING 1), taken AS (
            DELETE FROM credential WHERE ${isOwn(sql, 'credential', key)}
            RETURNING generation, method, authorization_server, client_id, resource,
              access_token, refresh_token
          ),
          changed AS (SELECT FROM refused UNION ALL SELECT FROM taken),
          ${invalidation(sql, key, 'changed', { ended: true })}
          SELECT * FROM taken`,
      )
      return row && toTaken(row)
    },

    async offboard(person) {
      const { issuer, userId } = person
      const isTheirs = sql`issuer = ${issuer} AND user_id = ${userId}`
      // As in `take`.
      await run(() => sql`DELETE FROM acquisition_attempt WHERE ${isTheirs}`)
      const rows = await run(
        () => sql<(TakenRow & { cut_at: Date; upstream: string | null })[]>`
          WITH cut AS (
            INSERT INTO cut_off (issuer, user_id, cut_at) VALUES (${issuer}, ${userId}, now())
            ON CONFLICT (issuer, user_id) DO UPDATE SET
              cut_at = greatest(cut_off.cut_at, excluded.cut_at), returned_at = NULL
            RETURNING cut_at
          ),
          attempts AS (DELETE FROM acquisition_attempt WHERE ${isTheirs} RETURNING 1),
          sessions AS (DELETE FROM session WHERE ${isTheirs} RETURNING 1),
          sign_in_tokens AS (DELETE FROM sign_in_token WHERE ${isTheirs} RETURNING 1),
          tickets AS (DELETE FROM connect_ticket WHERE ${isTheirs} RETURNING 1),
          flows AS (DELETE FROM connect_flow WHERE ${isTheirs} RETURNING 1),
          gateway_sessions AS (DELETE FROM gateway_session WHERE ${isTheirs} RETURNING 1),
          taken AS (
            DELETE FROM credential WHERE ${isTheirs}
            RETURNING upstream, generation, method, authorization_server, client_id, resource,
              access_token, refresh_token
          ),
          -- All of them before the counter is held: some may have to wait for a row.
          changed AS (
            SELECT FROM cut UNION ALL SELECT FROM attempts UNION ALL SELECT FROM sessions
            UNION ALL SELECT FROM sign_in_tokens UNION ALL SELECT FROM tickets
            UNION ALL SELECT FROM flows UNION ALL SELECT FROM gateway_sessions
            UNION ALL SELECT FROM taken
          ),
          ${invalidation(sql, { ...person, upstream: undefined }, 'changed', { ended: true })}
          SELECT cut.cut_at, taken.* FROM cut LEFT JOIN taken ON true`,
      )
      const [first] = rows
      if (first === undefined) throw new Error('the statement gives a row')
      const taken = rows.flatMap(({ upstream, ...row }) =>
        upstream === null ? [] : [{ ...toTaken(row), upstream }],
      )
      return { cutAt: first.cut_at, taken }
    },
  }
}

function toTaken(row: TakenRow): TakenRecord {
  return {
    generation: row.generation,
    method: row.method,
    binding: toBinding(row),
    sealedAccessToken: row.access_token ?? undefined,
    sealedRefreshToken: row.refresh_token ?? undefined,
  }
}
