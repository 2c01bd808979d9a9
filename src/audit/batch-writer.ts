import type { ActivityBatches, ActivityLine } from '../core/ports/activity-batches.ts'
import { idOfLine } from './activity-line.ts'
import type { AuditLog } from './audit-log.ts'

/** Brings lines to the database in the order in which they came, each once, however often it takes. */
export type BatchWriter = {
  readonly add: (line: ActivityLine) => void
  /** How many lines are not in the database yet, and how much text they are. */
  readonly depth: () => number
  readonly bytes: () => number
  /** Hurries. True as soon as all that was added before is stored or refused, false when `deadlineMs` have passed. */
  readonly flush: (deadlineMs: number) => Promise<boolean>
  /** Gives up on what is not stored; gives how much that is. What is under way may still arrive. */
  readonly abandon: () => number
}

/** Measured: 250 to 1,000 rows a statement are all as good, fewer or more cost more each. */
const BATCH_LINES = 500
/** So many are written at once; fewer wait for company this long. */
const EAGER_LINES = 250
const DELAY_MS = 150

const FIRST_PAUSE_MS = 100
const LONGEST_PAUSE_MS = 5000
/** Somebody waits for a flush. */
const HURRIED_PAUSE_MS = 200

export function createBatchWriter(ports: {
  readonly store: ActivityBatches
  readonly log: AuditLog
  /** The database will never take this one. */
  readonly onRefused: (id: string) => void
}): BatchWriter {
  const { store, log } = ports
  /** Oldest first; only the last one still grows. */
  let chunks: ActivityLine[][] = []
  let depth = 0
  let bytes = 0
  let added = 0
  let settled = 0
  let writing = false
  let abandoned = false
  let failing = false
  let delay: NodeJS.Timeout | undefined
  let pause: { readonly timer: NodeJS.Timeout; readonly end: () => void } | undefined
  let flushes: { readonly upTo: number; readonly done: () => void }[] = []

  function add(line: ActivityLine): void {
    const last = chunks.at(-1)
    if (last === undefined || last.length === BATCH_LINES) chunks.push([line])
    else last.push(line)
    depth += 1
    bytes += line.length
    added += 1
    schedule()
  }

  const isDue = () => depth >= EAGER_LINES || flushes.length > 0

  function schedule(): void {
    if (writing || depth === 0) return
    if (!isDue()) {
      delay ??= setTimeout(startWriting, DELAY_MS)
      return
    }
    writing = true
    clearTimeout(delay)
    // Not here: the call whose record filled the batch does not pay for all of it.
    setImmediate(startWriting)
  }

  function startWriting(): void {
    writing = true
    clearTimeout(delay)
    delay = undefined
    void write()
  }

  /** Never rejects. */
  async function write(): Promise<void> {
    do {
      const batch = chunks.shift()
      if (batch !== undefined) await bring(batch)
    } while (chunks.length > 0 && isDue())
    writing = false
    schedule()
  }

  /** Tries until each line of the batch is stored or refused. */
  async function bring(batch: readonly ActivityLine[]): Promise<void> {
    const parts = [batch]
    let failures = 0
    for (;;) {
      const part = parts.pop()
      if (part === undefined || abandoned) return
      const result = await attempt(part)
      if (abandoned) return
      if (result === 'failed') {
        parts.push(part)
        await waitBefore(failures)
        failures += 1
        continue
      }
      failures = 0
      if (result === 'stored') {
        settle(part)
      } else if (part.length === 1) {
        for (const line of part) ports.onRefused(idOfLine(line))
        settle(part)
      } else {
        // One bad row keeps all the others back: halve until it is alone. The first half goes first, to keep the order.
        const middle = part.length >> 1
        parts.push(part.slice(middle), part.slice(0, middle))
      }
    }
  }

  async function attempt(part: readonly ActivityLine[]): Promise<'stored' | 'refused' | 'failed'> {
    try {
      const result = await store.insert(part)
      if (failing) {
        failing = false
        log.info({ event: 'activity_store_recovered', waiting: depth })
      }
      return result
    } catch (error) {
      if (!failing) {
        failing = true
        log.error({ event: 'activity_store_failing', code: codeOf(error), waiting: depth })
      }
      return 'failed'
    }
  }

  function settle(part: readonly ActivityLine[]): void {
    depth -= part.length
    settled += part.length
    for (const line of part) bytes -= line.length
    for (const flushed of flushes) if (flushed.upTo <= settled) flushed.done()
  }

  async function waitBefore(failures: number): Promise<void> {
    const longest = flushes.length > 0 ? HURRIED_PAUSE_MS : LONGEST_PAUSE_MS
    const ms = Math.min(longest, FIRST_PAUSE_MS * 2 ** Math.min(failures, 10))
    await new Promise<void>((resolve) => {
      // Jitter: replicas that lost the database together do not come back together.
      const timer = setTimeout(resolve, ms * (0.5 + Math.random() / 2))
      pause = { timer, end: resolve }
    })
    pause = undefined
  }

  function endPause(): void {
    clearTimeout(pause?.timer)
    pause?.end()
  }

  async function flush(deadlineMs: number): Promise<boolean> {
    const upTo = added
    if (settled >= upTo) return true
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(deadline)
        flushes = flushes.filter((flushed) => flushed.done !== done)
        resolve(settled >= upTo)
      }
      const deadline = setTimeout(done, deadlineMs)
      flushes.push({ upTo, done })
      endPause()
      schedule()
    })
  }

  function abandon(): number {
    const lost = depth
    abandoned = true
    chunks = []
    depth = 0
    bytes = 0
    clearTimeout(delay)
    endPause()
    for (const flushed of flushes) flushed.done()
    return lost
  }

  return { add, depth: () => depth, bytes: () => bytes, flush, abandon }
}

/** The code that storage put on the cause, such as a SQLSTATE; never its text. */
function codeOf(error: unknown): string | undefined {
  const cause = error instanceof Error ? error.cause : undefined
  const code = cause instanceof Error && 'code' in cause ? cause.code : undefined
  return typeof code === 'string' && /^\w{1,64}$/.test(code) ? code : undefined
}
