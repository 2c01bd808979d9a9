import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createActivityWriter } from '../../src/audit/activity-writer.ts'
import {
  type AuditRecorder,
  type AuditRecorderOptions,
  createAuditRecorder,
  type SpoolWriter,
} from '../../src/audit/recorder.ts'
import { uuidV7 } from '../../src/audit/uuid-v7.ts'
import type { ActivityBatches } from '../../src/core/ports/activity-batches.ts'
import { createCollectedLog } from '../unit/audit/scripted-batches.ts'

export type RecorderOptions = Partial<AuditRecorderOptions>

export type TestRecorder = {
  readonly recorder: AuditRecorder
  readonly log: ReturnType<typeof createCollectedLog>
  /** Of all spools. */
  readonly directory: string
  readonly writer: string
  readonly remove: () => Promise<void>
}

/** A recorder on a directory of its own, whose writer runs in this thread. */
export async function startTestRecorder(
  store: ActivityBatches,
  options: RecorderOptions = {},
): Promise<TestRecorder> {
  const directory = options.directory ?? (await mkdtemp(join(tmpdir(), 'onbehalf-spool-')))
  const writer = options.writer ?? uuidV7(Date.now())
  const log = createCollectedLog()
  const recorder = createAuditRecorder({
    directory,
    writer,
    startWriter: ({ meter, log: writerLog }): SpoolWriter =>
      createActivityWriter({ directory, writer, meter, store, log: writerLog }),
    clock: { now: () => new Date() },
    durability: 'process',
    limitBytes: 1024 ** 3,
    whenFull: 'refuse',
    log,
    ...options,
  })
  return {
    recorder,
    log,
    directory,
    writer,
    remove: () => rm(directory, { recursive: true, force: true }),
  }
}
