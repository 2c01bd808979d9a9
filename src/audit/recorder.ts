import { performance } from 'node:perf_hooks'
import { join } from 'node:path'
import { BrokerError } from '../core/errors.ts'
import type { ActivityLine } from '../core/ports/activity-batches.ts'
import type { AuditSink } from '../core/ports/audit-sink.ts'
import type { AuditStats } from '../core/ports/audit-stats.ts'
import type { Clock } from '../core/ports/clock.ts'
import type { AuditRecord } from '../core/audit-event.ts'
import { createActivityLineEncoder } from './activity-line.ts'
import { type AuditLog, tolerant, type WriterError, type WriterLog } from './audit-log.ts'
import { createLosses } from './losses.ts'
import { createSpool, SpoolFault } from './spool.ts'
import { bytesOf, type SpoolFiles, spoolFiles, writersIn } from './spool-files.ts'
import { createSpoolMeter, type SpoolMeter } from './spool-meter.ts'

/** Records operations in the activity table: into the spool before their answers leave, from there behind them. */
export interface AuditRecorder extends AuditSink {
  /** True when all that was recorded before is in the database, false when that took longer than `deadlineMs`. */
  flush(deadlineMs: number): Promise<boolean>
  /**
   * Stores what was accepted, in 10 s at most; what is not stored then stays in the spool for the next process. To be called
   * when no request is under way and before the database is closed.
   */
  stop(deadlineMs?: number): Promise<void>
  /** Whether the next record would be taken, or may be dropped. */
  isReady(): boolean
  stats(): AuditStats
}

/** What empties the spool, in whatever thread. */
export type SpoolWriter = {
  readonly hurry: () => void
  /** Ends after what is under way. */
  readonly stop: (deadlineMs: number) => Promise<void>
}

export type AuditRecorderOptions = {
  /** Where the spools are, those of earlier processes too. It belongs to this process. */
  readonly directory: string
  /** UUIDv7 of this process as a writer. */
  readonly writer: string
  readonly startWriter: (ports: {
    readonly meter: SpoolMeter
    readonly log: WriterLog
  }) => SpoolWriter
  readonly clock: Clock
  /** `process`: a record survives the process. `disk`: it survives a power cut. */
  readonly durability: 'process' | 'disk'
  /** Of records that are not in the database. */
  readonly limitBytes: number
  /** `refuse`: operations are not admitted. `drop`: they go on without a record. */
  readonly whenFull: 'refuse' | 'drop'
  readonly log: AuditLog
  readonly onDrop?: (count: number) => void
  readonly files?: SpoolFiles
}

const stopDeadlineMs = 10_000
const stopLookMs = 5
/** For what is under way when the time is over. */
const stopGraceMs = 500
/** By then the writer has tried again several times. */
const comeBackAfterSeconds = 5
/** A turn of the event loop that records more writes several times. */
const linesPerWrite = 1000

export function createAuditRecorder(options: AuditRecorderOptions): AuditRecorder {
  const { clock, limitBytes } = options
  const refuses = options.whenFull === 'refuse'
  const log = tolerant(options.log)
  const losses = createLosses({ log, onDrop: options.onDrop })
  const meter = createSpoolMeter()
  // Before the writer has looked, so that nobody takes what earlier processes left for nothing.
  meter.leftoverBytes.set(bytesOf(options.directory, writersIn(options.directory)))
  const encode = createActivityLineEncoder()
  const spool = createSpool({
    directory: join(options.directory, options.writer),
    files: options.files ?? spoolFiles,
    meter,
    durability: options.durability,
    keep: refuses,
    onFault: (code) => log.error({ event: 'activity_spool_failing', code }),
    onRecovered: () => log.info({ event: 'activity_spool_recovered' }),
  })
  const writer = options.startWriter({
    meter,
    log: { error: onWriterError, info: (entry) => log.info(entry) },
  })

  /** Of this turn of the event loop, not written yet. */
  let lines: ActivityLine[] = []
  let lineUnits = 0
  /** Read once a turn: all that is recorded in one has one time. */
  let turnMs: number | undefined
  let isTurnOpen = false
  /** What this turn wrote already and is not safe yet. */
  let writes: Promise<void>[] = []
  let turn: Deferred | undefined
  /** Of the turns before: until they are on disk. */
  let earlier: Promise<void> | undefined
  /** As last seen; the number only grows, so an old one errs on the safe side. */
  let settledBytes = 0
  let leftoverBytes = meter.leftoverBytes.get()
  /** What the writer of this spool will never account for, because it ended at a bad moment. */
  let strayBytes = 0
  let closed = false
  let stopping: Promise<void> | undefined

  function onWriterError(entry: WriterError): void {
    if (entry.event === 'activity_record_refused') {
      losses.addRefused(entry.id)
      return
    }
    if (entry.event === 'activity_spool_damaged') losses.addDamaged(entry.lost ?? 0)
    log.error(entry)
  }

  const depth = () => spool.accepted().records - meter.settled.get() + lines.length

  function bytes(): number {
    const accepted = spool.accepted().bytes
    settledBytes = meter.settledBytes.get()
    leftoverBytes = meter.leftoverBytes.get()
    if (depth() === lines.length) strayBytes = accepted - settledBytes
    return accepted - settledBytes - strayBytes + leftoverBytes + lineUnits
  }

  function isFull(): boolean {
    const atMost = spool.accepted().bytes - settledBytes - strayBytes + leftoverBytes + lineUnits
    return atMost >= limitBytes && bytes() >= limitBytes
  }

  function record(given: AuditRecord): void {
    if (closed) {
      losses.add('stopped', 1)
      return
    }
    if (!refuses && isFull()) {
      losses.add('spool_full', 1)
      return
    }
    turnMs ??= clock.now().getTime()
    let line: ActivityLine
    try {
      line = encode(given, turnMs)
    } catch {
      // A record that is not one (the type forbids it) must not fail an operation that has already happened.
      losses.add('invalid_record', 1)
      return
    }
    lines.push(line)
    lineUnits += line.length
    if (!isTurnOpen) {
      isTurnOpen = true
      setImmediate(endTurn)
    }
    if (lines.length === linesPerWrite) write()
  }

  /** One write for all that came, before anybody who waits for it goes on. */
  function endTurn(): void {
    if (lines.length > 0) write()
    isTurnOpen = false
    turnMs = undefined
    leftoverBytes = meter.leftoverBytes.get()
    const waiting = turn
    turn = undefined
    if (writes.length === 0) {
      waiting?.resolve()
      return
    }
    const written = Promise.all(writes).then(() => {})
    writes = []
    earlier = written
    const forget = () => {
      if (earlier === written) earlier = undefined
    }
    written.then(forget, forget)
    if (waiting !== undefined) written.then(waiting.resolve, waiting.reject)
  }

  function write(): void {
    const count = lines.length
    const written = spool.append(lines.join('\n'), count)
    lines = []
    lineUnits = 0
    if (written === undefined) return
    const judged = written.catch((error: unknown) => {
      if (!(error instanceof SpoolFault)) throw error
      if (refuses) throw unavailable()
      losses.add('spool_failing', count)
    })
    judged.catch(() => {})
    writes.push(judged)
  }

  async function drained(isDone: () => boolean, giveUpAt: number): Promise<boolean> {
    while (!isDone()) {
      if (performance.now() >= giveUpAt) return false
      writer.hurry()
      await new Promise((resolve) => setTimeout(resolve, stopLookMs))
    }
    return true
  }

  async function finish(deadlineMs: number): Promise<void> {
    const giveUpAt = performance.now() + deadlineMs
    // A renewal that outlives its call may record while the rest is written.
    await drained(() => depth() === 0 && meter.leftoverBytes.get() === 0, giveUpAt)
    closed = true
    if (lines.length > 0) write()
    spool.close()
    await writer.stop(Math.max(stopGraceMs, giveUpAt - performance.now()))
    const waiting = depth()
    if (waiting > 0) log.info({ event: 'activity_spool_left', waiting })
    losses.close()
  }

  return {
    admit() {
      if (refuses && (closed || spool.isFailing() || isFull())) throw unavailable()
    },
    record,
    settled() {
      if (isTurnOpen) {
        turn ??= deferred()
        return turn.promise
      }
      // It cannot be told any more whose record it was that failed.
      if (refuses && (closed || spool.isFailing())) return Promise.reject(unavailable())
      return earlier
    },
    flush(deadlineMs) {
      const upTo = spool.accepted().records + lines.length
      return drained(() => meter.settled.get() >= upTo, performance.now() + deadlineMs)
    },
    stop(deadlineMs = stopDeadlineMs) {
      stopping ??= finish(deadlineMs)
      return stopping
    },
    isReady: () => !closed && (!refuses || !(spool.isFailing() || isFull())),
    stats() {
      const oldestMs = meter.oldestMs.get()
      const ageMs = oldestMs === 0 ? 0 : clock.now().getTime() - oldestMs
      return {
        depth: depth(),
        bytes: bytes(),
        ageSeconds: Math.max(0, ageMs / 1000),
        dropped: losses.total(),
      }
    },
  }
}

function unavailable(): BrokerError {
  return new BrokerError('audit_unavailable', { retryAfterSeconds: comeBackAfterSeconds })
}

type Deferred = {
  readonly promise: Promise<void>
  readonly resolve: () => void
  readonly reject: (error: unknown) => void
}

function deferred(): Deferred {
  let resolve = () => {}
  let reject: (error: unknown) => void = () => {}
  const promise = new Promise<void>((yes, no) => {
    resolve = yes
    reject = no
  })
  // Who recorded and went away is not there to hear of it.
  promise.catch(() => {})
  return { promise, resolve, reject }
}
