import type { ConnectionReason, CredentialKey } from '../core/credential.ts'
import type { CredentialRecord, CredentialRecords } from '../core/ports/credential-records.ts'
import type { StoredConnection } from '../core/ports/credential-store.ts'
import type { CredentialBinding, MethodName } from '../core/upstream.ts'
import type { Database } from './database.ts'
import { invalidation } from './invalidations.ts'

type ConnectionRow = {
  issuer: string
  user_id: string
  upstream: string
  generation: number
  status: StoredConnection['status']
  reason: ConnectionReason | null
  method: MethodName
  scopes: string[]
  audience: string | null
  account: string | null
  authorization_server: string
  client_id: string
  resource: string | null
  renewable: boolean
  connected_at: Date
  obtained_at: Date
  expires_at: Date | null
  next_try_at: Date | null
}

type CredentialRow = ConnectionRow & { renewed: boolean; access_token: Buffer | null }

type ClaimRow = {
  next_generation: number
  lease_epoch: number
  after_lost_answer: boolean
  refresh_token: Buffer
  scopes: string[]
}

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

  const connectionColumns = sql`
    credential.issuer, credential.user_id, credential.upstream, credential.generation, credential.status,
    credential.reason, credential.method, credential.scopes, credential.audience, credential.account,
    credential.authorization_server, credential.client_id, credential.resource,
    credential.refresh_token IS NOT NULL AS renewable,
    credential.connected_at, credential.obtained_at, credential.expires_at, credential.next_try_at`
  const credentialColumns = sql`${connectionColumns}, credential.renewed, credential.access_token`

  const isOwn = (key: CredentialKey) => sql`
    credential.issuer = ${key.issuer} AND credential.user_id = ${key.userId}
    AND credential.upstream = ${key.upstream}`
  const isClaimed = (claim: { readonly generation: number; readonly leaseEpoch: number }) => sql`
    credential.generation = ${claim.generation} AND credential.lease_epoch = ${claim.leaseEpoch}
    AND credential.lease_owner IS NOT NULL`
  const textArray = (values: readonly string[]) => sql`${sql.array([...values])}::text[]`

  return {
    async nextGeneration() {
      const [row] = await run(
        () => sql<[{ generation: number }]>`SELECT nextval('credential_generation') AS generation`,
      )
      return row.generation
    },

    async find(key) {
      const [row] = await run(
        () => sql<CredentialRow[]>`
          SELECT ${credentialColumns} FROM credential WHERE ${isOwn(key)}`,
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
      // Exchanges bring what other replicas would have got as well; who connects may have meant another account.
      const isGiven = record.method === 'connect' || record.method === 'user_key'
      const [row] = await run(
        () => sql<CredentialRow[]>`
          WITH stored AS (INSERT INTO credential (
            issuer, user_id, upstream, generation, status, method, scopes, audience, account,
            authorization_server, client_id, resource, access_token, refresh_token,
            renewed, connected_at, obtained_at, expires_at
          ) VALUES (
            ${key.issuer}, ${key.userId}, ${key.upstream}, ${record.generation}, 'connected', ${record.method},
            ${textArray(record.scopes)}, ${record.audience ?? null}, ${record.account ?? null},
            ${record.binding.authorizationServer}, ${record.binding.clientId}, ${record.binding.resource ?? null},
            ${record.sealedAccessToken}, ${record.sealedRefreshToken ?? null},
            ${record.renewed}, now(), now(), ${record.expiresAt ?? null}
          )
          ON CONFLICT (issuer, user_id, upstream) DO UPDATE SET
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
            fail_count = 0, next_try_at = NULL
          WHERE credential.generation < excluded.generation
          RETURNING ${credentialColumns})
          ${isGiven ? sql`, ${invalidation(sql, key, 'stored')}` : sql``}
          SELECT * FROM stored`,
      )
      return row && toRecord(row)
    },

    async claim(key, generation, leaseOwner) {
      // An attempt that is still open keeps its time, so that this one is known by it: a time that is not this statement's
      // now() is an earlier attempt's, whose answer nobody saw.
      const [row] = await run(
        () => sql<ClaimRow[]>`
          UPDATE credential SET
            lease_owner = ${leaseOwner}, lease_epoch = lease_epoch + 1,
            lease_until = now() + interval '30 seconds',
            attempt_started_at = coalesce(attempt_started_at, now())
          WHERE ${isOwn(key)} AND generation = ${generation} AND status = 'connected'
            AND refresh_token IS NOT NULL
            AND (lease_until IS NULL OR lease_until <= now())
            AND (next_try_at IS NULL OR next_try_at <= now())
          RETURNING nextval('credential_generation') AS next_generation, lease_epoch,
            attempt_started_at <> now() AS after_lost_answer, refresh_token, scopes`,
      )
      if (row === undefined) return undefined
      return {
        nextGeneration: row.next_generation,
        leaseEpoch: row.lease_epoch,
        afterLostAnswer: row.after_lost_answer,
        sealedRefreshToken: row.refresh_token,
        scopes: row.scopes,
      }
    },

    async commit(key, fromGeneration, record) {
      // The lease is not asked for: a late success of a holder that stood still must win over the next holder's failure.
      const [row] = await run(
        () => sql<CredentialRow[]>`
          UPDATE credential SET
            generation = ${record.generation}, status = 'connected', reason = NULL,
            scopes = ${textArray(record.scopes)},
            account = coalesce(${record.account ?? null}, account),
            access_token = ${record.sealedAccessToken}, refresh_token = ${record.sealedRefreshToken},
            renewed = true, obtained_at = now(), expires_at = ${record.expiresAt ?? null},
            lease_owner = NULL, lease_until = NULL, attempt_started_at = NULL,
            fail_count = 0, next_try_at = NULL
          WHERE ${isOwn(key)} AND generation = ${fromGeneration}
          RETURNING ${credentialColumns}`,
      )
      return row && toRecord(row)
    },

    async endConnection(key, claim, reason) {
      await run(
        () => sql`
          UPDATE credential SET
            status = 'reconnect_required', reason = ${reason},
            access_token = NULL, refresh_token = NULL,
            lease_owner = NULL, lease_until = NULL, attempt_started_at = NULL,
            fail_count = fail_count + 1, next_try_at = NULL
          WHERE ${isOwn(key)} AND ${isClaimed(claim)}`,
      )
    },

    async releaseLease(key, claim, retry) {
      // The claim began 30 s before its lease ends; an attempt of that very time is this claim's own.
      await run(
        () => sql`
          UPDATE credential SET
            lease_owner = NULL, lease_until = NULL,
            attempt_started_at = CASE
              WHEN ${retry.outcomeKnown} AND attempt_started_at = lease_until - interval '30 seconds'
              THEN NULL ELSE attempt_started_at END,
            fail_count = fail_count + 1, next_try_at = ${retry.nextTryAt}
          WHERE ${isOwn(key)} AND ${isClaimed(claim)}`,
      )
    },

    async take(key) {
      const [row] = await run(
        () => sql<TakenRow[]>`
          WITH taken AS (
            DELETE FROM credential WHERE ${isOwn(key)}
            RETURNING generation, method, authorization_server, client_id, resource,
              access_token, refresh_token
          ),
          ${invalidation(sql, key, 'taken')}
          SELECT * FROM taken`,
      )
      if (row === undefined) return undefined
      return {
        generation: row.generation,
        method: row.method,
        binding: toBinding(row),
        sealedAccessToken: row.access_token ?? undefined,
        sealedRefreshToken: row.refresh_token ?? undefined,
      }
    },
  }
}

function toConnection(row: ConnectionRow): StoredConnection {
  return {
    issuer: row.issuer,
    userId: row.user_id,
    upstream: row.upstream,
    generation: row.generation,
    status: row.status,
    reason: row.reason ?? undefined,
    method: row.method,
    scopes: row.scopes,
    audience: row.audience ?? undefined,
    account: row.account ?? undefined,
    binding: toBinding(row),
    renewable: row.renewable,
    connectedAt: row.connected_at,
    obtainedAt: row.obtained_at,
    expiresAt: row.expires_at ?? undefined,
    nextTryAt: row.next_try_at ?? undefined,
  }
}

function toBinding(
  row: Pick<ConnectionRow, 'authorization_server' | 'client_id' | 'resource'>,
): CredentialBinding {
  return {
    authorizationServer: row.authorization_server,
    clientId: row.client_id,
    resource: row.resource ?? undefined,
  }
}

function toRecord(row: CredentialRow): CredentialRecord {
  return {
    ...toConnection(row),
    renewed: row.renewed,
    sealedAccessToken: row.access_token ?? undefined,
  }
}
