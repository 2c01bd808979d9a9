import { performance } from 'node:perf_hooks'
import { BrokerError } from '../core/errors.ts'
import type { ActivityBatches } from '../core/ports/activity-batches.ts'
import type { AuditSink } from '../core/ports/audit-sink.ts'
import type { Clock } from '../core/ports/clock.ts'
import { createActivityLineEncoder } from './activity-line.ts'
import { type AuditLog, tolerant } from './audit-log.ts'
import { createBatchWriter } from './batch-writer.ts'
import { createLosses } from './losses.ts'

/** Records operations in the activity table, behind the calls that they belong to. */
export interface AuditRecorder extends AuditSink {
  /** True when all that was recorded before is in the database, false when that took longer than `deadlineMs`. */
  flush(deadlineMs: number): Promise<boolean>
  /**
   * Stores what was accepted, in 10 s at most; what is not stored then is counted and logged, and so is what is recorded
   * later. To be called when no request is under way and before the database is closed.
   */
  stop(deadlineMs?: number): Promise<void>
  stats(): AuditRecorderStats
}

export type AuditRecorderStats = {
  /** Records that are not in the database yet. */
  readonly depth: number
  /** Their text, in UTF-16 units. */
  readonly bytes: number
  /** Records lost since the start. */
  readonly dropped: number
}

export type AuditRecorderOptions = {
  readonly store: ActivityBatches
  readonly clock: Clock
  /** How many records wait at most, besides those of operations that were admitted before the queue was full. */
  readonly capacity: number
  /** `refuse`: operations are not admitted. `drop`: they go on without a record. */
  readonly whenFull: 'refuse' | 'drop'
  readonly log: AuditLog
  readonly onDrop?: (count: number) => void
}

const STOP_DEADLINE_MS = 10_000
/** By then the writer has tried again several times. */
const RETRY_AFTER_SECONDS = 5

export function createAuditRecorder(options: AuditRecorderOptions): AuditRecorder {
  const { clock, capacity, whenFull } = options
  const log = tolerant(options.log)
  const losses = createLosses({ log, onDrop: options.onDrop })
  const writer = createBatchWriter({ store: options.store, log, onRefused: losses.addRefused })
  const encode = createActivityLineEncoder()
  let closed = false
  let stopping: Promise<void> | undefined

  async function finish(deadlineMs: number): Promise<void> {
    const giveUpAt = performance.now() + deadlineMs
    // A renewal that outlives its call may record while the rest is written.
    while (writer.depth() > 0 && performance.now() < giveUpAt) {
      await writer.flush(giveUpAt - performance.now())
    }
    closed = true
    losses.add('stopped', writer.abandon())
    losses.close()
  }

  return {
    admit() {
      if (whenFull === 'refuse' && (closed || writer.depth() >= capacity)) {
        throw new BrokerError('audit_unavailable', { retryAfterSeconds: RETRY_AFTER_SECONDS })
      }
    },
    record(record) {
      if (closed) {
        losses.add('stopped', 1)
      } else if (whenFull === 'drop' && writer.depth() >= capacity) {
        losses.add('queue_full', 1)
      } else {
        try {
          writer.add(encode(record, clock.now().getTime()))
        } catch {
          // A record that is not one (the type forbids it) must not fail an operation that has already happened.
          losses.add('invalid_record', 1)
        }
      }
    },
    flush: writer.flush,
    stop(deadlineMs = STOP_DEADLINE_MS) {
      stopping ??= finish(deadlineMs)
      return stopping
    },
    stats: () => ({ depth: writer.depth(), bytes: writer.bytes(), dropped: losses.total() }),
  }
}
