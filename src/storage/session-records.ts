import type { PersonId } from '../core/caller.ts'
import { strictLeaseSeconds } from '../core/lease.ts'
import type { SessionRecords } from '../core/ports/session-records.ts'
import type { Database } from './database.ts'
import { invalidation } from './invalidations.ts'
import { textArray } from './text-array.ts'

const flowLifetime = '10 minutes'

type FlowRow = { code_verifier: Buffer; nonce: Buffer; return_to: Buffer; begun_at: Date }

type SessionRow = { issuer: string; user_id: string; email: string | null; roles: string[] }

type SignInTokenRow = {
  generation: number
  access_token: Buffer
  access_token_expires_at: Date | null
  id_token: Buffer | null
  id_token_expires_at: Date | null
  refresh_token: Buffer | null
}

export function createSessionRecords(database: Database): SessionRecords {
  const { run, sql } = database

  const isOf = (person: PersonId) => sql`
    sign_in_token.issuer = ${person.issuer} AND sign_in_token.user_id = ${person.userId}`

  type Fragment = ReturnType<typeof isOf>
  /** A sign-in that was begun before its person was cut off counts for nothing, whenever it comes to be stored. */
  const isCutOffSince = (issuer: Fragment, userId: Fragment, begunAt: Fragment) => sql`
    EXISTS (
      SELECT FROM cut_off
      WHERE cut_off.issuer = ${issuer} AND cut_off.user_id = ${userId} AND cut_off.cut_at >= ${begunAt}
    )`

  /** A few rows with each insert, so that nothing has to come round and clean up. */
  const sweptFlows = sql`
    DELETE FROM sign_in_flow WHERE state_hash IN (
      SELECT state_hash FROM sign_in_flow WHERE expires_at < now()
      ORDER BY expires_at LIMIT 20 FOR UPDATE SKIP LOCKED)`
  const sweptSessions = sql`
    DELETE FROM session WHERE session_hash IN (
      SELECT session_hash FROM session WHERE expires_at < now()
      ORDER BY expires_at LIMIT 20 FOR UPDATE SKIP LOCKED)`

  return {
    async insertFlow(flow) {
      await run(
        () => sql`
          WITH swept AS (${sweptFlows})
          INSERT INTO sign_in_flow (
            state_hash, browser_hash, code_verifier, nonce, return_to, expires_at
          ) VALUES (
            ${flow.stateHash}, ${flow.browserHash}, ${flow.sealedCodeVerifier}, ${flow.sealedNonce},
            ${flow.sealedReturnTo}, now() + ${flowLifetime}::interval
          )`,
      )
    },

    async takeFlow({ stateHash, browserHash }) {
      const [row] = await run(
        () => sql<FlowRow[]>`
          DELETE FROM sign_in_flow
          WHERE state_hash = ${stateHash} AND browser_hash = ${browserHash} AND expires_at > now()
          RETURNING code_verifier, nonce, return_to,
            expires_at - ${flowLifetime}::interval AS begun_at`,
      )
      if (row === undefined) return undefined
      return {
        sealedCodeVerifier: row.code_verifier,
        sealedNonce: row.nonce,
        sealedReturnTo: row.return_to,
        begunAt: row.begun_at,
      }
    },

    async insertSession(sessionHash, session, { begunAt, lifetimeSeconds }) {
      const rows = await run(
        () => sql`
          WITH swept AS (${sweptSessions}),
          made AS (
            INSERT INTO session (
              session_hash, issuer, user_id, email, roles, created_at, expires_at
            )
            SELECT
              ${sessionHash}::bytea, ${session.issuer}::text, ${session.userId}::text,
              ${session.email ?? null}::text, ${textArray(sql, session.roles)},
              -- From here on it counts: whoever is cut off while somebody signs in as them is cut off.
              ${begunAt}::timestamptz, now() + make_interval(secs => ${lifetimeSeconds})
            WHERE NOT ${isCutOffSince(sql`${session.issuer}`, sql`${session.userId}`, sql`${begunAt}::timestamptz`)}
            RETURNING session_hash
          ),
          returned AS (
            UPDATE cut_off SET returned_at = now()
            WHERE issuer = ${session.issuer} AND user_id = ${session.userId}
              AND cut_at < ${begunAt} AND returned_at IS NULL
            RETURNING 1
          ),
          ${invalidation(sql, { ...session, upstream: undefined }, 'returned', { ended: false, onlyIfAny: true })}
          SELECT session_hash FROM made`,
      )
      return rows.length === 1
    },

    async findSession(sessionHash) {
      const [row] = await run(
        () => sql<SessionRow[]>`
          SELECT issuer, user_id, email, roles FROM session
          WHERE session_hash = ${sessionHash} AND expires_at > now()
            AND NOT ${isCutOffSince(sql`session.issuer`, sql`session.user_id`, sql`session.created_at`)}`,
      )
      if (row === undefined) return undefined
      return {
        issuer: row.issuer,
        userId: row.user_id,
        email: row.email ?? undefined,
        roles: row.roles,
      }
    },

    async deleteSession(sessionHash) {
      await run(() => sql`DELETE FROM session WHERE session_hash = ${sessionHash}`)
    },

    async nextGeneration() {
      const [row] = await run(
        () => sql<[{ generation: number }]>`SELECT nextval('credential_generation') AS generation`,
      )
      return row.generation
    },

    async findSignInToken(person) {
      const [row] = await run(
        () => sql<SignInTokenRow[]>`
          SELECT
            generation, access_token, access_token_expires_at, id_token, id_token_expires_at, refresh_token
          FROM sign_in_token WHERE ${isOf(person)}
            AND NOT ${isCutOffSince(sql`sign_in_token.issuer`, sql`sign_in_token.user_id`, sql`signed_in_at`)}`,
      )
      if (row === undefined) return undefined
      return {
        generation: row.generation,
        sealedAccessToken: row.access_token,
        accessTokenExpiresAt: row.access_token_expires_at ?? undefined,
        sealedIdToken: row.id_token ?? undefined,
        idTokenExpiresAt: row.id_token_expires_at ?? undefined,
        sealedRefreshToken: row.refresh_token ?? undefined,
      }
    },

    async putSignInToken(person, token, begunAt) {
      await run(
        () => sql`
          INSERT INTO sign_in_token (
            issuer, user_id, generation, access_token, access_token_expires_at,
            id_token, id_token_expires_at, refresh_token, signed_in_at
          )
          SELECT
            ${person.issuer}::text, ${person.userId}::text, ${token.generation}::bigint,
            ${token.sealedAccessToken}::bytea, ${token.accessTokenExpiresAt ?? null}::timestamptz,
            ${token.sealedIdToken ?? null}::bytea, ${token.idTokenExpiresAt ?? null}::timestamptz,
            ${token.sealedRefreshToken ?? null}::bytea, ${begunAt}::timestamptz
          WHERE NOT ${isCutOffSince(sql`${person.issuer}`, sql`${person.userId}`, sql`${begunAt}::timestamptz`)}
          ON CONFLICT (issuer, user_id) DO UPDATE SET
            generation = excluded.generation,
            access_token = excluded.access_token,
            access_token_expires_at = excluded.access_token_expires_at,
            id_token = excluded.id_token, id_token_expires_at = excluded.id_token_expires_at,
            refresh_token = excluded.refresh_token, signed_in_at = excluded.signed_in_at,
            lease_owner = NULL, lease_until = NULL
          WHERE sign_in_token.generation < excluded.generation`,
      )
    },

    async claimSignInToken(person, generation, leaseOwner) {
      const { count } = await run(
        () => sql`
          UPDATE sign_in_token SET
            lease_owner = ${leaseOwner}, lease_until = now() + make_interval(secs => ${strictLeaseSeconds})
          WHERE ${isOf(person)} AND generation = ${generation} AND refresh_token IS NOT NULL
            AND (lease_until IS NULL OR lease_until <= now())`,
      )
      return count > 0
    },

    async releaseSignInToken(person, generation, leaseOwner) {
      await run(
        () => sql`
          UPDATE sign_in_token SET lease_owner = NULL, lease_until = NULL
          WHERE ${isOf(person)} AND generation = ${generation} AND lease_owner = ${leaseOwner}`,
      )
    },

    async replaceSignInToken(person, fromGeneration, token) {
      const rows = await run(
        () => sql`
          UPDATE sign_in_token SET
            generation = ${token.generation}, access_token = ${token.sealedAccessToken},
            access_token_expires_at = ${token.accessTokenExpiresAt ?? null},
            id_token = ${token.sealedIdToken ?? null},
            id_token_expires_at = ${token.idTokenExpiresAt ?? null},
            refresh_token = ${token.sealedRefreshToken ?? null},
            lease_owner = NULL, lease_until = NULL
          WHERE ${isOf(person)} AND generation = ${fromGeneration}
          RETURNING generation`,
      )
      return rows.length > 0
    },

    async dropRefreshToken(person, generation) {
      await run(
        () => sql`
          UPDATE sign_in_token SET refresh_token = NULL, lease_owner = NULL, lease_until = NULL
          WHERE ${isOf(person)} AND generation = ${generation}`,
      )
    },
  }
}
