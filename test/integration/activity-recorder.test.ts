import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { AuditRecord } from '../../src/core/audit-event.ts'
import type { AuditRecorder } from '../../src/audit/recorder.ts'
import { Secret } from '../../src/core/secret.ts'
import { createActivityBatches } from '../../src/storage/activity-batches.ts'
import { createActivityStore } from '../../src/storage/activity-store.ts'
import { type Database, openDatabase } from '../../src/storage/database.ts'
import { type AuditSinkOptions, describeAuditSink } from '../contracts/audit-sink-contract.ts'
import { startTestRecorder } from '../support/audit-recorder.ts'
import { createTestDatabase } from '../support/database.ts'
import { startTcpDoor, type TcpDoor } from '../support/tcp-door.ts'
import { allRecords, auditRecord, holdTable } from './activity-log.ts'

async function openLog(options: Partial<AuditSinkOptions> = {}) {
  const { url, database: reading, drop } = await createTestDatabase({ pool: 2 })
  const door = await startTcpDoor(url)
  const writing = await openDatabase({ url: new Secret(door.url), pool: 1 })
  const { recorder, log, remove, writer, directory } = await startTestRecorder(
    createActivityBatches(writing),
    options,
  )
  const store = createActivityStore(reading)
  return {
    url,
    recorder,
    door,
    reading,
    entries: log.entries,
    writer,
    directory,
    stored: () => allRecords(store),
    users: async () => (await allRecords(store)).map(({ userId }) => userId),
    async close() {
      await recorder.stop(0)
      door.open()
      await writing.close()
      await door.stop()
      await remove()
      await drop()
    },
  }
}

describeAuditSink('recorder over PostgreSQL', async (options) => {
  const log = await openLog(options)
  return {
    sink: log.recorder,
    async stored() {
      expect(await log.recorder.flush(30_000)).toBe(true)
      return log.stored()
    },
    holdStore: () => holdTable(log.url),
    dropped: () => log.recorder.stats().dropped,
    close: () => log.close(),
  }
})

describe('the recorder and a database with troubles', () => {
  let log: Awaited<ReturnType<typeof openLog>>
  let recorder: AuditRecorder
  let door: TcpDoor
  let reading: Database

  beforeEach(async () => {
    log = await openLog()
    ;({ recorder, door, reading } = log)
  })
  afterEach(() => log.close())

  const names = (from: number, to: number) =>
    Array.from({ length: to - from }, (_, index) => `user-${from + index}`)
  const recordAll = (users: readonly string[]) => {
    for (const userId of users) recorder.record(auditRecord({ userId }))
  }

  it('shows a record without being asked to', async () => {
    recordAll(['alice'])
    await expect.poll(() => log.users()).toEqual(['alice'])
  })

  it('waits for a database that is away, and stores everything once and in order when it is back', async () => {
    recordAll(names(0, 300))
    expect(await recorder.flush(30_000)).toBe(true)
    door.shut()
    recordAll(names(300, 1400))
    expect(await recorder.flush(300)).toBe(false)
    expect(recorder.stats()).toMatchObject({ depth: 1100, dropped: 0 })
    recordAll(names(1400, 1500))
    door.open()
    expect(await recorder.flush(30_000)).toBe(true)
    expect(await log.users()).toEqual(names(0, 1500))
    expect(log.entries.map(({ event }) => event)).toEqual([
      'activity_store_failing',
      'activity_store_recovered',
    ])
  })

  it('stores each record once while its connection is killed again and again', async () => {
    const done = new AbortController()
    const killing = (async () => {
      while (!done.signal.aborted) {
        await reading.sql`
          select pg_terminate_backend(pid) from pg_stat_activity
          where query like '%INSERT INTO activity%' and pid <> pg_backend_pid() and datname = current_database()`
        await sleep(3)
      }
    })()
    const failed = () => log.entries.some(({ event }) => event === 'activity_store_failing')
    const users: string[] = []
    while (users.length < 3000 || !failed()) {
      const more = names(users.length, users.length + 100)
      users.push(...more)
      recordAll(more)
      await sleep(5)
    }
    done.abort()
    await killing
    expect(await recorder.flush(30_000)).toBe(true)
    expect(await log.users()).toEqual(users)
    expect(recorder.stats().dropped).toBe(0)
  })

  it('stores each record once when the answer to a stored batch was lost', async () => {
    // From the second batch on it is a single message to the database, and a single answer.
    recordAll(['first'])
    expect(await recorder.flush(30_000)).toBe(true)
    const release = await holdTable(log.url)
    recordAll(names(0, 250))
    await expect
      .poll(
        () => reading.sql`
          select 1 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`,
      )
      .toHaveLength(1)
    door.stall()
    await release()
    await expect.poll(() => log.users()).toHaveLength(251)
    door.shut()
    expect(recorder.stats().depth).toBe(250)
    door.open()
    expect(await recorder.flush(30_000)).toBe(true)
    expect(await log.users()).toEqual(['first', ...names(0, 250)])
    expect(recorder.stats().dropped).toBe(0)
  })

  it('sets a row aside that the database refuses, by its id; the others are stored in their order', async () => {
    recordAll(names(0, 100))
    recorder.record(auditRecord({ userId: 'mallory', requestId: 'no UUID; CANARY' }))
    recordAll(names(100, 300))
    expect(await recorder.flush(30_000)).toBe(true)
    expect(await log.users()).toEqual(names(0, 300))
    expect(recorder.stats()).toMatchObject({ depth: 0, dropped: 1 })
    expect(log.entries).toHaveLength(1)
    expect(log.entries[0]).toMatchObject({ event: 'activity_record_refused' })
    expect(JSON.stringify(log.entries)).not.toMatch(/CANARY|mallory/)
  })

  it.each([
    ['SQL', "'); DROP TABLE activity; --"],
    ['a tab', 'a\tb'],
    ['a line feed', 'a\nb'],
    ['a NUL', 'a\u0000b'],
    ['half a surrogate pair', 'a\udc00b'],
    ['a backslash', '\\N'],
    ['quotes', '"\'{}'],
    ['an emoji', '😀'],
    [
      '3,000 random characters',
      Array.from({ length: 3000 }, () => Math.random().toString(36)[2]).join(''),
    ],
  ])(
    'never loses the record of somebody whose id has %s, nor anybody else',
    async (_name, userId) => {
      recordAll(['before', userId, 'after'])
      expect(await recorder.flush(30_000)).toBe(true)
      const users = await log.users()
      expect(users).toHaveLength(3)
      expect([users[0], users[2]]).toEqual(['before', 'after'])
      expect(recorder.stats().dropped).toBe(0)
    },
  )

  it('M-A2: a text reaches the columns of ids and no other, whatever field it was put into', async () => {
    const canary = 'CANARY-0123456789'
    const whole = auditRecord()
    const given = [
      ...Object.keys(whole).map((field) => ({ ...whole, [field]: canary })),
      { ...whole, actor: { kind: 'user', id: canary } },
      { ...whole, actor: { kind: canary, id: 'edge' } },
      { ...whole, details: { identity: canary } },
      { ...whole, details: { identity: 'token', scope: canary } },
      { ...whole, id: canary, occurredAt: canary, durationMs: canary, error: canary },
    ]
    for (const record of given) recorder.record(record as unknown as AuditRecord)
    expect(await recorder.flush(30_000)).toBe(true)
    const rows = await reading.sql<{ row: Record<string, unknown> }[]>`
      select to_jsonb(activity) as row from activity`
    const reached = rows.flatMap(({ row }) =>
      Object.keys(row).filter((column) => JSON.stringify(row[column]).includes('CANARY')),
    )
    expect(reached.toSorted()).toEqual(['actor_id', 'issuer', 'upstream', 'user_id'])
    expect(rows.length + recorder.stats().dropped).toBe(given.length)
    expect(JSON.stringify(log.entries)).not.toContain('CANARY')
  })

  it('stop stores all that was accepted', async () => {
    recordAll(names(0, 3000))
    await recorder.stop()
    expect(await log.users()).toEqual(names(0, 3000))
    expect(recorder.stats()).toMatchObject({ depth: 0, bytes: 0, dropped: 0 })
  })

  it('stop waits for a database that comes back in time', async () => {
    door.shut()
    recordAll(names(0, 10))
    const stopped = recorder.stop()
    await sleep(500)
    door.open()
    await stopped
    expect(await log.users()).toEqual(names(0, 10))
    expect(recorder.stats().dropped).toBe(0)
  })

  it('stop says what a database that stays away does not get, and leaves it in the spool', async () => {
    recordAll(names(0, 5))
    expect(await recorder.flush(30_000)).toBe(true)
    door.shut()
    recordAll(names(5, 12))
    await recorder.stop(300)
    expect(await log.users()).toEqual(names(0, 5))
    expect(recorder.stats()).toMatchObject({ depth: 7, dropped: 0 })
    expect(log.entries.at(-1)).toEqual({ event: 'activity_spool_left', waiting: 7 })

    door.open()
    const again = await openDatabase({ url: new Secret(log.url), pool: 1 })
    const { directory } = log
    const next = await startTestRecorder(createActivityBatches(again), { directory })
    await expect.poll(() => log.users()).toEqual(names(0, 12))
    await next.recorder.stop()
    await again.close()
  })
})
