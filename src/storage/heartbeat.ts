import { performance } from 'node:perf_hooks'

export type Heartbeat = {
  /** Settles with the first probe; rejects as it did. */
  readonly first: Promise<void>
  readonly lastHeardAt: () => number
  readonly isFresh: () => boolean
  readonly stop: () => void
}

const INTERVAL_MS = 2000
/** Contract section 4: a replica serves from memory for at most 10 s after it last heard from the database. */
const FRESH_FOR_MS = 10_000
/** How long a database that is starting up is waited for. */
const STARTING_UP_MS = 10_000
const STARTING_UP_RETRY_MS = 250
const CANNOT_CONNECT_NOW = '57P03'

/**
 * Asks the database every 2 s whether it is there. An answer counts from when its question was sent: what it vouches
 * for is the state of the database at that moment or later, however long the answer took.
 */
export function startHeartbeat(options: {
  readonly probe: () => Promise<unknown>
  readonly beforeProbe: () => void
  readonly onFailure: (error: unknown) => void
}): Heartbeat {
  let heardAt = Number.NEGATIVE_INFINITY
  let stopped = false
  let timer: NodeJS.Timeout | undefined

  const beat = async () => {
    const sentAt = performance.now()
    options.beforeProbe()
    await options.probe()
    heardAt = sentAt
  }

  const schedule = () => {
    if (stopped) return
    timer = setTimeout(() => {
      beat().catch(options.onFailure).finally(schedule)
    }, INTERVAL_MS)
    timer.unref()
  }

  const first = async () => {
    const giveUpAt = performance.now() + STARTING_UP_MS
    for (;;) {
      try {
        await beat()
        return
      } catch (error) {
        const startingUp = (error as { code?: unknown } | undefined)?.code === CANNOT_CONNECT_NOW
        if (!startingUp || performance.now() > giveUpAt) throw error
        await new Promise((resolve) => setTimeout(resolve, STARTING_UP_RETRY_MS))
      }
    }
  }

  return {
    first: first().then(schedule),
    lastHeardAt: () => heardAt,
    isFresh: () => performance.now() - heardAt <= FRESH_FOR_MS,
    stop() {
      stopped = true
      clearTimeout(timer)
    },
  }
}
