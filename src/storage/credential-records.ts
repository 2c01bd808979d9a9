import type postgres from 'postgres'
import type { PersonId } from '../core/caller.ts'
import type { ConnectionReason, CredentialKey } from '../core/credential.ts'
import type {
  CredentialRecord,
  CredentialRecords,
  NewCredentialRecord,
  TakenRecord,
} from '../core/ports/credential-records.ts'
import type { StoredConnection } from '../core/ports/credential-store.ts'
import type { RenewalState, SetbackKind } from '../core/setback.ts'
import type { CredentialBinding, MethodName } from '../core/upstream.ts'
import type { Sql } from './connections.ts'
import type { Database } from './database.ts'
import { invalidation } from './invalidations.ts'
import { credentialSubject, notify } from './notice-channel.ts'
import { isOwn } from './own-row.ts'
import { textArray } from './text-array.ts'
import { pauseServer } from './token-endpoint-pauses.ts'

export type ConnectionRow = {
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
  fail_count: number
  refresh_token: Buffer
  scopes: string[]
}

type LookRow = {
  lease_epoch: number
  failure: SetbackKind | null
  leased_seconds: number | null
  blocked_seconds: number | null
  retry_seconds: number | null
  forced_too_often: boolean
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

/** How often a minute a connection may be renewed because callers name its credential as rejected. */
const forcedPerMinute = 5

/** The columns of a ConnectionRow. */
export const connectionColumnsOf = (sql: Sql) => sql`
  credential.issuer, credential.user_id, credential.upstream, credential.generation, credential.status,
  credential.reason, credential.method, credential.scopes, credential.audience, credential.account,
  credential.authorization_server, credential.client_id, credential.resource,
  credential.refresh_token IS NOT NULL AS renewable,
  credential.connected_at, credential.obtained_at, credential.expires_at, credential.next_try_at`

export function createCredentialRecords(database: Database): CredentialRecords {
  const { run, sql } = database

  const connectionColumns = connectionColumnsOf(sql)
  const credentialColumns = sql`${connectionColumns}, credential.renewed, credential.access_token`

  const isClaimed = (claim: { readonly generation: number; readonly leaseEpoch: number }) => sql`
    credential.generation = ${claim.generation} AND credential.lease_epoch = ${claim.leaseEpoch}
    AND credential.lease_owner IS NOT NULL`
  const tellWaiters = (key: CredentialKey) => notify(sql, 'credential', credentialSubject(key))
  const pausedUntil = sql`
    SELECT paused_until FROM token_endpoint_pause
    WHERE token_endpoint_pause.authorization_server = credential.authorization_server`
  const recentlyForced = sql`
    array(SELECT at FROM unnest(credential.forced_at) AS at WHERE at > now() - interval '1 minute')`
  /** Until when a refresh token rests that may be spent; null where it need not. */
  const heldUntil = (repeatable: boolean) =>
    repeatable
      ? sql`NULL::timestamptz`
      : sql`CASE WHEN credential.attempt_started_at IS NULL THEN NULL ELSE credential.expires_at END`
  /** Null where that is over, or was never said. */
  const secondsUntil = (instant: postgres.PendingQuery<postgres.Row[]>) => sql`
    CASE WHEN ${instant} > now() THEN extract(epoch FROM ${instant} - now())::float8 END`

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
            RETURNING ${credentialColumns}, ${tellWaiters(key)}
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
            RETURNING ${credentialColumns}, ${tellWaiters(key)}
          )
          ${isForAll ? sql`, ${invalidation(sql, key, 'stored', { ended: false })}` : sql``}
          SELECT * FROM stored`,
      )
      return row && toRecord(row)
    },

    async countForced(key, generation) {
      const { count } = await run(
        () => sql`
          UPDATE credential SET forced_at = ${recentlyForced} || now()
          WHERE ${isOwn(sql, 'credential', key)} AND generation = ${generation}
            AND cardinality(${recentlyForced}) < ${forcedPerMinute}`,
      )
      return count > 0
    },

    async claim(key, generation, terms) {
      const { leaseOwner, repeatable, leaseSeconds, forced, sparesSilent = false } = terms
      // An attempt that is still open keeps its time, so that this one is known by it: a time that is not this statement's
      // now() is an earlier attempt's, whose answer nobody saw.
      const [row] = await run(
        () => sql<ClaimRow[]>`
          UPDATE credential SET
            lease_owner = ${leaseOwner}, lease_epoch = lease_epoch + 1,
            lease_until = now() + make_interval(secs => ${leaseSeconds}),
            attempt_started_at = coalesce(attempt_started_at, now()),
            forced_at = CASE WHEN ${forced} THEN ${recentlyForced} || now() ELSE forced_at END
          WHERE ${isOwn(sql, 'credential', key)} AND generation = ${generation} AND status = 'connected'
            AND refresh_token IS NOT NULL
            AND (lease_until IS NULL OR (lease_until <= now() AND NOT ${sparesSilent}))
            AND (next_try_at IS NULL OR next_try_at <= now())
            AND (${heldUntil(repeatable)} IS NULL OR expires_at <= now())
            AND (NOT ${forced} OR cardinality(${recentlyForced}) < ${forcedPerMinute})
            AND NOT EXISTS (SELECT FROM (${pausedUntil}) AS pause WHERE paused_until > now())
          RETURNING nextval('credential_generation') AS next_generation, lease_epoch,
            attempt_started_at <> now() AS after_lost_answer,
            -- A failure that is long over no longer counts towards the next pause.
            CASE WHEN next_try_at > now() - interval '1 minute' THEN fail_count ELSE 0 END AS fail_count,
            refresh_token, scopes`,
      )
      if (row === undefined) return undefined
      return {
        nextGeneration: row.next_generation,
        leaseEpoch: row.lease_epoch,
        afterLostAnswer: row.after_lost_answer,
        failCount: row.fail_count,
        sealedRefreshToken: row.refresh_token,
        scopes: row.scopes,
      }
    },

    async look(key, { repeatable, forced, sparesSilent = false }) {
      // Who spares a silent holder looks again within a second.
      const spared = sql`CASE WHEN ${sparesSilent} AND lease_until IS NOT NULL THEN now() + interval '1 second' END`
      const [row] = await run(
        () => sql<(CredentialRow & LookRow)[]>`
          SELECT ${credentialColumns}, lease_epoch, failure,
            ${secondsUntil(sql`greatest(lease_until, ${spared})`)} AS leased_seconds,
            ${secondsUntil(sql`greatest((${pausedUntil}), ${heldUntil(repeatable)})`)} AS blocked_seconds,
            ${secondsUntil(sql`next_try_at`)} AS retry_seconds,
            ${forced} AND cardinality(${recentlyForced}) >= ${forcedPerMinute} AS forced_too_often
          FROM credential WHERE ${isOwn(sql, 'credential', key)}`,
      )
      return row && { record: toRecord(row), renewal: toRenewalState(row) }
    },

    async commit(key, fromGeneration, record) {
      // The lease is not asked for: a late success of a holder that stood still must win over the next holder's failure.
      const [row] = await run(
        () => sql<CredentialRow[]>`
          WITH renewed AS (UPDATE credential SET
            generation = ${record.generation}, status = 'connected', reason = NULL,
            scopes = ${textArray(sql, record.scopes)},
            account = coalesce(${record.account ?? null}, account),
            access_token = ${record.sealedAccessToken}, refresh_token = ${record.sealedRefreshToken},
            renewed = true, obtained_at = now(), expires_at = ${record.expiresAt ?? null},
            lease_owner = NULL, lease_until = NULL, attempt_started_at = NULL,
            fail_count = 0, next_try_at = NULL, failure = NULL, ahead_after = NULL
          WHERE ${isOwn(sql, 'credential', key)} AND generation = ${fromGeneration}
          RETURNING ${credentialColumns}, ${tellWaiters(key)})
          ${record.forgetsOld ? sql`, ${invalidation(sql, key, 'renewed', { ended: false })}` : sql``}
          SELECT * FROM renewed`,
      )
      return row && toRecord(row)
    },

    async endConnection(key, claim, reason) {
      // Every replica hears of it: a credential that callers named as rejected may have long to live.
      const { count } = await run(
        () => sql`
          WITH ended AS (UPDATE credential SET
            status = 'reconnect_required', reason = ${reason},
            access_token = NULL, refresh_token = NULL,
            lease_owner = NULL, lease_until = NULL, attempt_started_at = NULL,
            fail_count = fail_count + 1, next_try_at = NULL, failure = NULL
          WHERE ${isOwn(sql, 'credential', key)} AND ${isClaimed(claim)}
          RETURNING ${tellWaiters(key)}),
          ${invalidation(sql, key, 'ended', { ended: false, onlyIfAny: true })}
          SELECT * FROM ended`,
      )
      return count > 0
    },

    async releaseLease(key, claim, { failure, failCount, retryInSeconds, outcomeKnown, pause }) {
      // What an earlier attempt came to stays unknown whatever came of this one.
      const isOver = outcomeKnown && !claim.afterLostAnswer
      const { count } = await run(
        () => sql`
          ${pause === undefined ? sql`` : sql`WITH paused AS (${pauseServer(sql, pause)})`}
          UPDATE credential SET
            lease_owner = NULL, lease_until = NULL,
            attempt_started_at = CASE WHEN ${isOver} THEN NULL ELSE attempt_started_at END,
            fail_count = ${failCount}, failure = ${failure},
            next_try_at = now() + make_interval(secs => ${retryInSeconds})
          WHERE ${isOwn(sql, 'credential', key)} AND ${isClaimed(claim)}
          RETURNING ${tellWaiters(key)}`,
      )
      return count > 0
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

export function toConnection(row: ConnectionRow): StoredConnection {
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

export function toBinding(
  row: Pick<ConnectionRow, 'authorization_server' | 'client_id' | 'resource'>,
): CredentialBinding {
  return {
    authorizationServer: row.authorization_server,
    clientId: row.client_id,
    resource: row.resource ?? undefined,
  }
}

function toRenewalState(row: LookRow): RenewalState {
  const { failure, retry_seconds: retryInSeconds } = row
  return {
    leaseEpoch: row.lease_epoch,
    leasedForSeconds: row.leased_seconds ?? undefined,
    blockedForSeconds: row.blocked_seconds ?? undefined,
    setback: failure === null || retryInSeconds === null ? undefined : { failure, retryInSeconds },
    forcedTooOften: row.forced_too_often,
  }
}

function toRecord(row: CredentialRow): CredentialRecord {
  return {
    ...toConnection(row),
    renewed: row.renewed,
    sealedAccessToken: row.access_token ?? undefined,
  }
}
