import { isBrokerError } from '../core/errors.ts'
import { createActivityWriter } from '../audit/activity-writer.ts'
import type { WriterLog } from '../audit/audit-log.ts'
import type { SpoolWriter } from '../audit/recorder.ts'
import type { SpoolMeter } from '../audit/spool-meter.ts'
import { startWriterThread } from '../audit/writer-thread.ts'
import { isOperatorError } from '../core/operator-error.ts'
import type { Secret } from '../core/secret.ts'
import { createActivityBatches } from '../storage/activity-batches.ts'
import { type Database, openDatabase } from '../storage/database.ts'

/** What the writer of the activity log needs, whichever thread it runs in. */
export type WriterSetting = {
  /** Of all spools. */
  readonly directory: string
  readonly writer: string
  readonly databaseUrl: Secret
  readonly meter: SpoolMeter
  readonly log: WriterLog
}

/** What of it can pass to a thread. */
export type WriterThreadData = {
  readonly directory: string
  readonly writer: string
  readonly databaseUrl: string
  readonly meter: SharedArrayBuffer
}

const reopenAfterMs = 1000

/**
 * Starts the writer: in a thread of its own, and in this one where the program runs from its sources, which is so in tests only
 * (a thread would need them compiled).
 */
export function startWriter(
  setting: WriterSetting & Pick<Parameters<typeof startWriterThread>[0], 'log'>,
): SpoolWriter {
  if (!import.meta.url.endsWith('.js')) return openWriter(setting)
  const workerData: WriterThreadData = {
    directory: setting.directory,
    writer: setting.writer,
    databaseUrl: setting.databaseUrl.reveal(),
    meter: setting.meter.shared,
  }
  const entry = new URL('./writer-entry.js', import.meta.url)
  return startWriterThread({ entry, workerData, log: setting.log })
}

/** The writer on a connection of its own. Where the database is away it waits for it. */
export function openWriter({ databaseUrl, ...setting }: WriterSetting): SpoolWriter {
  let isStopping = false
  let isHurried = false
  let wake = () => {}
  let hurry = () => {
    isHurried = true
  }
  const opened = open()

  async function open(): Promise<Database | undefined> {
    for (;;) {
      if (isStopping) return undefined
      try {
        return await openDatabase({ url: databaseUrl, pool: 1 })
      } catch (error) {
        if (!isOperatorError(error) && !isBrokerError(error)) throw error
        await new Promise<void>((resolve) => {
          wake = resolve
          setTimeout(resolve, reopenAfterMs)
        })
      }
    }
  }

  const running = opened.then((database) => {
    if (database === undefined) return undefined
    const writer = createActivityWriter({ ...setting, store: createActivityBatches(database) })
    hurry = writer.hurry
    if (isHurried) hurry()
    return { writer, database }
  })

  return {
    hurry: () => hurry(),
    async stop(deadlineMs) {
      isStopping = true
      wake()
      const { writer, database } = (await running) ?? {}
      await writer?.stop(deadlineMs)
      await database?.close()
    },
  }
}
