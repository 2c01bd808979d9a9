import { setTimeout as sleep } from 'node:timers/promises'
import type { ActivityPartitions } from '../core/ports/activity-partitions.ts'
import type { Database } from './database.ts'
import { sqlStates } from './sql-states.ts'
import { faultCodeOf } from './storage-fault.ts'

/** How many weeks have their partition before they begin, this one included. */
const weeksAhead = 3
/** Held while a partition is made, so that replicas make each one once. */
const partitionLock = 0x61637469
/**
 * Changing which partitions there are needs up to three locks that nobody else may hold, and whoever comes meanwhile waits
 * behind us: so little for each that they wait 100 ms at most together, and a pause in which they all get through.
 */
const lockWaitMs = 25
const lockAttempts = 60
const lockPauseMs = 250
/**
 * While a partition is made, nobody reads or writes the default one, which is read as a whole and what belongs to the week
 * moved. Where that would take long, records stay where they are: they are found there too, only removed more slowly.
 */
const mostMoved = 5000
const mostScannedBytes = 128 * 1024 * 1024
const rowsPerMove = 2000
const movesPerRun = 25

/** What was taken out of the log and is not dropped yet: weeks, and what belonged to none. */
const leftovers = '^activity_([0-9]{4}w[0-9]{2}|expired)$'

export function createActivityPartitions(database: Database): ActivityPartitions {
  const { run, sql } = database

  return {
    async takeOut(retentionDays) {
      let isDone = true
      for (const name of await oldWeeks(database, retentionDays)) {
        const statement = `
          DO $retention$ BEGIN
            PERFORM set_config('lock_timeout', '${lockWaitMs}ms', true);
            IF EXISTS (
              SELECT FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
              WHERE inhparent = 'activity'::regclass AND relname = '${name}'
            ) THEN
              ALTER TABLE activity DETACH PARTITION ${name};
            END IF;
          END $retention$`
        if (!(await withShortLocks(database, statement))) isDone = false
      }
      return (await takeOutStrays(database, retentionDays)) && isDone
    },

    takenOut: () => removedPartitions(database),

    async drop(name) {
      await run(() => sql`DROP TABLE IF EXISTS ${sql(name)}`)
    },
  }
}

/** Names of partitions that were taken out of the log and are still there. */
export async function removedPartitions({ run, sql }: Database): Promise<readonly string[]> {
  const rows = await run(
    () => sql<{ name: string }[]>`
      SELECT part.relname AS name FROM pg_class AS part JOIN pg_class AS log USING (relnamespace)
      WHERE log.oid = 'activity'::regclass AND part.relkind = 'r' AND NOT part.relispartition
        AND part.relname ~ ${leftovers}
      ORDER BY 1`,
  )
  return rows.map(({ name }) => name)
}

/** Weeks of the log that ended before the retention began. The names were made by us and hold digits only. */
async function oldWeeks({ run, sql }: Database, retentionDays: number): Promise<readonly string[]> {
  const rows = await run(
    () => sql<{ name: string }[]>`
      WITH week AS (
        SELECT relname AS name, to_date(substr(relname, 10), 'IYYY"w"IW') AS starts
        FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
        WHERE inhparent = 'activity'::regclass AND relname ~ '^activity_[0-9]{4}w[0-9]{2}$'
      )
      SELECT name FROM week
      WHERE (starts + 7)::timestamp AT TIME ZONE 'UTC' <= now() - ${retentionDays} * interval '1 day'
      ORDER BY starts`,
  )
  return rows.map(({ name }) => name)
}

/** Older records that belong to no week, such as those of a process with a wrong clock. */
async function takeOutStrays(database: Database, retentionDays: number): Promise<boolean> {
  const { run, sql } = database
  const old = sql`
    FROM activity_default
    WHERE occurred_at < date_trunc('week', now() - ${retentionDays} * interval '1 day', 'UTC')`
  for (let move = 0; move < movesPerRun; move += 1) {
    const [row] = await run(() => sql<{ any: boolean }[]>`SELECT EXISTS (SELECT ${old}) AS any`)
    if (row?.any !== true) return true
    await run(() => sql`CREATE TABLE IF NOT EXISTS activity_expired (LIKE activity INCLUDING ALL)`)
    await run(
      () => sql`
        WITH moved AS (
          DELETE FROM activity_default WHERE ctid = ANY(ARRAY(SELECT ctid ${old} LIMIT ${rowsPerMove} FOR UPDATE SKIP LOCKED))
          RETURNING *
        ) INSERT INTO activity_expired SELECT * FROM moved`,
    )
  }
  return false
}

/**
 * Makes the weekly partitions from this week on, and those of earlier weeks whose records went to the default partition.
 * Weeks begin on Monday 00:00 UTC and are named as in ISO 8601: activity_2026w47.
 */
export async function makePartitions(database: Database, retentionDays: number): Promise<void> {
  const missing = await database.run(
    () => database.sql<{ name: string; starts: Date; ends: Date }[]>`
      WITH bounds AS (
        SELECT date_trunc('week', now(), 'UTC') AS this_week,
          date_trunc('week', now() - ${retentionDays} * interval '1 day', 'UTC') AS oldest
      ), week AS (
        SELECT 'activity_' || to_char(starts AT TIME ZONE 'UTC', 'IYYY"w"IW') AS name, starts,
          starts + interval '7 days' AS ends, starts >= this_week AS is_ahead
        FROM bounds, generate_series(oldest, this_week + ${weeksAhead - 1} * interval '7 days', interval '7 days') AS starts
      ), missing AS (
        SELECT name, starts, ends, is_ahead, (
          SELECT count(*) FROM (
            SELECT FROM activity_default
            WHERE occurred_at >= starts AND occurred_at < ends LIMIT ${mostMoved + 1}
          ) AS few
        ) AS records
        FROM week WHERE to_regclass(name) IS NULL
      )
      SELECT name, starts, ends FROM missing
      WHERE (is_ahead OR records > 0) AND records <= ${mostMoved}
        AND pg_relation_size('activity_default') < ${mostScannedBytes}::bigint
      ORDER BY starts`,
  )
  for (const { name, starts, ends } of missing) {
    // DDL takes no parameters. All three were computed by the database from a time.
    const statement = partitionStatement(name, starts.toISOString(), ends.toISOString())
    await withShortLocks(database, statement)
  }
}

/**
 * One statement, so that it happens wholly or not at all. Attaching a filled table, unlike `CREATE … PARTITION OF`, keeps
 * nobody from writing to other weeks meanwhile, and lets records leave the default partition for their week.
 */
function partitionStatement(name: string, starts: string, ends: string): string {
  return `
    DO $maintenance$ BEGIN
      PERFORM pg_advisory_xact_lock(${partitionLock});
      PERFORM set_config('lock_timeout', '${lockWaitMs}ms', true);
      -- Not to_regclass: its cache does not notice what another session made while we waited for the lock.
      IF EXISTS (
        SELECT FROM pg_class made JOIN pg_class log USING (relnamespace)
        WHERE made.relname = '${name}' AND log.oid = 'activity'::regclass
      ) THEN RETURN; END IF;
      LOCK TABLE activity_default IN ACCESS EXCLUSIVE MODE;
      CREATE TABLE ${name} (LIKE activity INCLUDING ALL);
      WITH moved AS (
        DELETE FROM activity_default
        WHERE occurred_at >= '${starts}' AND occurred_at < '${ends}' RETURNING *
      ) INSERT INTO ${name} SELECT * FROM moved;
      ALTER TABLE activity ATTACH PARTITION ${name} FOR VALUES FROM ('${starts}') TO ('${ends}');
    END $maintenance$`
}

/** Runs a statement that gives up when it has to wait for a lock, again and again; false when it never got them. */
async function withShortLocks(database: Database, statement: string): Promise<boolean> {
  for (let attempt = 1; attempt <= lockAttempts; attempt += 1) {
    try {
      await database.run(() => database.sql.unsafe(statement))
      return true
    } catch (error) {
      if (faultCodeOf(error) !== sqlStates.lockNotAvailable) throw error
    }
    await sleep(lockPauseMs * (0.5 + Math.random()))
  }
  return false
}
