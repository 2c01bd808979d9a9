import { randomUUID } from 'node:crypto'
import { cp, readdir, rm } from 'node:fs/promises'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { createActivityLineEncoder } from '../../src/audit/activity-line.ts'
import { type ChainedRecord, chainHash, genesisHash, lineOfRecord } from '../../src/audit/chain.ts'
import { chainedBatch } from '../../src/audit/chained-batch.ts'
import { storeRecord } from '../../src/audit/direct-record.ts'
import { uuidV7 } from '../../src/audit/uuid-v7.ts'
import { createActivityBatches } from '../../src/storage/activity-batches.ts'
import { createActivityStore } from '../../src/storage/activity-store.ts'
import { type RecorderOptions, startTestRecorder } from '../support/audit-recorder.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { auditRecord, holdTable, issuer } from './activity-log.ts'

let database: TestDatabase
const undo: (() => Promise<unknown>)[] = []

beforeEach(async () => {
  database = await createTestDatabase({ pool: 4 })
})
afterEach(async () => {
  for (let last = undo.pop(); last !== undefined; last = undo.pop()) await last()
  await database.drop()
})

async function start(options: RecorderOptions = {}) {
  const test = await startTestRecorder(createActivityBatches(database.database), options)
  undo.push(test.remove, () => test.recorder.stop(0))
  return test
}

const count = async () =>
  (await database.database.sql<{ n: number }[]>`select count(*)::int as n from activity`)[0]?.n

type Row = ChainedRecord & { readonly hash: Buffer }

/** The chain of a writer, computed again from its rows. */
async function expectWholeChain(writer: string, length: number): Promise<void> {
  const rows = await database.database.sql<Row[]>`
    select id, to_char(occurred_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as "occurredAt",
      request_id as "requestId", type, user_id as "userId", issuer, actor_kind as "actorKind", actor_id as "actorId",
      upstream, action, method, outcome, reason, duration_ms as "durationMs", details, writer, seq, hash
    from activity where writer = ${writer} order by seq`
  expect(rows.map(({ seq }) => seq)).toEqual(Array.from({ length }, (_, index) => index + 1))
  let hash = genesisHash
  for (const row of rows) {
    hash = chainHash(hash, lineOfRecord(row))
    expect(row.hash.equals(hash)).toBe(true)
  }
  const [head] = await database.database.sql<{ seq: number; hash: Buffer }[]>`
    select last_seq as seq, last_hash as hash from activity_writer where id = ${writer}`
  expect(head).toEqual({ seq: length, hash: Buffer.from(hash) })
}

/** Whatever a person's id may be. */
const oddIds = [
  'ada',
  'Åda 😀',
  'a\tb\nc',
  '"\\N{}\'',
  'x'.repeat(3000),
  '',
  ' ',
  'a\u0000b',
  '\ud800',
]

describe('the chain of a writer', () => {
  it('has every record once, and can be computed again from the table, whatever is in it', async () => {
    const { recorder, writer } = await start()
    for (let round = 0; round < 120; round++) {
      for (const userId of oddIds) {
        recorder.record(
          auditRecord({
            userId,
            actor: { kind: 'user', id: userId },
            ...(round % 3 === 0 ? { upstream: undefined, details: {} } : {}),
            ...(round % 5 === 0 ? { outcome: 'failure', reason: 'policy_denied' } : {}),
          }),
        )
      }
      if (round % 10 === 0) await recorder.settled()
    }
    expect(await recorder.flush(30_000)).toBe(true)
    await expectWholeChain(writer, 120 * oddIds.length)
  })

  it('L9: keeps its order when the clock of its process jumps', async () => {
    let now = new Date()
    const { recorder, writer } = await start({ clock: { now: () => now } })
    for (const minutes of [0, 10, -10, 3]) {
      now = new Date(Date.now() + minutes * 60_000)
      recorder.record(auditRecord({ userId: `at ${minutes}` }))
      await recorder.settled()
    }
    expect(await recorder.flush(30_000)).toBe(true)
    await expectWholeChain(writer, 4)
    const rows = await database.database.sql<{ user: string }[]>`
      select user_id as user from activity order by writer, seq`
    expect(rows.map(({ user }) => user)).toEqual(['at 0', 'at 10', 'at -10', 'at 3'])
  })

  it('goes on where it was after a record that the database refuses', async () => {
    const { recorder, writer } = await start()
    recorder.record(auditRecord({ requestId: 'no UUID' }))
    recorder.record(auditRecord())
    recorder.record(auditRecord({ requestId: 'nor this' }))
    recorder.record(auditRecord())
    expect(await recorder.flush(30_000)).toBe(true)
    expect(recorder.stats().dropped).toBe(2)
    await expectWholeChain(writer, 2)
  })

  it('belongs to a command, too, that leaves one record', async () => {
    const store = createActivityBatches(database.database)
    const options = { store, clock: { now: () => new Date() }, deadlineMs: 5000 }
    expect(await storeRecord({ ...options, record: auditRecord() })).toBe(true)
    const [row] = await database.database.sql<{ id: string }[]>`select id from activity_writer`
    await expectWholeChain(row?.id ?? '', 1)
  })
})

describe('L7: what is delivered twice', () => {
  it('a whole spool, after all of it was stored: no record is there twice, and the spool goes', async () => {
    const { recorder, directory, writer } = await start()
    const release = await holdTable(database.url)
    for (let index = 0; index < 700; index++) recorder.record(auditRecord())
    await recorder.settled()
    const copy = `${directory}-copy`
    undo.push(() => rm(copy, { recursive: true, force: true }))
    await cp(directory, copy, { recursive: true })
    await release()
    await recorder.stop()
    expect(await count()).toBe(700)

    const again = await start({ directory: copy })
    again.recorder.record(auditRecord())
    await again.recorder.stop()
    expect(await count()).toBe(701)
    await expectWholeChain(writer, 700)
    expect(await readdir(copy)).toEqual([])
    expect(again.log.entries).toEqual([{ event: 'activity_spool_replayed', writer, records: 700 }])
  })

  it('a part of a spool is stored when another part was stored before the process died', async () => {
    const { recorder, directory, writer } = await start()
    for (let index = 0; index < 300; index++) recorder.record(auditRecord())
    expect(await recorder.flush(30_000)).toBe(true)
    const release = await holdTable(database.url)
    for (let index = 0; index < 200; index++) recorder.record(auditRecord())
    await recorder.settled()
    // Dead before the second part: all its records are still in the spool, the stored ones as well.
    await recorder.stop(0)
    await release()
    const next = await start({ directory })
    await expect.poll(count).toBe(500)
    await next.recorder.stop()
    await expectWholeChain(writer, 500)
  })

  it('a batch whose first delivery is still under way waits for it, and is not stored again', async () => {
    const store = createActivityBatches(database.database)
    const writer = uuidV7(Date.now())
    const before = await store.open(writer, new Date())
    const line = createActivityLineEncoder()(auditRecord(), Date.now())
    const batch = chainedBatch({ writer, before, records: [{ position: 1, line }], uses: [] })
    const results = await Promise.all([
      store.append(batch),
      store.append(batch),
      store.append(batch),
    ])
    expect(results.toSorted()).toEqual(['moved', 'moved', 'stored'])
    expect(await count()).toBe(1)
  })

  it('a record that another writer brought already is left out, and keeps nobody back', async () => {
    const store = createActivityBatches(database.database)
    const line = createActivityLineEncoder()(auditRecord(), Date.now())
    const append = async () => {
      const writer = uuidV7(Date.now())
      const before = await store.open(writer, new Date())
      return store.append(
        chainedBatch({ writer, before, records: [{ position: 1, line }], uses: [] }),
      )
    }
    expect(await append()).toBe('stored')
    expect(await append()).toBe('known')
    expect(await count()).toBe(1)
  })
})

it('L16: no answer waits for a database that takes its time', async () => {
  const { recorder } = await start()
  const release = await holdTable(database.url)
  for (let index = 0; index < 20; index++) {
    recorder.admit()
    recorder.record(auditRecord())
    await recorder.settled()
  }
  expect(await count()).toBe(0)
  await release()
  expect(await recorder.flush(30_000)).toBe(true)
  expect(await count()).toBe(20)
})

describe('what goes with a batch', () => {
  it('its arrival: one row a batch, in the order of arrival, with what finds its records', async () => {
    const { recorder, writer } = await start()
    for (let index = 0; index < 1200; index++) recorder.record(auditRecord())
    expect(await recorder.flush(30_000)).toBe(true)
    const rows = await database.database.sql<{ first: number; last: number; n: number }[]>`
      select first_seq as first, last_seq as last, (
        select count(*)::int from activity where activity.writer = batch.writer and seq between first_seq and last_seq
          and occurred_at between min_occurred_at and max_occurred_at
      ) as n
      from activity_batch as batch where writer = ${writer} order by id`
    expect(rows.reduce((sum, { n }) => sum + n, 0)).toBe(1200)
    expect(rows[0]?.first).toBe(1)
    expect(rows.at(-1)?.last).toBe(1200)
    for (const [index, row] of rows.entries()) {
      expect(row.n).toBe(row.last - row.first + 1)
      expect(row.first).toBe((rows[index - 1]?.last ?? 0) + 1)
    }
  })

  it('when a credential was last used: by uses that succeeded, of a person', async () => {
    const store = createActivityStore(database.database)
    let now = new Date('2026-03-01T10:00:00Z')
    const { recorder } = await start({ clock: { now: () => now } })
    const at = async (time: string, more: Parameters<typeof auditRecord>[0]) => {
      now = new Date(`2026-03-01T${time}Z`)
      recorder.record(auditRecord({ startedAt: now, ...more }))
      expect(await recorder.flush(30_000)).toBe(true)
    }
    await at('10:00:00', { upstream: 'files' })
    await at('10:00:01', { upstream: 'files', action: 'refresh' })
    await at('10:00:02', { upstream: 'reports', action: 'acquire' })
    await at('10:00:03', { upstream: 'files', outcome: 'failure', reason: 'policy_denied' })
    await at('10:00:04', { upstream: 'files', action: 'connect' })
    await at('10:00:05', { upstream: 'files', actor: { kind: 'system', id: 'onbehalf' } })
    await at('10:00:06', { upstream: 'files', userId: 'bob' })
    // From another replica, whose records came late.
    await at('09:00:00', { upstream: 'reports' })
    expect(await store.lastUses({ issuer, userId: 'alice' })).toEqual(
      new Map([
        ['files', new Date('2026-03-01T10:00:01Z')],
        ['reports', new Date('2026-03-01T10:00:02Z')],
      ]),
    )
  })

  it('is told of a busy connection now and then, and in the end', async () => {
    const { recorder } = await start()
    for (let round = 0; round < 10; round++) {
      for (let index = 0; index < 500; index++) recorder.record(auditRecord())
      await recorder.settled()
    }
    const last = randomUUID()
    recorder.record(auditRecord({ requestId: last }))
    expect(await recorder.flush(30_000)).toBe(true)
    const [row] = await database.database.sql<{ same: boolean }[]>`
      select last_used_at = occurred_at as same from last_use, activity where request_id = ${last}`
    expect(row).toEqual({ same: true })
  })
})
