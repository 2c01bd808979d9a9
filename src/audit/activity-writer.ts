import fs from 'node:fs'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'
import { namesOfCause } from '../core/error-names.ts'
import { isBrokerError } from '../core/errors.ts'
import type { ActivityBatches, WriterHead } from '../core/ports/activity-batches.ts'
import { waitAtMost } from '../core/wait-at-most.ts'
import { uuidTimeMs } from '../core/uuid-time.ts'
import { idOfLine, occurredAtOfLine } from './activity-line.ts'
import type { WriterLog } from './audit-log.ts'
import { chainedBatch } from './chained-batch.ts'
import { createLastUses } from './last-uses.ts'
import { bytesOf, writersIn } from './spool-files.ts'
import type { SpoolMeter } from './spool-meter.ts'
import { createSpoolReader, type SpooledRecord, type SpoolReader } from './spool-reader.ts'

/** Brings spooled records to the database: those of its own process, and what earlier ones left. */
export type ActivityWriter = {
  /** Somebody waits: it makes no pauses but those that a failing database needs, until all is stored. */
  readonly hurry: () => void
  /** Ends after what is under way, or at the deadline, and removes its own spool where that is stored wholly. */
  readonly stop: (deadlineMs: number) => Promise<void>
}

export type ActivityWriterOptions = {
  /** Where the spools of all writers are. */
  readonly directory: string
  /** Of this process. */
  readonly writer: string
  readonly meter: SpoolMeter
  readonly store: ActivityBatches
  readonly log: WriterLog
}

/** Measured: 250 to 1,000 rows a statement are all as good, fewer or more cost more each. */
const batchRecords = 500
/** So many are written at once; fewer wait for company until the next look. */
const eagerRecords = 250
const lookEveryMs = 100
/** Somebody waits. */
const lookSoonMs = 5

const firstPauseMs = 100
const longestPauseMs = 5000
const longestHurriedPauseMs = 200

/** The spool of one writer, on its way into the database. */
type Stream = {
  readonly writer: string
  readonly isOwn: boolean
  readonly startedAt: Date
  readonly reader: SpoolReader
  head: WriterHead
  /** Taken from the spool, and neither stored nor set aside yet. */
  taken: readonly SpooledRecord[]
}

export function createActivityWriter(options: ActivityWriterOptions): ActivityWriter {
  const { directory, meter, store, log } = options
  const lastUses = createLastUses()
  let own: Stream | undefined
  /** Of earlier runs, oldest first. */
  let earlier: string[] = []
  let leftover: Stream | undefined
  /** Position of the last record of ours that is done with. */
  let settled = meter.settled.get()
  let settledBytes = meter.settledBytes.get()
  let failures = 0
  let isHurried = false
  let isStopping = false
  let wake = () => {}

  /** Never rejects. */
  async function run(): Promise<void> {
    earlier = writersIn(directory).filter((writer) => writer !== options.writer)
    measureLeftovers()
    for (;;) {
      if (isStopping) return
      try {
        // In turns, so that neither waits for more than one batch of the other.
        const isOwnBusy = await bringOwn()
        const isBusy = (await bringLeftover()) || isOwnBusy
        if (!isBusy) await rest()
      } catch (error) {
        await pauseAfter(error)
      }
    }
  }

  const waiting = () => meter.written.get() - settled

  /** True when there is more to do at once. */
  async function bringOwn(): Promise<boolean> {
    if (waiting() === 0 && lastUses.isEmpty()) return false
    own ??= await open(options.writer)
    // More than we know of where an earlier thread of this process ended between the statement and its answer.
    settled = Math.max(settled, own.head.position)
    await bringNext(own, meter.written.get())
    return waiting() >= eagerRecords
  }

  async function bringLeftover(): Promise<boolean> {
    const [writer] = earlier
    if (writer === undefined) return false
    try {
      // A process that ended between making the directory and the file was no writer.
      if (leftover === undefined && bytesOf(directory, [writer]) === 0) {
        fs.rmSync(join(directory, writer), { recursive: true })
      } else {
        leftover ??= await open(writer)
        const hadMore = await bringNext(leftover, Number.MAX_SAFE_INTEGER)
        if (hadMore) return true
        leftover.reader.remove()
        log.info({ event: 'activity_spool_replayed', writer, records: leftover.head.seq })
      }
    } catch (error) {
      if (isBrokerError(error)) throw error
      // Its files cannot be read. They stay for the next start, and keep nothing else from the database.
      log.error({ event: 'activity_spool_unreadable', writer, code: namesOfCause(error).errorCode })
    }
    leftover = undefined
    earlier.shift()
    measureLeftovers()
    return earlier.length > 0
  }

  async function open(writer: string): Promise<Stream> {
    // Writers are named by UUIDv7s and by nothing else.
    const startedAt = new Date(uuidTimeMs(writer) ?? Number.NaN)
    const head = await store.open(writer, startedAt)
    const isOwn = writer === options.writer
    const reader = createSpoolReader({
      directory: join(directory, writer),
      from: head.position + 1,
      isGrowing: isOwn,
      onDamage: (damage) => log.error({ event: 'activity_spool_damaged', ...damage }),
    })
    return { writer, isOwn, startedAt, reader, head, taken: [] }
  }

  /** Brings the next batch. False when there was none. */
  async function bringNext(stream: Stream, upTo: number): Promise<boolean> {
    if (stream.taken.length === 0) {
      stream.taken = stream.reader.take(batchRecords, upTo)
      for (const { line } of stream.taken) lastUses.note(line)
    }
    const [oldest] = stream.taken
    if (oldest !== undefined) meter.oldestMs.set(Date.parse(occurredAtOfLine(oldest.line)))
    let done = 0
    /** How many are tried together: fewer while one of them is refused. */
    let together = batchRecords
    do {
      const records = stream.taken.slice(0, together)
      const result = await append(stream, records)
      if (result === 'stored') {
        done = settle(stream, records.length)
        together = batchRecords
      } else if (result === 'moved') {
        stream.head = await store.open(stream.writer, stream.startedAt)
        const { position } = stream.head
        done = settle(stream, stream.taken.filter((one) => one.position <= position).length)
      } else if (records.length > 1) {
        // One bad record keeps the others back: halve until it is alone. The first half goes first, to keep the order.
        together = records.length >> 1
      } else {
        // Known: it is in the log since an earlier life of this spool.
        if (result === 'refused') for (const record of records) setAside(stream, record)
        done = settle(stream, records.length)
      }
    } while (stream.taken.length > 0)
    meter.oldestMs.set(0)
    stream.reader.release(done)
    if (!stream.isOwn) measureLeftovers()
    return oldest !== undefined
  }

  async function append(stream: Stream, records: readonly SpooledRecord[]) {
    const hasTime = stream.taken.length < eagerRecords
    const uses = lastUses.due(performance.now(), hasTime)
    if (records.length === 0 && uses.length === 0) return 'stored'
    const batch = chainedBatch({ writer: stream.writer, before: stream.head, records, uses })
    const result = await store.append(batch)
    if (failures > 0) {
      failures = 0
      log.info({ event: 'activity_store_recovered', waiting: waiting() })
    }
    if (result === 'stored') {
      stream.head = batch.after
      lastUses.stored(uses, performance.now())
    }
    return result
  }

  /** Gives the position up to which the stream is settled. */
  function settle(stream: Stream, count: number): number {
    const done = stream.taken.slice(0, count)
    stream.taken = stream.taken.slice(count)
    const last = done.at(-1)?.position ?? 0
    if (stream.isOwn && last > 0) {
      settled = last
      for (const { bytes } of done) settledBytes += bytes
      meter.settledBytes.set(settledBytes)
      meter.settled.set(settled)
    }
    if (waiting() === 0) isHurried = false
    return last
  }

  function setAside(stream: Stream, { line }: SpooledRecord): void {
    const aside = join(directory, 'refused')
    fs.mkdirSync(aside, { recursive: true, mode: 0o700 })
    fs.appendFileSync(join(aside, `${stream.writer}.tsv`), `${line}\n`, {
      mode: 0o600,
      flush: true,
    })
    log.error({ event: 'activity_record_refused', id: idOfLine(line) })
  }

  function measureLeftovers(): void {
    meter.leftoverBytes.set(bytesOf(directory, earlier))
  }

  async function pauseAfter(error: unknown): Promise<void> {
    const longest = isHurried ? longestHurriedPauseMs : longestPauseMs
    const ms = Math.min(longest, firstPauseMs * 2 ** Math.min(failures, 10))
    if (failures === 0) {
      log.error({
        event: 'activity_store_failing',
        code: namesOfCause(error).errorCode,
        waiting: waiting(),
      })
    }
    failures += 1
    // Jitter: replicas that lost the database together do not come back together.
    await sleep(ms * (0.5 + Math.random() / 2))
  }

  const rest = () => sleep(isHurried ? lookSoonMs : lookEveryMs)

  function sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms)
      wake = () => {
        clearTimeout(timer)
        resolve()
      }
      if (isStopping) wake()
    })
  }

  const running = run()
  return {
    hurry() {
      isHurried = true
      wake()
    },
    async stop(deadlineMs) {
      isStopping = true
      wake()
      await waitAtMost(running, deadlineMs)
      if (own !== undefined && waiting() === 0) own.reader.remove()
    },
  }
}
