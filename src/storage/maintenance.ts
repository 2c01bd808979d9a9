import { makePartitions } from './activity-partitions.ts'
import type { Database } from './database.ts'
import { removeOutdated } from './outdated-rows.ts'
import { faultCodeOf } from './storage-fault.ts'
import type { StorageLog } from './storage-log.ts'

const intervalMs = 60 * 60_000
/** After a run that failed, or that left some of a backlog. */
const soonMs = 60_000

/**
 * One run of everything that the database needs from time to time. Running it twice, or on two replicas, does no harm. Gives
 * whether there is more to remove: whoever opens pages without signing in leaves rows, and need not do so slowly.
 */
export async function maintain(options: {
  readonly database: Database
  /** How long the activity log keeps records. */
  readonly retentionDays: number
  readonly log: StorageLog
}): Promise<'done' | 'more'> {
  const { database, retentionDays } = options
  await makePartitions(database, retentionDays)
  return removeOutdated(database, retentionDays)
}

/** Maintains at once and every hour. The first run is over when the promise resolves, well or not. */
export async function startMaintenance(
  options: Parameters<typeof maintain>[0],
): Promise<{ readonly stop: () => Promise<void> }> {
  let timer: NodeJS.Timeout | undefined
  let stopped = false
  let running = Promise.resolve()

  const runOnce = async () => {
    let nextMs = intervalMs
    try {
      if ((await maintain(options)) === 'more') nextMs = soonMs
    } catch (error) {
      options.log.warn({ event: 'maintenance_failed', code: faultCodeOf(error) ?? null })
      nextMs = soonMs
    }
    if (stopped) return
    timer = setTimeout(() => {
      running = runOnce()
    }, nextMs)
    timer.unref()
  }

  running = runOnce()
  await running
  return {
    async stop() {
      stopped = true
      clearTimeout(timer)
      await running
    },
  }
}
