import { isBrokerError } from '../core/errors.ts'
import type { Database } from './database.ts'
import { StorageFault } from './storage-fault.ts'
import type { StorageLog } from './storage-log.ts'

/** How many weeks have their partition before they begin, this one included. */
const weeksAhead = 3
const batchRows = 1000
/** A backlog is worked off over several runs, so that no run keeps the database busy. */
const batchesPerRun = 50
const intervalMs = 60 * 60_000
/** After a run that failed, or that left some of a backlog. */
const soonMs = 60_000
/** Held while a partition is made, so that replicas make each one once. */
const partitionLock = 0x61637469

/**
 * One run of everything that the database needs from time to time. Running it twice, or on two replicas, does no harm. Gives
 * whether there is more to remove: whoever opens pages without signing in leaves rows, and need not do so slowly.
 */
export async function maintain(options: {
  readonly database: Database
  /** Records of the activity log older than this are dropped, whole weeks at a time. */
  readonly retentionDays: number
  readonly log: StorageLog
}): Promise<'done' | 'more'> {
  const { database, retentionDays } = options
  await makePartitions(database, retentionDays)
  for (const week of await dropOldWeeks(database, retentionDays)) {
    options.log.info({ event: 'activity_week_dropped', week })
  }
  return reap(database, retentionDays)
}

/** Maintains at once and every hour. The first run is over when the promise resolves, well or not. */
export async function startMaintenance(
  options: Parameters<typeof maintain>[0],
): Promise<{ readonly stop: () => Promise<void> }> {
  let timer: NodeJS.Timeout | undefined
  let stopped = false
  let running = Promise.resolve()

  const runOnce = async () => {
    let nextMs = intervalMs
    try {
      if ((await maintain(options)) === 'more') nextMs = soonMs
    } catch (error) {
      const fault = isBrokerError(error) ? error.cause : error
      const code = fault instanceof StorageFault ? fault.code : undefined
      options.log.warn({ event: 'maintenance_failed', code: code ?? null })
      nextMs = soonMs
    }
    if (stopped) return
    timer = setTimeout(() => {
      running = runOnce()
    }, nextMs)
    timer.unref()
  }

  running = runOnce()
  await running
  return {
    async stop() {
      stopped = true
      clearTimeout(timer)
      await running
    },
  }
}

/**
 * Makes the weekly partitions from this week on, and those of earlier weeks whose records went to the default partition.
 * Weeks begin on Monday 00:00 UTC and are named as in ISO 8601: activity_2026w47.
 */
async function makePartitions(database: Database, retentionDays: number): Promise<void> {
  const missing = await database.run(
    () => database.sql<{ name: string; starts: Date; ends: Date }[]>`
      with week as (
        select generate_series(
          date_trunc('week', now(), 'UTC'),
          date_trunc('week', now(), 'UTC') + ${weeksAhead - 1} * interval '7 days',
          interval '7 days') as starts
        union
        select date_trunc('week', occurred_at, 'UTC') from activity_default
        where occurred_at >= now() - ${retentionDays} * interval '1 day'
          and occurred_at < date_trunc('week', now(), 'UTC') + ${weeksAhead} * interval '7 days'
      ), named as (
        select 'activity_' || to_char(starts at time zone 'UTC', 'IYYY"w"IW') as name, starts from week
      )
      select name, starts, starts + interval '7 days' as ends from named
      where to_regclass(name) is null
      order by starts`,
  )
  for (const { name, starts, ends } of missing) {
    // DDL takes no parameters. All three were computed by the database from a time.
    await database.run(() =>
      database.sql.unsafe(partitionStatement(name, starts.toISOString(), ends.toISOString())),
    )
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

/** Drops the weeks that ended before the retention began; gives their names. */
async function dropOldWeeks(database: Database, retentionDays: number): Promise<string[]> {
  const old = await database.run(
    () => database.sql<{ name: string }[]>`
      with week as (
        select relname as name, to_date(substr(relname, 10), 'IYYY"w"IW') as starts
        from pg_inherits join pg_class on pg_class.oid = inhrelid
        where inhparent = 'activity'::regclass and relname ~ '^activity_[0-9]{4}w[0-9]{2}$'
      )
      select name from week
      where (starts + 7)::timestamp at time zone 'UTC' <= now() - ${retentionDays} * interval '1 day'
      order by starts`,
  )
  for (const { name } of old) {
    await database.run(() => database.sql`drop table if exists ${database.sql(name)}`)
  }
  return old.map(({ name }) => name)
}

/** Removes what nobody can use any more, in batches. */
async function reap(database: Database, retentionDays: number): Promise<'done' | 'more'> {
  const { sql } = database
  const day = 24 * 60 * 60
  // A link that was used or came too late still explains itself for a day.
  const kept = { connect_flow: 0, connect_ticket: day, session: 0, sign_in_flow: 0 }
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
          delete from ${sql(table)} where ctid = any(array(
            select ctid from ${sql(table)}
            where expires_at < now() - ${keptSeconds} * interval '1 second'
            limit ${batchRows} for update skip locked))`,
      ),
    )
  }
  // Replicas that nobody has waited for since they went away without leaving. One that only slept comes back as a new one.
  await database.run(() => sql`delete from replica where heard_at < now() - interval '1 minute'`)
  // The minute is for a replica that is just joining: it does not show in the table yet.
  await inBatches(() =>
    database.run(
      () => sql`
        delete from invalidation where id = any(array(
          select id from invalidation
          where created_at < now() - interval '1 minute'
            and id <= all(select seen from replica)
          order by id limit ${batchRows} for update skip locked))`,
    ),
  )
  // Records that belong to no week we keep, such as those of a process with a wrong clock.
  await inBatches(() =>
    database.run(
      () => sql`
        delete from activity_default where ctid = any(array(
          select ctid from activity_default
          where occurred_at < date_trunc('week', now() - ${retentionDays} * interval '1 day', 'UTC')
          limit ${batchRows} for update skip locked))`,
    ),
  )
  return left
}
