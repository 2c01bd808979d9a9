import { randomUUID } from 'node:crypto'
import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, describe, expect, it, vi } from 'vitest'
import type { AuditRecord } from '../../../src/core/audit-event.ts'
import {
  type RecorderOptions,
  startTestRecorder,
  type TestRecorder,
} from '../../support/audit-recorder.ts'
import { createFaultyFiles } from './faulty-files.ts'
import { createScriptedBatches } from './scripted-batches.ts'

const started: TestRecorder[] = []

async function setUp(options: RecorderOptions = {}) {
  const batches = createScriptedBatches()
  const files = createFaultyFiles()
  const test = await startTestRecorder(batches, { files, ...options })
  started.push(test)
  const users = () => batches.stored().map((line) => line.split('\t')[4])
  return { batches, files, users, ...test }
}

afterEach(async () => {
  for (const { recorder, remove } of started.splice(0)) {
    await recorder.stop(0)
    await remove()
  }
})

const record = (userId: string): AuditRecord => ({
  requestId: randomUUID(),
  startedAt: new Date(),
  userId,
  issuer: 'https://login.example.com',
  actor: { kind: 'user', id: userId },
  upstream: 'files',
  action: 'inject',
  method: 'connect',
  outcome: 'success',
  reason: undefined,
})

const dropped = (cause: string, count: number) => ({
  event: 'activity_records_dropped',
  cause,
  count,
})

describe.each(['process', 'disk'] as const)(
  'L5, durability %s: a disk that is full',
  (durability) => {
    it('refuse: the answer does not leave, nothing more is admitted, and what was accepted is stored when there is room', async () => {
      const { files, recorder, log, users } = await setUp({ durability })
      recorder.record(record('before'))
      await recorder.settled()
      files.writeFault = { code: 'ENOSPC', after: 10 }
      recorder.record(record('full'))
      await expect(recorder.settled()).rejects.toMatchObject({ code: 'audit_unavailable' })
      expect(() => recorder.admit()).toThrow('audit_unavailable')
      expect(recorder.isReady()).toBe(false)
      // An operation that was under way.
      recorder.record(record('straggler'))
      await expect(recorder.settled()).rejects.toMatchObject({ code: 'audit_unavailable' })

      files.writeFault = undefined
      await vi.waitFor(() => expect(() => recorder.admit()).not.toThrow(), { timeout: 15_000 })
      recorder.record(record('after'))
      await recorder.settled()
      expect(await recorder.flush(30_000)).toBe(true)
      expect(users()).toEqual(['before', 'full', 'straggler', 'after'])
      expect(recorder.stats()).toMatchObject({ depth: 0, bytes: 0, dropped: 0 })
      expect(log.entries).toEqual([
        { event: 'activity_spool_failing', code: 'ENOSPC' },
        { event: 'activity_spool_recovered' },
      ])
    })

    it('drop: calls go on, and what is lost is counted and logged', async () => {
      const { files, recorder, log, users } = await setUp({ durability, whenFull: 'drop' })
      files.createFault = 'EACCES'
      recorder.admit()
      recorder.record(record('lost'))
      await recorder.settled()
      recorder.admit()
      recorder.record(record('lost, too'))
      await recorder.settled()
      expect(recorder.stats()).toMatchObject({ depth: 0, dropped: 2 })
      expect(recorder.isReady()).toBe(true)
      files.createFault = undefined
      await vi.waitFor(
        async () => {
          recorder.record(record('after'))
          await recorder.settled()
          expect(await recorder.flush(30_000)).toBe(true)
          expect(new Set(users())).toEqual(new Set(['after']))
          expect(users().length).toBeGreaterThan(0)
        },
        { timeout: 15_000, interval: 50 },
      )
      expect(log.entries.slice(0, 2)).toEqual([
        { event: 'activity_spool_failing', code: 'EACCES' },
        dropped('spool_failing', 1),
      ])
      expect(JSON.stringify(log.entries)).not.toContain('secret')
    })
  },
)

describe('durability disk', () => {
  it('L3: an answer waits for fdatasync; answers that come meanwhile share the next one', async () => {
    const { files, recorder } = await setUp({ durability: 'disk' })
    recorder.record(record('first'))
    const first = recorder.settled()
    await new Promise((resolve) => setImmediate(resolve))
    expect(files.calls.slice(0, 2)).toEqual(['write 1', 'sync 1'])
    for (const name of ['second', 'third']) {
      recorder.record(record(name))
      void recorder.settled()
      await new Promise((resolve) => setImmediate(resolve))
    }
    recorder.record(record('fourth'))
    await Promise.all([first, recorder.settled()])
    expect(files.calls.filter((call) => call === 'write 1')).toHaveLength(4)
    expect(files.calls.filter((call) => call === 'sync 1').length).toBeLessThan(4)
  })

  it('L5: a file whose fdatasync failed is never written again; its records go to a new one before anybody is answered', async () => {
    const { files, recorder, users, batches } = await setUp({ durability: 'disk' })
    const release = batches.hold()
    recorder.record(record('before'))
    await recorder.settled()
    files.syncScript.push('EIO')
    files.calls.length = 0
    recorder.record(record('doubted'))
    await recorder.settled()
    recorder.record(record('after'))
    await recorder.settled()
    expect(files.calls.join(', ')).toBe(
      'write 1, sync 1, write 2, close 1, sync 2, synced 2, write 2, sync 2, synced 2',
    )
    release()
    expect(await recorder.flush(30_000)).toBe(true)
    // Once, although it is in both files.
    expect(users()).toEqual(['before', 'doubted', 'after'])
  })

  it('keeps a file open until a sync is done with it, and closes it once', async () => {
    const { files, recorder } = await setUp({ durability: 'disk' })
    let letGo = () => {}
    files.disk = new Promise((resolve) => {
      letGo = resolve
    })
    const large = 'x'.repeat(400)
    for (let index = 0; index < 900; index++) recorder.record(record(large))
    const first = recorder.settled()
    await new Promise((resolve) => setImmediate(resolve))
    // The file is full, and on its way to the disk.
    for (let index = 0; index < 900; index++) recorder.record(record(large))
    await new Promise((resolve) => setImmediate(resolve))
    expect(files.calls).toEqual(['write 1', 'sync 1', 'write 2'])
    letGo()
    await first
    recorder.record(record('alice'))
    await recorder.settled()
    const closed = files.calls.filter((call) => call === 'close 1')
    expect(closed).toHaveLength(1)
    expect(files.calls.indexOf('close 1')).toBeGreaterThan(files.calls.indexOf('synced 1'))
  })

  it('L5: when no file can be synced the answer does not leave; when one can the record is stored', async () => {
    const { files, recorder, users } = await setUp({ durability: 'disk' })
    files.syncFault = 'EIO'
    recorder.record(record('alice'))
    await expect(recorder.settled()).rejects.toMatchObject({ code: 'audit_unavailable' })
    expect(recorder.isReady()).toBe(false)
    files.syncFault = undefined
    await vi.waitFor(() => expect(recorder.isReady()).toBe(true), { timeout: 15_000 })
    expect(await recorder.flush(30_000)).toBe(true)
    expect(users()).toEqual(['alice'])
  })

  it('drop: a failed fdatasync keeps nobody waiting, and loses nothing that the system still has', async () => {
    const { files, recorder, users, log } = await setUp({ durability: 'disk', whenFull: 'drop' })
    files.syncFault = 'EIO'
    recorder.record(record('alice'))
    await recorder.settled()
    expect(await recorder.flush(30_000)).toBe(true)
    expect(users()).toEqual(['alice'])
    expect(log.entries[0]).toEqual({ event: 'activity_spool_failing', code: 'EIO' })
    expect(recorder.stats().dropped).toBe(0)
  })
})

describe('the files', () => {
  it('are for their owner only', async () => {
    const { recorder, batches, directory, writer } = await setUp()
    batches.hold()
    recorder.record(record('alice'))
    await recorder.settled()
    const mode = async (path: string) => ((await stat(path)).mode & 0o777).toString(8)
    expect(await mode(join(directory, writer))).toBe('700')
    expect(await mode(join(directory, writer, '00000001.spool'))).toBe('600')
  })

  it('go as soon as all of a segment is stored', async () => {
    const { recorder, directory, writer } = await setUp()
    const long = 'x'.repeat(400)
    for (let round = 0; round < 40; round++) {
      for (let index = 0; index < 100; index++) recorder.record(record(long))
      await recorder.settled()
    }
    expect(await recorder.flush(30_000)).toBe(true)
    await expect(stat(join(directory, writer, '00000001.spool'))).rejects.toThrow('ENOENT')
    expect(recorder.stats()).toMatchObject({ depth: 0, bytes: 0 })
  })
})
