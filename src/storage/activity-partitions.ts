import { setTimeout as sleep } from 'node:timers/promises'
import type { ActivityPartitions } from '../core/ports/activity-partitions.ts'
import type { Database } from './database.ts'
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
          do $retention$ begin
            perform set_config('lock_timeout', '${lockWaitMs}ms', true);
            if exists (
              select from pg_inherits join pg_class on pg_class.oid = inhrelid
              where inhparent = 'activity'::regclass and relname = '${name}'
            ) then
              alter table activity detach partition ${name};
            end if;
          end $retention$`
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
      with week as (
        select relname as name, to_date(substr(relname, 10), 'IYYY"w"IW') as starts
        from pg_inherits join pg_class on pg_class.oid = inhrelid
        where inhparent = 'activity'::regclass and relname ~ '^activity_[0-9]{4}w[0-9]{2}$'
      )
      select name from week
      where (starts + 7)::timestamp at time zone 'UTC' <= now() - ${retentionDays} * interval '1 day'
      order by starts`,
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
      with bounds as (
        select date_trunc('week', now(), 'UTC') as this_week,
          date_trunc('week', now() - ${retentionDays} * interval '1 day', 'UTC') as oldest
      ), week as (
        select 'activity_' || to_char(starts at time zone 'UTC', 'IYYY"w"IW') as name, starts,
          starts + interval '7 days' as ends, starts >= this_week as is_ahead
        from bounds, generate_series(oldest, this_week + ${weeksAhead - 1} * interval '7 days', interval '7 days') as starts
      ), missing as (
        select name, starts, ends, is_ahead, (
          select count(*) from (
            select from activity_default
            where occurred_at >= starts and occurred_at < ends limit ${mostMoved + 1}
          ) as few
        ) as records
        from week where to_regclass(name) is null
      )
      select name, starts, ends from missing
      where (is_ahead or records > 0) and records <= ${mostMoved}
        and pg_relation_size('activity_default') < ${mostScannedBytes}::bigint
      order by starts`,
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
    do $maintenance$ begin
      perform pg_advisory_xact_lock(${partitionLock});
      perform set_config('lock_timeout', '${lockWaitMs}ms', true);
      -- Not to_regclass: its cache does not notice what another session made while we waited for the lock.
      if exists (
        select from pg_class made join pg_class log using (relnamespace)
        where made.relname = '${name}' and log.oid = 'activity'::regclass
      ) then return; end if;
      lock table activity_default in access exclusive mode;
      create table ${name} (like activity including all);
      with moved as (
        delete from activity_default
        where occurred_at >= '${starts}' and occurred_at < '${ends}' returning *
      ) insert into ${name} select * from moved;
      alter table activity attach partition ${name} for values from ('${starts}') to ('${ends}');
    end $maintenance$`
}

/** Runs a statement that gives up when it has to wait for a lock, again and again; false when it never got them. */
async function withShortLocks(database: Database, statement: string): Promise<boolean> {
  for (let attempt = 1; attempt <= lockAttempts; attempt += 1) {
    try {
      await database.run(() => database.sql.unsafe(statement))
      return true
    } catch (error) {
      if (faultCodeOf(error) !== LOCK_NOT_AVAILABLE) throw error
    }
    await sleep(lockPauseMs * (0.5 + Math.random()))
  }
  return false
}

const LOCK_NOT_AVAILABLE = '55P03'
