import { randomUUID } from 'node:crypto'
import { describe, expect, it, onTestFinished } from 'vitest'
import { maintain, startMaintenance } from '../../../src/storage/maintenance.ts'
import type { StorageEvent } from '../../../src/storage/storage-log.ts'
import { createTestDatabase, type TestDatabase } from '../../support/database.ts'

async function testDatabase() {
  const created = await createTestDatabase()
  onTestFinished(created.drop)
  const events: StorageEvent[] = []
  const log = {
    info: (event: StorageEvent) => events.push(event),
    warn: (event: StorageEvent) => events.push(event),
  }
  const run = (retentionDays = 90) => maintain({ database: created.database, retentionDays, log })
  return { ...created, events, log, run }
}

/** Writes one record of the given age in days; negative is ahead. */
async function record({ database }: TestDatabase, ageDays: number): Promise<string> {
  const id = randomUUID()
  await database.run(
    () => database.sql`
      insert into activity (id, occurred_at, request_id, type, actor_kind, actor_id, action, method, outcome, duration_ms)
      values (${id}, now() - ${ageDays} * interval '1 day', ${randomUUID()}, 'credential_broker', 'service', 'edge',
        'inject', 'connect', 'success', 1)`,
  )
  return id
}

/** Which partition each record is in. */
async function places({ database }: TestDatabase): Promise<Record<string, string>> {
  const rows = await database.run(
    () => database.sql<{ id: string; place: string }[]>`
      select id, tableoid::regclass::text as place from activity`,
  )
  return Object.fromEntries(rows.map(({ id, place }) => [id, place]))
}

async function partitions({ database }: TestDatabase) {
  return database.run(
    () => database.sql<{ name: string; bounds: string }[]>`
      select relname as name, pg_get_expr(relpartbound, oid) as bounds from pg_class
      where relispartition and relkind = 'r' and relname <> 'activity_default' order by relname`,
  )
}

describe('partitions of the activity log', () => {
  it('are there for this week and the next two, from Monday to Monday, named as in ISO 8601', async () => {
    const test = await testDatabase()
    await test.run()
    const expected = await test.database.run(
      () => test.database.sql<{ name: string; bounds: string }[]>`
        select 'activity_' || to_char(week, 'IYYY"w"IW') as name,
          format('FOR VALUES FROM (''%s 00:00:00+00'') TO (''%s 00:00:00+00'')', week::date, week::date + 7) as bounds
        from generate_series(0, 2) as ahead,
          lateral (select date_trunc('week', now() at time zone 'UTC') + ahead * interval '7 days') as w(week)
        order by 1`,
    )
    expect(await partitions(test)).toEqual([...expected])
    expect(expected).toHaveLength(3)
  })

  it('have the indexes of the table, the primary key among them', async () => {
    const test = await testDatabase()
    await test.run()
    const unattached = await test.database.run(
      () => test.database.sql`
        select parent.indexrelid::regclass::text as index, inhrelid::regclass::text as partition
        from pg_index parent, pg_inherits
        where parent.indrelid = 'activity'::regclass and inhparent = 'activity'::regclass
          and not exists (
            select from pg_index part join pg_inherits attached on attached.inhrelid = part.indexrelid
            where part.indrelid = pg_inherits.inhrelid and attached.inhparent = parent.indexrelid)`,
    )
    expect(unattached).toEqual([])
  })

  it('take the records that had no week yet, so that nothing stays in the default one', async () => {
    const test = await testDatabase()
    const ids = [await record(test, 0), await record(test, 16), await record(test, -8)]
    expect(new Set(Object.values(await places(test)))).toEqual(new Set(['activity_default']))
    await test.run()
    const found = await places(test)
    expect(Object.keys(found).toSorted()).toEqual(ids.toSorted())
    for (const place of Object.values(found)) expect(place).toMatch(/^activity_\d{4}w\d{2}$/)
  })

  it('are not made where moving their records would keep everybody waiting: those stay where they are', async () => {
    const test = await testDatabase()
    await test.database.run(
      () => test.database.sql`
        insert into activity (id, occurred_at, request_id, type, actor_kind, actor_id, action, method, outcome, duration_ms)
        select gen_random_uuid(), now() - interval '20 days', gen_random_uuid(), 'credential_broker', 'service', 'edge',
          'inject', 'connect', 'success', 1 from generate_series(1, 5001)`,
    )
    await test.run()
    expect(new Set(Object.values(await places(test)))).toEqual(new Set(['activity_default']))
    expect(await partitions(test)).toHaveLength(3)
  })

  it('are made once by replicas that start together, while records come in', async () => {
    const test = await testDatabase()
    const writing = (async () => {
      const ids: string[] = []
      for (let count = 0; count < 40; count += 1) {
        // A record on its way to the default partition while its week is attached is refused once. Batches are written
        // again when they fail, so it is here too.
        ids.push(await record(test, 0).catch(() => record(test, 0)))
      }
      return ids
    })()
    await Promise.all([test.run(), test.run(), test.run()])
    const ids = await writing
    expect(Object.keys(await places(test)).toSorted()).toEqual(ids.toSorted())
    expect(await partitions(test)).toHaveLength(3)
  })

  it('made again are left as they are', async () => {
    const test = await testDatabase()
    await test.run()
    const before = await partitions(test)
    await record(test, 0)
    await test.run()
    expect(await partitions(test)).toEqual(before)
    expect(Object.keys(await places(test))).toHaveLength(1)
  })
})

describe('what is kept of the proof', () => {
  it('are the hourly checkpoints for the retention, and those in between for two days', async () => {
    const test = await testDatabase()
    const { sql, run } = test.database
    for (const [days, complete] of [
      [1, false],
      [3, false],
      [3, true],
      [91, true],
    ] as const) {
      await run(
        () => sql`insert into activity_checkpoint (made_at, complete, checkpoint, key_id, signature)
          values (now() - ${days} * interval '1 day', ${complete}, '{}', 'k', 's')`,
      )
    }
    await test.run()
    const left = await run(
      () =>
        sql`select complete, extract(day from now() - made_at)::int as days from activity_checkpoint order by id`,
    )
    expect([...left]).toEqual([
      { complete: false, days: 1 },
      { complete: true, days: 3 },
    ])
  })

  it('are batches for a day, and longer where a destination has not got them', async () => {
    const test = await testDatabase()
    const { sql, run } = test.database
    for (const days of [100, 5, 3, 2, 0]) {
      await run(
        () => sql`insert into activity_batch (arrived_at, writer, first_seq, last_seq, min_occurred_at, max_occurred_at)
          values (now() - ${days} * interval '1 day', ${randomUUID()}, 1, 1, now(), now())`,
      )
    }
    const left = async () =>
      (await run(() => sql`select id from activity_batch order by id`)).map(({ id }) => Number(id))
    await run(
      () => sql`insert into activity_destination (id, batch_id, seen_at) values
      ('slow', 2, now()), ('quick', 4, now()), ('gone', 0, now() - interval '8 days')`,
    )
    await test.run()
    expect(await left()).toEqual([3, 4, 5])
    await run(() => sql`delete from activity_destination`)
    await test.run()
    expect(await left()).toEqual([5])
  })
})

describe('what expires', () => {
  it('is removed from every table in which it can lie, and nothing else is', async () => {
    const test = await testDatabase()
    const { sql, run } = test.database
    const at = (hours: number) => sql`now() + ${hours} * interval '1 hour'`
    const text = (value: string) => sql`${Buffer.from(value)}`
    for (const [name, hours] of [
      ['live', 1],
      ['ended', -1],
      ['old', -25],
    ] as const) {
      await run(
        () => sql`insert into session (session_hash, issuer, user_id, roles, created_at, expires_at)
          values (${text(name)}, 'i', 'u', '{}', now(), ${at(hours)})`,
      )
      await run(
        () => sql`insert into sign_in_flow (state_hash, browser_hash, code_verifier, nonce, return_to, expires_at)
          values (${text(name)}, 'b', 'v', 'n', '/', ${at(hours)})`,
      )
      await run(
        () => sql`insert into connect_flow (state_hash, browser_hash, issuer, user_id, upstream, scopes, code_verifier,
            issuer_required, authorization_server, client_id, expires_at)
          values (${text(name)}, 'b', 'i', 'u', 'files', '{}', 'v', false, 'as', 'c', ${at(hours)})`,
      )
      await run(
        () => sql`insert into connect_ticket (ticket_hash, issuer, user_id, upstream, scopes, expires_at)
          values (${text(name)}, 'i', 'u', 'files', '{}', ${at(hours)})`,
      )
    }
    await test.run()
    const left = async (table: string, column: string) => {
      const rows = await run(() => sql`select ${sql(column)} as key from ${sql(table)}`)
      return rows.map((row) => (row['key'] as Buffer).toString()).toSorted()
    }
    expect(await left('session', 'session_hash')).toEqual(['live'])
    expect(await left('sign_in_flow', 'state_hash')).toEqual(['live'])
    expect(await left('connect_flow', 'state_hash')).toEqual(['live'])
    // A link explains itself for a day after its end.
    expect(await left('connect_ticket', 'ticket_hash')).toEqual(['ended', 'live'])
  })

  it('is removed in batches until none is left', async () => {
    const test = await testDatabase()
    const { sql, run } = test.database
    await run(
      () => sql`insert into session (session_hash, issuer, user_id, roles, created_at, expires_at)
        select int4send(n), 'i', 'u', '{}', now(), now() - interval '1 hour' from generate_series(1, 2500) as n`,
    )
    expect(await test.run()).toBe('done')
    expect(await run(() => sql`select from session`)).toHaveLength(0)
  })

  it('of a flood is left for the next run, which is said so that it comes soon', async () => {
    const test = await testDatabase()
    const { sql, run } = test.database
    await run(
      () => sql`insert into sign_in_flow (state_hash, browser_hash, code_verifier, nonce, return_to, expires_at)
        select int4send(n), 'b', 'v', 'n', '/', now() - interval '1 hour' from generate_series(1, 50100) as n`,
    )
    expect(await test.run()).toBe('more')
    expect(await run(() => sql`select from sign_in_flow`)).toHaveLength(100)
    expect(await test.run()).toBe('done')
    expect(await run(() => sql`select from sign_in_flow`)).toHaveLength(0)
  })
})

describe('the schedule', () => {
  it('has run once when it is started, and a run that fails is said and not thrown', async () => {
    const test = await testDatabase()
    const maintenance = await startMaintenance({ ...test, retentionDays: 90 })
    expect(await partitions(test)).toHaveLength(3)
    await maintenance.stop()

    await test.database.run(() => test.database.sql`drop table activity`)
    const failing = await startMaintenance({ ...test, retentionDays: 90 })
    await failing.stop()
    expect(test.events).toEqual([{ event: 'maintenance_failed', code: '42P01' }])
  })
})
