import type { Database } from './database.ts'
import { isOutdated } from './invalidations.ts'

const batchRows = 1000
/** A backlog is worked off over several runs, so that no run keeps the database busy. */
const batchesPerRun = 50

/** Removes what nobody can use any more, in batches. Gives whether some of it is left. */
export async function removeOutdated(
  database: Database,
  retentionDays: number,
): Promise<'done' | 'more'> {
  const { sql } = database
  const day = 24 * 60 * 60
  // A link that was used or came too late still explains itself for a day.
  const kept = {
    acquisition_attempt: 0,
    connect_flow: 0,
    connect_ticket: day,
    session: 0,
    sign_in_flow: 0,
  }
  let left: 'done' | 'more' = 'done'
  const inBatches = async (remove: () => Promise<{ readonly count: number }>) => {
    for (let batch = 0; batch < batchesPerRun; batch += 1) {
      const { count } = await remove()
      if (count < batchRows) return
    }
    left = 'more'
  }
  for (const [table, keptSeconds] of Object.entries(kept)) {
    await inBatches(() =>
      database.run(
        () => sql`
          DELETE FROM ${sql(table)} WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM ${sql(table)}
            WHERE expires_at < now() - ${keptSeconds} * interval '1 second'
            LIMIT ${batchRows} FOR UPDATE SKIP LOCKED))`,
      ),
    )
  }
  // A client that comes back to one that is gone is told so, and begins anew.
  await inBatches(() =>
    database.run(
      () => sql`
        DELETE FROM gateway_session WHERE id_hash = ANY(ARRAY(
          SELECT id_hash FROM gateway_session WHERE used_at < now() - interval '7 days'
          LIMIT ${batchRows} FOR UPDATE SKIP LOCKED))`,
    ),
  )
  // Replicas that nobody has waited for since they went away without leaving. One that only slept comes back as a new one.
  await database.run(() => sql`DELETE FROM replica WHERE heard_at < now() - interval '1 minute'`)
  await inBatches(() =>
    database.run(
      () => sql`
        DELETE FROM invalidation WHERE id = ANY(ARRAY(
          SELECT id FROM invalidation
          WHERE ${isOutdated(sql)}
          ORDER BY id LIMIT ${batchRows} FOR UPDATE SKIP LOCKED))`,
    ),
  )
  // Checkpoints in between serve to find the place of a change; the hourly ones, with every writer, do for older records.
  await inBatches(() =>
    database.run(
      () => sql`
        DELETE FROM activity_checkpoint WHERE id = ANY(ARRAY(
          SELECT id FROM activity_checkpoint
          WHERE made_at < now() - ${retentionDays} * interval '1 day'
            OR (NOT complete AND made_at < now() - interval '2 days')
          ORDER BY made_at LIMIT ${batchRows} FOR UPDATE SKIP LOCKED))`,
    ),
  )
  // Whoever goes by arrival looks back an hour; a destination that is away must find the batches that it has not got yet.
  await inBatches(() =>
    database.run(
      () => sql`
        DELETE FROM activity_batch WHERE id = ANY(ARRAY(
          SELECT id FROM activity_batch
          WHERE arrived_at < now() - interval '1 day'
            AND (arrived_at < now() - ${retentionDays} * interval '1 day' OR id <= ALL(
              SELECT batch_id FROM activity_destination WHERE seen_at > now() - interval '7 days'))
          ORDER BY id LIMIT ${batchRows} FOR UPDATE SKIP LOCKED))`,
    ),
  )
  return left
}
