import { performance } from 'node:perf_hooks'
import type { AuditRecord } from '../core/audit-event.ts'
import { isBrokerError } from '../core/errors.ts'
import type { ActivityBatches } from '../core/ports/activity-batches.ts'
import type { Clock } from '../core/ports/clock.ts'
import { createActivityLineEncoder } from './activity-line.ts'
import { genesisHash } from './chain.ts'
import { chainedBatch } from './chained-batch.ts'
import { uuidV7 } from './uuid-v7.ts'

const pauseMs = 200

/**
 * Stores one record at once, for a command: it has no spool, which belongs to the broker that runs beside it, and nobody waits
 * for it. A writer of its own. False when the database did not take it in time.
 */
export async function storeRecord(options: {
  readonly record: AuditRecord
  readonly store: ActivityBatches
  readonly clock: Clock
  readonly deadlineMs: number
}): Promise<boolean> {
  const { record, store, clock } = options
  const giveUpAt = performance.now() + options.deadlineMs
  const now = clock.now()
  const writer = uuidV7(now.getTime())
  const line = createActivityLineEncoder()(record, now.getTime())
  const before = { seq: 0, hash: genesisHash, position: 0 }
  const batch = chainedBatch({ writer, before, records: [{ position: 1, line }], uses: [] })
  for (;;) {
    try {
      const head = await store.open(writer, now)
      // Not where it began: an earlier try went through after all.
      return head.seq === 1 || (await store.append(batch)) === 'stored'
    } catch (error) {
      if (!isBrokerError(error) || performance.now() >= giveUpAt) return false
      await new Promise((resolve) => setTimeout(resolve, pauseMs))
    }
  }
}
