import { performance } from 'node:perf_hooks'
import { sqlStates } from './sql-states.ts'

export type Heartbeat = {
  /** Settles with the first beat; rejects as it did. */
  readonly first: Promise<void>
  /** Beats at once, or once more right after the beat that is under way. */
  readonly beatNow: () => void
  /** No beat begins after it. */
  readonly stop: () => void
}

/** How long a database that is starting up is waited for. */
const startingUpMs = 10_000
const startingUpRetryMs = 250

/** Asks the database again and again whether it is there. One question at a time. */
export function startHeartbeat(options: {
  readonly everyMs: number
  /** `again`: its answer is to be followed by another at once. */
  readonly beat: () => Promise<'again' | 'later'>
  readonly onFailure: (error: unknown) => void
}): Heartbeat {
  const { everyMs, beat, onFailure } = options
  let stopped = false
  let running = false
  let wanted = false
  let timer: NodeJS.Timeout | undefined

  function run(): void {
    clearTimeout(timer)
    running = true
    wanted = false
    beat()
      .then(
        (next) => {
          wanted ||= next === 'again'
        },
        (error: unknown) => onFailure(error),
      )
      .finally(() => {
        running = false
        schedule()
      })
  }

  function schedule(): void {
    if (stopped) return
    if (wanted) run()
    else timer = setTimeout(run, everyMs).unref()
  }

  const first = async () => {
    const giveUpAt = performance.now() + startingUpMs
    for (;;) {
      try {
        await beat()
        return
      } catch (error) {
        const startingUp =
          (error as { code?: unknown } | undefined)?.code === sqlStates.cannotConnectNow
        if (!startingUp || performance.now() > giveUpAt) throw error
        await new Promise((resolve) => setTimeout(resolve, startingUpRetryMs))
      }
    }
  }
  running = true

  return {
    first: first().then(() => {
      running = false
      schedule()
    }),
    beatNow() {
      wanted = true
      if (!running && !stopped) run()
    },
    stop() {
      stopped = true
      clearTimeout(timer)
    },
  }
}
