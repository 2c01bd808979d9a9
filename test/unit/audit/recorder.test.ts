import { randomUUID } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { idOfLine } from '../../../src/audit/activity-line.ts'
import type { AuditRecorder } from '../../../src/audit/recorder.ts'
import { uuidV7 } from '../../../src/audit/uuid-v7.ts'
import type { AuditRecord } from '../../../src/core/audit-event.ts'
import { BrokerError } from '../../../src/core/errors.ts'
import {
  type RecorderOptions,
  startTestRecorder,
  type TestRecorder,
} from '../../support/audit-recorder.ts'
import { createFakeClock } from '../../support/fake-clock.ts'
import { createScriptedBatches } from './scripted-batches.ts'

const clock = createFakeClock()
const started: TestRecorder[] = []

async function setUp(options: RecorderOptions = {}) {
  const batches = createScriptedBatches()
  const test = await startTestRecorder(batches, { clock, ...options })
  started.push(test)
  return { batches, ...test }
}

afterEach(async () => {
  for (const { recorder, remove } of started.splice(0)) {
    await recorder.stop(0)
    await remove()
  }
})

const record = (userId: string): AuditRecord => ({
  requestId: randomUUID(),
  startedAt: clock.now(),
  userId,
  issuer: 'https://login.example.com',
  actor: { kind: 'user', id: userId },
  upstream: 'files',
  action: 'inject',
  method: 'connect',
  outcome: 'success',
  reason: undefined,
})

const names = (count: number) => Array.from({ length: count }, (_, index) => `user-${index}`)
const userOf = (line: string) => line.split('\t')[4]
const usersOf = (lines: readonly string[]) => lines.map(userOf)
const turn = () => new Promise((resolve) => setImmediate(resolve))

function refusalOf(act: () => void): BrokerError | undefined {
  try {
    act()
    return undefined
  } catch (error) {
    if (error instanceof BrokerError) return error
    throw error
  }
}

function recordAll(recorder: AuditRecorder, users: readonly string[]) {
  for (const user of users) recorder.record(record(user))
}

const nothing = { depth: 0, bytes: 0, ageSeconds: 0, dropped: 0 }

describe('writing behind', () => {
  it('returns before anything is stored, and stores without being asked', async () => {
    const { batches, recorder } = await setUp()
    recorder.record(record('alice'))
    expect(batches.calls).toHaveLength(0)
    expect(recorder.stats()).toMatchObject({ depth: 1, dropped: 0 })
    await vi.waitFor(() => expect(usersOf(batches.stored())).toEqual(['alice']), {
      timeout: 10_000,
    })
    await vi.waitFor(() => expect(recorder.stats()).toEqual(nothing), { timeout: 10_000 })
  })

  it('stores thousands in batches of 500 at most, one at a time, in their order', async () => {
    const { batches, recorder } = await setUp()
    recordAll(recorder, names(1000))
    await turn()
    recordAll(recorder, names(2345).slice(1000))
    expect(await recorder.flush(30_000)).toBe(true)
    expect(usersOf(batches.stored())).toEqual(names(2345))
    expect(batches.calls.every(({ lines }) => lines.length <= 500)).toBe(true)
    expect(batches.calls.length).toBeLessThan(12)
    expect(batches.mostAtOnce()).toBe(1)
  })

  it('says how much waits, which is what a record needs, and for how long', async () => {
    const { batches, recorder } = await setUp()
    const release = batches.hold()
    recorder.record(record('alice'))
    await turn()
    const one = recorder.stats().bytes
    expect(one).toBeGreaterThan(100)
    expect(one).toBeLessThan(400)
    recorder.record(record('alice'))
    await turn()
    expect(recorder.stats()).toMatchObject({ depth: 2, bytes: 2 * one, dropped: 0 })
    clock.advance(7)
    await vi.waitFor(() => expect(recorder.stats().ageSeconds).toBe(7), { timeout: 10_000 })
    release()
    expect(await recorder.flush(30_000)).toBe(true)
    await vi.waitFor(() => expect(recorder.stats()).toEqual(nothing), { timeout: 10_000 })
  })
})

describe('a record before its answer', () => {
  it('L3: is in the spool when the promise that its answer waits for resolves, and not before', async () => {
    const { batches, recorder, directory, writer } = await setUp()
    batches.hold()
    const file = join(directory, writer, '00000001.spool')
    const spool = () => (existsSync(file) ? readFileSync(file, 'utf8') : '')
    recorder.record(record('alice'))
    recorder.record(record('bob'))
    expect(spool()).toBe('')
    await recorder.settled()
    expect(spool()).toMatch(/\talice\t[^]*\tbob\t/)
  })

  it('shares one promise a turn, and needs none when nothing was recorded', async () => {
    const { recorder } = await setUp()
    expect(recorder.settled()).toBeUndefined()
    recorder.record(record('alice'))
    const first = recorder.settled()
    recorder.record(record('bob'))
    expect(recorder.settled()).toBe(first)
    await first
    expect(recorder.settled()).toBeUndefined()
  })
})

describe('a database that fails', () => {
  it('L7: gets the same batch again until it has it once, also when only the answer was lost', async () => {
    const { batches, recorder } = await setUp()
    batches.script.push('fails', 'lost_answer', 'fails')
    recordAll(recorder, names(3))
    expect(await recorder.flush(30_000)).toBe(true)
    // The last one found the head moved: the second had gone through.
    expect(batches.calls).toHaveLength(4)
    for (const call of batches.calls) expect(call.lines).toEqual(batches.calls[0]?.lines)
    expect(usersOf(batches.stored())).toEqual(names(3))
    expect(recorder.stats().dropped).toBe(0)
  })

  it('keeps the order of what came meanwhile', async () => {
    const { batches, recorder } = await setUp()
    batches.script.push('fails', 'fails')
    recordAll(recorder, names(600))
    await vi.waitFor(() => expect(batches.calls.length).toBeGreaterThan(0), { timeout: 10_000 })
    recordAll(recorder, ['later'])
    expect(await recorder.flush(30_000)).toBe(true)
    expect(usersOf(batches.stored())).toEqual([...names(600), 'later'])
  })

  it('is spoken of once when it fails and once when it is back, by code and never by its text', async () => {
    const { batches, log, recorder } = await setUp()
    batches.script.push('fails', 'fails', 'fails')
    recorder.record(record('alice'))
    expect(await recorder.flush(30_000)).toBe(true)
    expect(log.entries).toEqual([
      { event: 'activity_store_failing', code: '57P01', waiting: 1 },
      { event: 'activity_store_recovered', waiting: 1 },
    ])
  })
})

describe('L18: a record that the database refuses', () => {
  it('is set aside alone, counted and logged by its id; all others are stored in their order', async () => {
    const { batches, log, recorder, directory, writer } = await setUp()
    const bad = new Set(['user-0', 'user-41', 'user-42', 'user-499'])
    batches.refuses = (line) => bad.has(userOf(line) ?? '')
    recordAll(recorder, names(500))
    expect(await recorder.flush(30_000)).toBe(true)
    expect(usersOf(batches.stored())).toEqual(names(500).filter((name) => !bad.has(name)))
    expect(batches.head(writer)).toMatchObject({ seq: 496 })
    expect(recorder.stats()).toMatchObject({ depth: 0, bytes: 0, dropped: 4 })
    const aside = await readFile(join(directory, 'refused', `${writer}.tsv`), 'utf8')
    const lines = aside.trimEnd().split('\n')
    expect(usersOf(lines)).toEqual([...bad])
    expect(log.entries).toEqual(
      lines.map((line) => ({ event: 'activity_record_refused', id: idOfLine(line) })),
    )
  })

  it('does not fill the log when there are many', async () => {
    const { batches, log, recorder } = await setUp()
    batches.refuses = () => true
    recordAll(recorder, names(100))
    expect(await recorder.flush(30_000)).toBe(true)
    expect(recorder.stats().dropped).toBe(100)
    expect(log.entries).toHaveLength(20)
    await recorder.stop()
    expect(log.entries.at(-1)).toEqual({
      event: 'activity_records_dropped',
      cause: 'refused_record',
      count: 80,
    })
  })
})

describe('L4: a spool that has reached its limit', () => {
  it('refuse: no operation is admitted, with 503 audit_unavailable and when to come back', async () => {
    const { batches, recorder } = await setUp({ limitBytes: 1000 })
    const release = batches.hold()
    while (refusalOf(() => recorder.admit()) === undefined) {
      recorder.record(record('alice'))
      await recorder.settled()
    }
    expect(recorder.isReady()).toBe(false)
    expect(refusalOf(() => recorder.admit())).toMatchObject({
      code: 'audit_unavailable',
      details: { retryAfterSeconds: 5 },
    })
    expect(recorder.stats().bytes).toBeGreaterThanOrEqual(1000)
    expect(recorder.stats().bytes).toBeLessThan(1400)
    release()
    expect(await recorder.flush(30_000)).toBe(true)
    expect(() => recorder.admit()).not.toThrow()
    expect(recorder.isReady()).toBe(true)
  })

  it('refuse: keeps the records of operations that were admitted before', async () => {
    const { batches, recorder } = await setUp({ limitBytes: 1000 })
    const release = batches.hold()
    recordAll(recorder, names(20))
    expect(() => recorder.admit()).toThrow('audit_unavailable')
    await recorder.settled()
    release()
    expect(await recorder.flush(30_000)).toBe(true)
    expect(usersOf(batches.stored())).toEqual(names(20))
    expect(recorder.stats().dropped).toBe(0)
  })

  it('drop: operations go on, what exceeds is counted, and a burst is one line at once and one later', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    try {
      let drops = 0
      const { batches, log, recorder } = await setUp({
        limitBytes: 1000,
        whenFull: 'drop',
        onDrop: (count) => {
          drops += count
        },
      })
      const release = batches.hold()
      for (const name of names(1000)) {
        recorder.admit()
        recorder.record(record(name))
      }
      await recorder.settled()
      const { depth: kept, dropped } = recorder.stats()
      expect(kept).toBeGreaterThan(2)
      expect(kept).toBeLessThan(10)
      expect(dropped).toBe(1000 - kept)
      expect(drops).toBe(dropped)
      expect(recorder.isReady()).toBe(true)
      const line = (count: number) => ({
        event: 'activity_records_dropped',
        cause: 'spool_full',
        count,
      })
      expect(log.entries).toEqual([line(1)])
      vi.advanceTimersByTime(60_000)
      expect(log.entries).toEqual([line(1), line(dropped - 1)])
      release()
      vi.useRealTimers()
      expect(await recorder.flush(30_000)).toBe(true)
      expect(usersOf(batches.stored())).toEqual(names(kept))
    } finally {
      vi.useRealTimers()
    }
  })
})

describe('H-A5, H-A6: recording never fails the call', () => {
  it('whatever the log or who counts along throws', async () => {
    const throws = () => {
      // eslint-disable-next-line no-throw-literal
      throw null as unknown as Error
    }
    const { batches, recorder } = await setUp({
      limitBytes: 100,
      whenFull: 'drop',
      log: { error: throws, info: throws },
      onDrop: throws,
    })
    batches.script.push('fails')
    recordAll(recorder, names(5))
    await recorder.settled()
    expect(await recorder.flush(30_000)).toBe(true)
    expect(recorder.stats().dropped).toBe(4)
    expect(usersOf(batches.stored())).toEqual(['user-0'])
  })

  it('nor does a record that is none; it is counted, and the next ones are stored', async () => {
    const { batches, log, recorder } = await setUp()
    recorder.record({ ...record('alice'), action: 'steal' } as unknown as AuditRecord)
    recorder.record(undefined as unknown as AuditRecord)
    recorder.record(record('bob'))
    await recorder.settled()
    expect(await recorder.flush(30_000)).toBe(true)
    expect(usersOf(batches.stored())).toEqual(['bob'])
    expect(recorder.stats().dropped).toBe(2)
    expect(log.entries[0]).toEqual({
      event: 'activity_records_dropped',
      cause: 'invalid_record',
      count: 1,
    })
  })
})

describe('flush and stop', () => {
  it('flush gives up at its deadline and loses nothing by it', async () => {
    const { batches, recorder } = await setUp()
    const release = batches.hold()
    recordAll(recorder, names(5))
    expect(await recorder.flush(30)).toBe(false)
    expect(recorder.stats()).toMatchObject({ depth: 5, dropped: 0 })
    release()
    expect(await recorder.flush(30_000)).toBe(true)
    expect(usersOf(batches.stored())).toEqual(names(5))
  })

  it('L6: stop stores what was accepted, also what is recorded while it does, and leaves no spool', async () => {
    const { batches, log, recorder, directory, writer } = await setUp()
    recordAll(recorder, names(700))
    const release = batches.hold()
    const stopped = recorder.stop()
    await turn()
    recorder.record(record('late'))
    release()
    await stopped
    expect(usersOf(batches.stored())).toEqual([...names(700), 'late'])
    expect(recorder.stats()).toEqual(nothing)
    expect(log.entries).toEqual([])
    await expect(readFile(join(directory, writer, '00000001.spool'))).rejects.toThrow('ENOENT')
  })

  it('stop tries again while the database fails', async () => {
    const { batches, recorder } = await setUp()
    batches.script.push('fails', 'fails', 'fails')
    recordAll(recorder, names(2))
    await recorder.stop()
    expect(usersOf(batches.stored())).toEqual(names(2))
  })

  it('L6: what stop could not store stays in the spool, and the next process stores it as its writer', async () => {
    const { batches, log, recorder, directory, writer } = await setUp()
    recordAll(recorder, names(3))
    expect(await recorder.flush(30_000)).toBe(true)
    batches.script.push(...Array.from({ length: 1000 }, () => 'fails' as const))
    recordAll(recorder, names(7).slice(3))
    await Promise.all([recorder.stop(20), recorder.stop(20)])
    expect(recorder.stats()).toMatchObject({ depth: 4, dropped: 0 })
    expect(log.entries.at(-1)).toEqual({ event: 'activity_spool_left', waiting: 4 })
    const callsAtTheEnd = batches.calls.length

    batches.script.length = 0
    const next = await startTestRecorder(batches, { clock, directory })
    started.push(next)
    next.recorder.record(record('next'))
    await next.recorder.stop()
    const written = batches.calls.slice(callsAtTheEnd)
    expect(written.filter((batch) => batch.writer === writer)).toHaveLength(1)
    expect(batches.head(writer)).toMatchObject({ seq: 7, position: 7 })
    expect(batches.head(next.writer)).toMatchObject({ seq: 1, position: 1 })
    expect(usersOf(batches.stored()).filter((user) => user !== 'next')).toEqual(names(7))
    expect(usersOf(batches.stored())).toContain('next')
    expect(next.log.entries).toEqual([{ event: 'activity_spool_replayed', writer, records: 7 }])
  })

  it('an earlier process that wrote nothing leaves no trace', async () => {
    const earlier = uuidV7(0)
    const { batches, recorder, directory } = await setUp()
    await recorder.stop()
    await mkdir(join(directory, earlier))
    await writeFile(join(directory, earlier, '00000001.spool'), '')
    const next = await startTestRecorder(batches, { clock, directory })
    started.push(next)
    await vi.waitFor(async () => expect(await readdir(directory)).toEqual([]), { timeout: 10_000 })
    expect(batches.head(earlier)).toBeUndefined()
  })

  it('after stop nothing is admitted, and a late record is counted and its answer kept back', async () => {
    const { recorder } = await setUp()
    await recorder.stop()
    expect(() => recorder.admit()).toThrow('audit_unavailable')
    expect(() => recorder.record(record('alice'))).not.toThrow()
    await expect(recorder.settled()).rejects.toMatchObject({ code: 'audit_unavailable' })
    expect(recorder.stats()).toEqual({ ...nothing, dropped: 1 })
  })
})
