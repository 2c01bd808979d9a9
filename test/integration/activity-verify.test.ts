import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { createActivityPartitions } from '../../src/storage/activity-partitions.ts'
import { maintain } from '../../src/storage/maintenance.ts'
import { generateKey } from '../../src/sealing/keyring.ts'
import { createTestDatabase } from '../support/database.ts'
import { createTestWriter, proofOf, writeWith } from './activity-chain.ts'

const silent = { info() {}, warn() {} }

async function openLog() {
  const { database, drop } = await createTestDatabase({ pool: 20 })
  await maintain({ database, retentionDays: 90, log: silent })
  return { database, drop, sql: database.sql, ...proofOf(database) }
}

async function testLog() {
  const log = await openLog()
  onTestFinished(log.drop)
  return log
}

/** A log of one writer with 12 records. */
async function shortLog() {
  const log = await testLog()
  const writer = createTestWriter(log.database)
  await writer.write(7)
  await writer.write(5)
  const found = (kind: string, seq: number, through = seq) => ({
    kind,
    writer: writer.writer,
    seq,
    through,
  })
  return { ...log, writer, found }
}

async function* linesOf(...lines: readonly (object | string)[]): AsyncGenerator<string> {
  for (const line of lines) yield typeof line === 'string' ? line : JSON.stringify(line)
}

const daysAgo = (days: number) => () => new Date(Date.now() - days * 86_400_000)

describe('activity verify', () => {
  it('L10: cries wolf never: 50 writers write while it reads, replicas sign, and nothing is wrong', async () => {
    const log = await testLog()
    await writeWith(log.database, 50, 2)
    const writing = writeWith(log.database, 50, 12)
    for (let round = 0; round < 4; round += 1) {
      await Promise.all([log.checkpoint(), log.checkpoint()])
      expect((await log.verify()).findings).toEqual([])
    }
    await writing
    const lines = await log.checkpoint()
    const verdict = await log.verify({ checkpointLines: linesOf(...lines) })
    expect(verdict.findings).toEqual([])
    expect(verdict.writers).toBe(100)
    expect(verdict.records).toBeGreaterThan(1000)
    // Every writer stands in the parts of a complete checkpoint.
    expect(lines.filter(({ complete }) => complete).flatMap(({ writers }) => writers)).toHaveLength(
      200,
    )
  }, 120_000)

  it('L9: clocks of replicas that go ten minutes wrong, back too, change nothing', async () => {
    const log = await testLog()
    const [ahead, behind, back] = [1, 2, 3].map(() => createTestWriter(log.database))
    for (let batch = 0; batch < 3; batch += 1) {
      await ahead?.write(5, () => new Date(Date.now() + 600_000))
      await behind?.write(5, () => new Date(Date.now() - 600_000))
      await back?.write(5, (index) => new Date(Date.now() - (batch * 5 + index) * 60_000))
    }
    await log.checkpoint()
    expect(await log.verify()).toMatchObject({ findings: [], records: 45, writers: 3 })
  })

  it('looks at records that no week was there for, and at weeks that were just taken out', async () => {
    const log = await testLog()
    const writer = createTestWriter(log.database)
    await writer.write(3, daysAgo(40))
    await writer.write(3, daysAgo(400))
    await writer.write(3)
    await maintain({ database: log.database, retentionDays: 90, log: silent })
    expect(await log.verify()).toMatchObject({ findings: [], records: 9 })
    await createActivityPartitions(log.database).takeOut(20)
    expect(await log.sql`select from activity`).toHaveLength(3)
    expect(await log.verify()).toMatchObject({ findings: [], records: 9 })
  })

  it('counts records from before there was a chain, and names such a one that came later', async () => {
    const log = await testLog()
    const insert = (days: number) => log.sql`
      insert into activity (id, occurred_at, request_id, type, actor_kind, actor_id, action, method, outcome, duration_ms)
      values (${randomUUID()}, ${daysAgo(days)()}, ${randomUUID()}, 'credential_broker', 'service', 'edge', 'inject', 'connect',
        'success', 1)`
    await insert(3)
    const forged = { kind: 'inserted', writer: null, seq: null, through: null }
    expect((await log.verify()).findings).toEqual([forged])
    await log.sql`update activity_before_chain set existed = true, chained_since = now() - interval '2 days'`
    expect(await log.verify()).toMatchObject({ findings: [], records: 1, unchained: 1 })
    await insert(0)
    expect(await log.verify()).toMatchObject({ findings: [forged], records: 2, unchained: 1 })
  })
})

describe('L10: seven kinds of tampering', () => {
  let shared: Awaited<ReturnType<typeof openLog>>
  beforeAll(async () => {
    shared = await openLog()
  })
  afterAll(() => shared.drop())

  /** A writer of its own with 12 records, and what verify says of it. */
  async function tampering() {
    const writer = createTestWriter(shared.database)
    await writer.write(7)
    await writer.write(5)
    const found = (kind: string, seq: number, through = seq) => ({
      kind,
      writer: writer.writer,
      seq,
      through,
    })
    const findings = async () =>
      (await shared.verify()).findings.filter((finding) => finding.writer === writer.writer)
    const { sql } = shared
    return { sql, found, findings, of: sql`writer = ${writer.writer}` }
  }

  it('edited: any field of a record', async () => {
    const { sql, found, findings, of } = await tampering()
    const changes = [
      sql`occurred_at = occurred_at + interval '1 microsecond'`,
      sql`user_id = 'mallory'`,
      sql`details = '{"identity":"asserted"}'`,
      sql`duration_ms = duration_ms + 1`,
      sql`reason = ''`,
      sql`hash = sha256(hash)`,
    ]
    for (const [index, change] of changes.entries()) {
      await sql`update activity set ${change} where ${of} and seq = ${2 * index + 2}`
    }
    expect(await findings()).toEqual([2, 4, 6, 8, 10, 12].map((seq) => found('edited', seq)))
  })

  it('removed: records in the middle', async () => {
    const { sql, found, findings, of } = await tampering()
    await sql`delete from activity where ${of} and seq in (4, 5, 9)`
    expect(await findings()).toEqual([found('removed', 4, 5), found('removed', 9)])
  })

  it('inserted: a copy with another id, and one that goes on behind the end', async () => {
    const { sql, found, findings, of } = await tampering()
    const id = randomUUID()
    await sql`
      insert into activity select (jsonb_populate_record(activity, jsonb_build_object('id', ${id}::text))).*
      from activity where ${of} and seq = 6`
    expect(await findings()).toEqual([found('inserted', 6)])
    await sql`update activity set seq = 13 where id = ${id}`
    expect(await findings()).toEqual([found('inserted', 13)])
  })

  it('reordered: two records that changed their numbers', async () => {
    const { sql, found, findings, of } = await tampering()
    await sql`update activity set seq = case seq when 8 then 9 else 8 end where ${of} and seq in (8, 9)`
    expect(await findings()).toEqual([found('reordered', 8), found('reordered', 9)])
  })

  it('tail_cut: the last records, which the row of the writer counts', async () => {
    const { sql, found, findings, of } = await tampering()
    await sql`delete from activity where ${of} and seq > 9`
    expect(await findings()).toEqual([found('tail_cut', 10, 12)])
  })

  it('writer_missing: everything of one process', async () => {
    const { sql, found, findings, of } = await tampering()
    await sql`delete from activity where ${of}`
    expect(await findings()).toEqual([found('writer_missing', 1, 12)])
  })

  it('with the row of the writer too: a signed checkpoint knows', async () => {
    const log = await shortLog()
    await log.checkpoint()
    await log.sql`delete from activity where seq > 9`
    await log.sql`update activity_writer set last_seq = 9, last_hash = (select hash from activity where seq = 9)`
    expect((await log.verify()).findings).toEqual([log.found('tail_cut', 10, 12)])
    await log.sql`delete from activity`
    await log.sql`delete from activity_writer`
    expect((await log.verify()).findings).toEqual([log.found('writer_missing', 1, 12)])
  })

  it('with the checkpoints of the table too: those that were logged know', async () => {
    const log = await shortLog()
    const lines = await log.checkpoint()
    await log.sql`delete from activity`
    await log.sql`delete from activity_writer`
    await log.sql`delete from activity_checkpoint`
    expect(await log.verify()).toMatchObject({ findings: [], checkpoints: 0 })
    const [line] = lines
    const found = [log.found('writer_missing', 1, 12)]
    const wrapped = JSON.stringify({ log: `${JSON.stringify(line)}\n`, stream: 'stdout' })
    for (const one of [
      JSON.stringify(line),
      wrapped,
      `2026-11-21T12:00:00Z ${JSON.stringify(line)}`,
    ]) {
      const checkpointLines = linesOf('{"event":"ready"}', 'not json', one)
      expect((await log.verify({ checkpointLines })).findings).toEqual(found)
    }
  })

  it('a checkpoint that was changed, or signed by another key, is named and not believed', async () => {
    const log = await shortLog()
    await log.checkpoint()
    await log.sql`update activity_checkpoint set checkpoint = jsonb_set(checkpoint, '{writers,0,seq}', '99')`
    const verdict = await log.verify()
    expect(verdict.checkpoints).toBe(0)
    expect(verdict.findings).toMatchObject([{ kind: 'edited', writer: 'activity_checkpoint' }])
    const foreign = proofOf(log.database, generateKey())
    await foreign.checkpoint()
    expect((await log.verify()).findings).toMatchObject([{ writer: 'activity_checkpoint' }])
  })

  it('a changed line of the file is named by its number, and keys other than the named ones are not believed', async () => {
    const log = await shortLog()
    const [line] = await log.checkpoint()
    const [first] = line?.writers ?? []
    const changed = { ...line, writers: [{ ...first, seq: 99 }] }
    expect((await log.verify({ checkpointLines: linesOf('x', changed) })).findings).toEqual([
      { kind: 'edited', writer: 'checkpoints', seq: 2, through: 2 },
    ])
    const publicKeys = [line?.public_key ?? '']
    expect(await log.verify({ publicKeys })).toMatchObject({ findings: [], checkpoints: 2 })
    expect(await log.verify({ publicKeys: ['AAAA'] })).toMatchObject({ checkpoints: 0 })
  })
})

describe('L17: retention', () => {
  async function agedLog() {
    const log = await testLog()
    const [old, young] = [createTestWriter(log.database), createTestWriter(log.database)]
    await old.write(20, (index) => daysAgo(60 - index)())
    await old.write(5)
    await young.write(3, daysAgo(50))
    await createTestWriter(log.database).write(4)
    await maintain({ database: log.database, retentionDays: 90, log: silent })
    return { ...log, old, young }
  }

  it('M-V7: removes whole weeks, the oldest first, and what it removed is not wrong', async () => {
    const log = await agedLog()
    await log.checkpoint()
    expect(await log.removeOld(45)).toBe(true)
    const left =
      await log.sql`select min(occurred_at) as oldest, count(*)::int as count from activity`
    expect(left[0]?.['count']).toBeLessThan(32 - 8)
    const verdict = await log.verify()
    expect(verdict).toMatchObject({ findings: [], writers: 3 })
    expect(verdict.removed).toBe(32 - Number(left[0]?.['count']))
    // And once more, of the next weeks.
    await log.removeOld(20)
    expect(await log.verify()).toMatchObject({ findings: [], removed: 23, records: 9 })
    const lines = await log.checkpoint()
    const writers = lines.flatMap((line) => line.writers)
    expect(writers.find(({ writer }) => writer === log.old.writer)).toMatchObject({
      from: 21,
      seq: 25,
    })
    expect(writers.some(({ writer }) => writer === log.young.writer)).toBe(false)
  })

  it('cries wolf never: a week that is taken out, signed for and dropped while the log is read', async () => {
    const log = await agedLog()
    let isOver = false
    const records: typeof log.records = {
      ...log.records,
      async rows(table, after, limit) {
        if (!isOver) await log.removeOld(20)
        isOver = true
        return log.records.rows(table, after, limit)
      },
    }
    expect(await log.verify({ records })).toMatchObject({ findings: [], removed: 23 })
  })

  it('leaves what a change in front of it is still found by', async () => {
    const log = await agedLog()
    await log.removeOld(20)
    await log.sql`update activity set user_id = 'mallory' where writer = ${log.old.writer} and seq = 21`
    const found = { kind: 'edited', writer: log.old.writer, seq: 21, through: 21 }
    expect((await log.verify()).findings).toEqual([found])
    // Somebody who removes a week by hand, and says that it was the retention.
    await log.sql`delete from activity where writer = ${log.old.writer} and seq <= 22`
    await log.sql`update activity_removal set last_seq = 22 where writer = ${log.old.writer} and last_seq = 20`
    expect((await log.verify()).findings[0]).toMatchObject({
      kind: 'removed',
      writer: log.old.writer,
      through: 22,
    })
  })

  it('signs for no record whose time was put back so that it goes', async () => {
    const log = await agedLog()
    const events: object[] = []
    await log.sql`update activity set occurred_at = now() - interval '3 years' where writer = ${log.old.writer} and seq = 23`
    await log.sql`update activity set occurred_at = now() - interval '2 years' where writer = ${log.old.writer} and seq = 24`
    const push = (event: object) => void events.push(event)
    await log.removeOld(45, { log: { info: push, warn: push } })
    expect(events).toContainEqual(
      expect.objectContaining({ event: 'activity_week_altered', records: 2 }),
    )
    expect((await log.verify()).findings).toEqual([
      { kind: 'removed', writer: log.old.writer, seq: 23, through: 24 },
    ])
  })

  it('removes in good order what a clock that was set back wrote between the others', async () => {
    const log = await testLog()
    const writer = createTestWriter(log.database)
    await writer.write(9, (index) => (index === 4 ? daysAgo(60)() : new Date()))
    await maintain({ database: log.database, retentionDays: 90, log: silent })
    await log.removeOld(45)
    expect(await log.verify()).toMatchObject({ findings: [], removed: 1, records: 8 })
  })

  it('goes on where a process was killed, on one replica at a time', async () => {
    const log = await agedLog()
    await createActivityPartitions(log.database).takeOut(45)
    const other = log.retentionPorts(45)
    await other.leases.hold('activity_retention', 60_000)
    await log.removeOld(45)
    expect(await createActivityPartitions(log.database).takenOut()).not.toEqual([])
    await other.leases.release('activity_retention')
    await log.removeOld(45)
    expect(await createActivityPartitions(log.database).takenOut()).toEqual([])
    expect((await log.verify()).findings).toEqual([])
  })
})
