import { asc, gt } from 'drizzle-orm'
import type { ActivityProofRecords, ActivityRow } from '../core/ports/activity-proof.ts'
import type { Database } from './database.ts'
import { removedPartitions } from './activity-partitions.ts'
import { exactColumns } from './activity-rows.ts'
import { activityCheckpoint, activityRemoval } from './schema/activity-proof.ts'
import { sqlStates } from './sql-states.ts'
import { faultCodeOf } from './storage-fault.ts'

/** Everything is asked in pages, each well within the time that a statement may take. */
export function createActivityProofRecords(database: Database): ActivityProofRecords {
  const { db, run, sql } = database

  return {
    async heads() {
      const rows = await run(
        () => sql<{ at: Date; id: string | null; seq: number; hash: Buffer }[]>`
          SELECT now() AS at, id, last_seq AS seq, last_hash AS hash
          FROM (SELECT) AS always LEFT JOIN activity_writer ON true`,
      )
      return {
        at: rows[0]?.at ?? new Date(0),
        heads: rows.flatMap(({ id, seq, hash }) =>
          id === null ? [] : [{ writer: id, seq, hash }],
        ),
      }
    },

    async beforeChain() {
      const [row] = await run(
        () => sql<{ existed: boolean; chainedSince: Date }[]>`
          SELECT existed, chained_since AS "chainedSince" FROM activity_before_chain`,
      )
      return row ?? { existed: false, chainedSince: new Date(0) }
    },

    async tables() {
      return [...(await removedPartitions(database)), 'activity']
    },

    async rows(table, after, limit) {
      const behind =
        after === undefined
          ? sql``
          : // The second condition says nothing new, but lets the planner leave earlier partitions out.
            sql`WHERE (occurred_at, id) > (${after.at}::timestamptz, ${after.id}::uuid)
              AND occurred_at >= ${after.at}::timestamptz`
      const found = run(
        () => sql<(ActivityRow & { at: string })[]>`
          SELECT ${sql.unsafe(exactColumns)}, occurred_at::text AS at
          FROM ${sql(table)} AS record ${behind}
          ORDER BY occurred_at, id LIMIT ${limit}`,
      )
      const rows = await found.catch(unlessGone)
      if (rows === undefined) return undefined
      const last = rows.length < limit ? undefined : rows.at(-1)
      return { rows, next: last && { at: last.at, id: last.id } }
    },

    removals(after, limit) {
      return run(() =>
        db
          .select({
            id: activityRemoval.id,
            partition: activityRemoval.partition,
            writer: activityRemoval.writer,
            first: activityRemoval.firstSeq,
            last: activityRemoval.lastSeq,
            lastHash: activityRemoval.lastHash,
            keyId: activityRemoval.keyId,
            signature: activityRemoval.signature,
          })
          .from(activityRemoval)
          .where(gt(activityRemoval.id, after))
          .orderBy(asc(activityRemoval.id))
          .limit(limit),
      )
    },

    async addRemovals(removals) {
      if (removals.length === 0) return
      const rows = removals.map(({ partition, writer, first, last, lastHash, signed }) => ({
        partition,
        writer,
        firstSeq: first,
        lastSeq: last,
        lastHash,
        keyId: signed.key.kid,
        signature: signed.signature,
      }))
      await run(() => db.insert(activityRemoval).values(rows).onConflictDoNothing())
    },

    checkpoints(after, limit) {
      return run(() =>
        db
          .select({
            id: activityCheckpoint.id,
            checkpoint: activityCheckpoint.checkpoint,
            keyId: activityCheckpoint.keyId,
            signature: activityCheckpoint.signature,
          })
          .from(activityCheckpoint)
          .where(gt(activityCheckpoint.id, after))
          .orderBy(asc(activityCheckpoint.id))
          .limit(limit),
      )
    },

    async addCheckpoint(content, signed) {
      const { complete } = content
      const row = {
        checkpoint: content,
        complete,
        keyId: signed.key.kid,
        signature: signed.signature,
      }
      await run(() => db.insert(activityCheckpoint).values(row))
    },
  }
}

/** A removed partition is dropped while others read it. */
function unlessGone(error: unknown): undefined {
  if (faultCodeOf(error) !== sqlStates.undefinedTable) throw error
}
