import { randomUUID } from 'node:crypto'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { idOfLine } from '../../../src/audit/activity-line.ts'
import {
  type AuditRecorder,
  type AuditRecorderOptions,
  createAuditRecorder,
} from '../../../src/audit/recorder.ts'
import type { AuditRecord } from '../../../src/core/audit-event.ts'
import { BrokerError } from '../../../src/core/errors.ts'
import type { ActivityLine } from '../../../src/core/ports/activity-batches.ts'
import { createFakeClock } from '../../support/fake-clock.ts'
import { createCollectedLog, createScriptedBatches } from './scripted-batches.ts'

const clock = createFakeClock()
const recorders: AuditRecorder[] = []

function setUp(options: Partial<AuditRecorderOptions> = {}) {
  const batches = createScriptedBatches()
  const log = createCollectedLog()
  const recorder = createAuditRecorder({
    store: batches,
    clock,
    capacity: 10_000,
    whenFull: 'refuse',
    log,
    ...options,
  })
  recorders.push(recorder)
  return { batches, log, recorder }
}

afterEach(async () => {
  await Promise.all(recorders.splice(0).map((recorder) => recorder.stop(0)))
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
const userOf = (line: ActivityLine) => line.split('\t')[4]
const usersOf = (lines: readonly ActivityLine[]) => lines.map(userOf)

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

describe('writing behind', () => {
  it('returns before anything is stored, and stores without being asked', async () => {
    const { batches, recorder } = setUp()
    recorder.record(record('alice'))
    expect(batches.calls).toHaveLength(0)
    expect(recorder.stats()).toMatchObject({ depth: 1, dropped: 0 })
    await vi.waitFor(() => expect(usersOf(batches.stored())).toEqual(['alice']))
    await vi.waitFor(() => expect(recorder.stats()).toEqual({ depth: 0, bytes: 0, dropped: 0 }))
  })

  it('stores thousands in batches of 500 at most, one at a time, in their order', async () => {
    const { batches, recorder } = setUp()
    recordAll(recorder, names(1000))
    await new Promise((resolve) => setImmediate(resolve))
    recordAll(recorder, names(2345).slice(1000))
    expect(await recorder.flush(5000)).toBe(true)
    expect(usersOf(batches.stored())).toEqual(names(2345))
    expect(batches.calls.every((lines) => lines.length <= 500)).toBe(true)
    expect(batches.calls.length).toBeLessThan(12)
    expect(batches.mostAtOnce()).toBe(1)
  })

  it('says how much text waits, which is what a line needs', () => {
    const { recorder } = setUp()
    recorder.record(record('alice'))
    const one = recorder.stats().bytes
    recorder.record(record('alice'))
    expect(one).toBeGreaterThan(100)
    expect(one).toBeLessThan(400)
    expect(recorder.stats()).toEqual({ depth: 2, bytes: 2 * one, dropped: 0 })
  })
})

describe('a database that fails', () => {
  it('gets the same batch again, with the same ids, until it has it once', async () => {
    const { batches, recorder } = setUp()
    batches.script.push('fails', 'lost_answer', 'fails')
    recordAll(recorder, names(3))
    expect(await recorder.flush(5000)).toBe(true)
    expect(batches.calls).toHaveLength(4)
    for (const call of batches.calls) expect(call).toEqual(batches.calls[0])
    expect(usersOf(batches.stored())).toEqual(names(3))
    expect(recorder.stats().dropped).toBe(0)
  })

  it('keeps the order of what came meanwhile', async () => {
    const { batches, recorder } = setUp()
    batches.script.push('fails', 'fails')
    recordAll(recorder, names(600))
    await vi.waitFor(() => expect(batches.calls.length).toBeGreaterThan(0))
    recordAll(recorder, ['later'])
    expect(await recorder.flush(5000)).toBe(true)
    expect(usersOf(batches.stored())).toEqual([...names(600), 'later'])
  })

  it('is spoken of once when it fails and once when it is back, by code and never by its text', async () => {
    const { batches, log, recorder } = setUp()
    batches.script.push('fails', 'fails', 'fails')
    recorder.record(record('alice'))
    expect(await recorder.flush(5000)).toBe(true)
    expect(log.entries).toEqual([
      { event: 'activity_store_failing', code: '57P01', waiting: 1 },
      { event: 'activity_store_recovered', waiting: 1 },
    ])
  })
})

describe('a record that the database refuses', () => {
  it('is set aside alone, counted and logged by its id; all others are stored in their order', async () => {
    const { batches, log, recorder } = setUp()
    const bad = new Set(['user-0', 'user-41', 'user-42', 'user-499'])
    batches.refuses = (line) => bad.has(userOf(line) ?? '')
    recordAll(recorder, names(500))
    expect(await recorder.flush(5000)).toBe(true)
    expect(usersOf(batches.stored())).toEqual(names(500).filter((name) => !bad.has(name)))
    expect(recorder.stats()).toEqual({ depth: 0, bytes: 0, dropped: 4 })
    const refused = batches.calls.flat().filter((line) => bad.has(userOf(line) ?? ''))
    expect(log.entries).toEqual(
      [...new Set(refused.map(idOfLine))].map((id) => ({ event: 'activity_record_refused', id })),
    )
  })

  it('does not fill the log when there are many', async () => {
    const { batches, log, recorder } = setUp()
    batches.refuses = () => true
    recordAll(recorder, names(100))
    expect(await recorder.flush(5000)).toBe(true)
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

describe('a full queue', () => {
  it('refuse: no operation is admitted, with 503 audit_unavailable and when to come back', async () => {
    const { batches, recorder } = setUp({ capacity: 3 })
    const release = batches.hold()
    recordAll(recorder, names(2))
    expect(() => recorder.admit()).not.toThrow()
    recorder.record(record('user-2'))
    expect(refusalOf(() => recorder.admit())).toMatchObject({
      code: 'audit_unavailable',
      details: { retryAfterSeconds: 5 },
    })
    release()
    expect(await recorder.flush(5000)).toBe(true)
    expect(() => recorder.admit()).not.toThrow()
  })

  it('refuse: keeps the records of operations that were admitted before', async () => {
    const { batches, recorder } = setUp({ capacity: 2 })
    const release = batches.hold()
    for (const name of names(10)) {
      if (name < 'user-2') recorder.admit()
      recorder.record(record(name))
    }
    release()
    expect(await recorder.flush(5000)).toBe(true)
    expect(usersOf(batches.stored())).toEqual(names(10))
    expect(recorder.stats().dropped).toBe(0)
  })

  it('drop: operations go on, what exceeds is counted, and a burst is one line at once and one later', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    try {
      let drops = 0
      const { batches, log, recorder } = setUp({
        capacity: 3,
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
      expect(recorder.stats()).toMatchObject({ depth: 3, dropped: 997 })
      expect(drops).toBe(997)
      const line = (count: number) => ({
        event: 'activity_records_dropped',
        cause: 'queue_full',
        count,
      })
      expect(log.entries).toEqual([line(1)])
      vi.advanceTimersByTime(60_000)
      expect(log.entries).toEqual([line(1), line(996)])
      release()
      vi.useRealTimers()
      expect(await recorder.flush(5000)).toBe(true)
      expect(usersOf(batches.stored())).toEqual(names(3))
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
    const { batches, recorder } = setUp({
      capacity: 1,
      whenFull: 'drop',
      log: { error: throws, info: throws },
      onDrop: throws,
    })
    batches.script.push('fails')
    recordAll(recorder, names(5))
    expect(await recorder.flush(5000)).toBe(true)
    expect(recorder.stats().dropped).toBe(4)
    expect(usersOf(batches.stored())).toEqual(['user-0'])
  })

  it('nor does a record that is none; it is counted, and the next ones are stored', async () => {
    const { batches, log, recorder } = setUp()
    recorder.record({ ...record('alice'), action: 'steal' } as unknown as AuditRecord)
    recorder.record(undefined as unknown as AuditRecord)
    recorder.record(record('bob'))
    expect(await recorder.flush(5000)).toBe(true)
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
    const { batches, recorder } = setUp()
    const release = batches.hold()
    recordAll(recorder, names(5))
    expect(await recorder.flush(30)).toBe(false)
    expect(recorder.stats()).toMatchObject({ depth: 5, dropped: 0 })
    release()
    expect(await recorder.flush(5000)).toBe(true)
    expect(usersOf(batches.stored())).toEqual(names(5))
  })

  it('stop stores what was accepted, also what is recorded while it does', async () => {
    const { batches, log, recorder } = setUp()
    recordAll(recorder, names(700))
    const release = batches.hold()
    const stopped = recorder.stop()
    await new Promise((resolve) => setImmediate(resolve))
    recorder.record(record('late'))
    release()
    await stopped
    expect(usersOf(batches.stored())).toEqual([...names(700), 'late'])
    expect(recorder.stats()).toEqual({ depth: 0, bytes: 0, dropped: 0 })
    expect(log.entries).toEqual([])
  })

  it('stop tries again while the database fails', async () => {
    const { batches, recorder } = setUp()
    batches.script.push('fails', 'fails', 'fails')
    recordAll(recorder, names(2))
    await recorder.stop()
    expect(usersOf(batches.stored())).toEqual(names(2))
  })

  it('stop counts and logs what it could not store, asks the database no more, and is done once', async () => {
    let callsAtTheEnd = 0
    const { batches, log, recorder } = setUp({
      onDrop: () => {
        callsAtTheEnd = batches.calls.length
      },
    })
    batches.script.push(...Array.from({ length: 1000 }, () => 'fails' as const))
    recordAll(recorder, names(4))
    await Promise.all([recorder.stop(20), recorder.stop(20)])
    expect(recorder.stats()).toEqual({ depth: 0, bytes: 0, dropped: 4 })
    expect(log.entries.at(-1)).toEqual({
      event: 'activity_records_dropped',
      cause: 'stopped',
      count: 4,
    })
    await new Promise((resolve) => setTimeout(resolve, 400))
    expect(batches.calls).toHaveLength(callsAtTheEnd)
  })

  it('after stop nothing is admitted, and a late record is counted', async () => {
    const { recorder } = setUp()
    await recorder.stop()
    expect(() => recorder.admit()).toThrow('audit_unavailable')
    expect(() => recorder.record(record('alice'))).not.toThrow()
    expect(recorder.stats()).toEqual({ depth: 0, bytes: 0, dropped: 1 })
  })
})
