import { type MessagePort, Worker } from 'node:worker_threads'
import type { AuditLog, WriterError, WriterInfo, WriterLog } from './audit-log.ts'
import type { SpoolWriter } from './recorder.ts'

/** Between a writer's thread and the one that started it. */
export type ToWriter =
  | { readonly kind: 'hurry' }
  | { readonly kind: 'stop'; readonly deadlineMs: number }
export type FromWriter =
  | { readonly error: WriterError; readonly info?: undefined }
  | { readonly info: WriterInfo; readonly error?: undefined }

const restartAfterMs = 1000
/** For the farewell to the database. */
const closeMs = 1000

/**
 * Runs a writer in a thread of its own, so that no call waits for what it computes. All that it knows is in the spool and in
 * the database: should the thread end by itself, another goes on.
 */
export function startWriterThread(options: {
  /** The module that the thread runs, and what it is given. */
  readonly entry: URL
  readonly workerData: object
  readonly log: WriterLog & Pick<AuditLog, 'error'>
}): SpoolWriter {
  const { entry, workerData, log } = options
  let worker: Worker | undefined
  let restart: NodeJS.Timeout | undefined
  let isStopping = false
  let onEnd = () => {}

  function start(): void {
    // Without what this process was started with: a loader or an inspector of its own is not meant for the thread.
    const thread = new Worker(entry, { workerData, execArgv: [], name: 'activity-writer' })
    worker = thread
    let code: string | undefined
    thread.on('message', ({ error, info }: FromWriter) => {
      if (error !== undefined) log.error(error)
      else if (info !== undefined) log.info(info)
    })
    thread.on('error', (error) => {
      code = 'code' in error && typeof error.code === 'string' ? error.code : error.name
    })
    thread.on('exit', () => {
      worker = undefined
      onEnd()
      if (isStopping) return
      log.error({ event: 'activity_writer_restarted', code })
      restart = setTimeout(start, restartAfterMs)
    })
  }

  function tell(message: ToWriter): void {
    // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread has no origin
    worker?.postMessage(message)
  }

  start()
  return {
    hurry: () => tell({ kind: 'hurry' }),
    async stop(deadlineMs) {
      isStopping = true
      clearTimeout(restart)
      const running = worker
      if (running === undefined) return
      let timer: NodeJS.Timeout | undefined
      const isOver = await new Promise<boolean>((resolve) => {
        onEnd = () => resolve(true)
        timer = setTimeout(() => resolve(false), deadlineMs + closeMs)
        tell({ kind: 'stop', deadlineMs })
      })
      clearTimeout(timer)
      if (!isOver) await running.terminate()
    },
  }
}

/** The other end: a writer's log that is heard in the thread that started it. */
export function logTo(port: MessagePort): WriterLog {
  const send = (message: FromWriter) => port.postMessage(message)
  return { error: (error) => send({ error }), info: (info) => send({ info }) }
}
