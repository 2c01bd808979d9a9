import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { startWriterThread } from '../../../src/audit/writer-thread.ts'
import { createCollectedLog } from './scripted-batches.ts'

const undo: (() => Promise<unknown>)[] = []
afterEach(async () => {
  for (let last = undo.pop(); last !== undefined; last = undo.pop()) await last()
})

/** A thread that runs a text. */
async function start(text: string, workerData: object = {}) {
  const directory = await mkdtemp(join(tmpdir(), 'onbehalf-thread-'))
  undo.push(() => rm(directory, { recursive: true, force: true }))
  const file = join(directory, 'thread.mjs')
  await writeFile(
    file,
    `import { parentPort, workerData } from 'node:worker_threads'
     const runs = new Int32Array(workerData.runs)
     const run = Atomics.add(runs, 0, 1)
     ${text}`,
  )
  const runs = new Int32Array(new SharedArrayBuffer(4))
  const log = createCollectedLog()
  const thread = startWriterThread({
    entry: pathToFileURL(file),
    workerData: { ...workerData, runs: runs.buffer },
    log,
  })
  undo.push(() => thread.stop(100))
  return { thread, log, runs: () => Atomics.load(runs, 0) }
}

describe('the thread of the writer', () => {
  it('passes on what the writer says, and ends when it is told to', async () => {
    const { thread, log, runs } = await start(`
      parentPort.postMessage({ info: { event: 'activity_store_recovered', waiting: 1 } })
      parentPort.on('message', (message) => { if (message.kind === 'stop') process.exit() })`)
    await vi.waitFor(() => expect(log.entries).toHaveLength(1), { timeout: 15_000 })
    await thread.stop(5000)
    expect(log.entries).toEqual([{ event: 'activity_store_recovered', waiting: 1 }])
    expect(runs()).toBe(1)
  })

  it('is started again when it ends by itself, which is said by a code and never by its text', async () => {
    const { log, runs } = await start(`
      if (run === 0) throw Object.assign(new Error('a secret'), { code: 'EBROKEN' })
      parentPort.on('message', () => process.exit())`)
    await vi.waitFor(() => expect(runs()).toBe(2), { timeout: 15_000 })
    expect(log.entries).toEqual([{ event: 'activity_writer_restarted', code: 'EBROKEN' }])
  })

  it('that does not end is ended', async () => {
    const { thread, runs } = await start(`parentPort.on('message', () => { for (;;); })`)
    await vi.waitFor(() => expect(runs()).toBe(1), { timeout: 15_000 })
    await thread.stop(50)
    expect(runs()).toBe(1)
  })
})
