import type postgres from 'postgres'
import type { CredentialRecords } from '../core/ports/credential-records.ts'
import type { RenewalState, SetbackKind } from '../core/setback.ts'
import { type CredentialRow, credentialColumnsOf, toRecord } from './credential-rows.ts'
import type { Database } from './database.ts'
import { invalidation } from './invalidations.ts'
import { tellWaiters } from './notice-channel.ts'
import { isOwn } from './own-row.ts'
import { textArray } from './text-array.ts'
import { pauseServer } from './token-endpoint-pauses.ts'

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

/** How often a minute a connection may be renewed because callers name its credential as rejected. */
const forcedPerMinute = 5

/** The renewals of what is stored: who may send, and what came of it. */
export type CredentialClaims = Pick<
  CredentialRecords,
  'countForced' | 'claim' | 'look' | 'commit' | 'endConnection' | 'releaseLease'
>

export function createCredentialClaims(database: Database): CredentialClaims {
  const { run, sql } = database

  const credentialColumns = credentialColumnsOf(sql)
  const isClaimed = (claim: { readonly generation: number; readonly leaseEpoch: number }) => sql`
    credential.generation = ${claim.generation} AND credential.lease_epoch = ${claim.leaseEpoch}
    AND credential.lease_owner IS NOT NULL`
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

  return {
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
          RETURNING ${credentialColumns}, ${tellWaiters(sql, key)})
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
          RETURNING ${tellWaiters(sql, key)}),
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
          RETURNING ${tellWaiters(sql, key)}`,
      )
      return count > 0
    },
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
