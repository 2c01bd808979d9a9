import { performance } from 'node:perf_hooks'
import type { Clock } from '../core/ports/clock.ts'

/** A statement is on its way for no longer than this; what an answer took beyond it, the statement waited for. */
const longestWayMs = 25

/**
 * The database's clock, as far as it can be known here: what it last said, and what has passed since on a clock that nobody sets.
 * Replicas whose own clocks are minutes apart agree by it on when a credential ends. Before the database has said anything it is
 * this machine's.
 *
 * An answer says the time to within what it took: on a busy machine a statement may be on its way for seconds. One that is slower
 * than what is known counts only where it shows that to be wrong.
 */
export function createDatabaseClock(
  ports: { readonly monotonicMs: () => number; readonly wallMs: () => number } = {
    monotonicMs: () => performance.now(),
    wallMs: () => Date.now(),
  },
): Clock & {
  /** What the database answered to a statement that was sent then. */
  readonly heard: (answer: { readonly sentAtMs: number; readonly now: Date }) => void
} {
  const { monotonicMs, wallMs } = ports
  let aheadMs: number | undefined
  let knownWithinMs = 0
  return {
    now: () => new Date(aheadMs === undefined ? wallMs() : monotonicMs() + aheadMs),
    heard({ sentAtMs, now }) {
      const tookMs = monotonicMs() - sentAtMs
      const mostAheadMs = now.getTime() - sentAtMs
      const fits =
        aheadMs !== undefined && aheadMs <= mostAheadMs && aheadMs >= mostAheadMs - tookMs
      if (fits && tookMs > Math.max(2 * longestWayMs, knownWithinMs)) return
      aheadMs = mostAheadMs - Math.min(longestWayMs, tookMs / 2)
      knownWithinMs = tookMs
    },
  }
}
