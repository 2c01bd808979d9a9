import pLimit, { type LimitFunction } from 'p-limit'
import { type ErrorCode, isBrokerError } from './errors.ts'
import type { Clock } from './ports/clock.ts'
import type { AheadTerms, DueRenewal, DueRenewals } from './ports/due-renewals.ts'
import type { Timer } from './ports/timer.ts'
import type { TokenEndpoints } from './token-endpoints.ts'
import { bindingOf, isExchanged, type Upstream } from './upstream.ts'

/**
 * Renews connections in use shortly before their credential ends, so that no call waits for it. Idle ones are left to their next
 * use.
 *
 * What is due is in the database: a restart forgets nothing, and replicas take turns, because a row that one of them took is
 * given to no other for a while. Each token endpoint has a budget of its own, so that one which hangs keeps no other waiting,
 * and thousands of credentials that end in the same second are a queue and not a flood.
 */
export interface BackgroundRenewals {
  start(): void
  /** Begins nothing more. Resolves when what is under way has ended. */
  stop(): Promise<void>
}

/** Requests to one token endpoint that this replica begins in a second, and has open, at most. */
export const startsPerSecond = 50
const openRequests = 20

const lookEveryMs = 5000
/** Credentials that end in the same second are spread over so much. */
const jitterMs = 1000
/** Time mends these: another replica, or a later look, tries again soon. */
const passing: readonly ErrorCode[] = [
  'audit_unavailable',
  'issuer_unavailable',
  'storage_unavailable',
  'upstream_unavailable',
]
/** A refusal that time alone does not mend: the next use of the connection tries again. */
const postponedSeconds = 15 * 60

/** What one token endpoint has to do. */
type Queue = {
  readonly limit: LimitFunction
  /** When the next one may begin. */
  freeFromMs: number
}

export function createBackgroundRenewals(ports: {
  readonly upstreams: ReadonlyMap<string, Upstream>
  readonly tokenEndpoints: Pick<TokenEndpoints, 'of'>
  /** Sign-ins leave tokens for exchanges. */
  readonly storesSubjectTokens: boolean
  readonly due: DueRenewals
  /**
   * Renews it where it still has that generation.
   * @throws BrokerError upstream_unavailable, storage_unavailable, audit_unavailable or issuer_unavailable where time mends it; others
   * where it does not
   */
  readonly renew: (renewal: DueRenewal, upstream: Upstream) => Promise<void>
  readonly clock: Clock
  readonly timer: Timer
  /** From 0 to 1. */
  readonly random: () => number
}): BackgroundRenewals {
  const { upstreams, tokenEndpoints, storesSubjectTokens, due, renew } = ports
  const { clock, timer, random } = ports
  const queues = new Map<string, Queue>()
  const waiting = new Set<() => void>()
  const underWay = new Set<Promise<void>>()
  let stopped = true

  const nowMs = () => clock.now().getTime()

  function queueOf(upstream: Upstream): Queue {
    const endpoint = tokenEndpoints.of(upstream)
    const known = queues.get(endpoint)
    if (known !== undefined) return known
    const queue: Queue = { limit: pLimit(openRequests), freeFromMs: 0 }
    queues.set(endpoint, queue)
    return queue
  }

  function later(ms: number, run: () => void): void {
    const cancel = timer.after(ms, () => {
      waiting.delete(cancel)
      run()
    })
    waiting.add(cancel)
  }

  function track(work: Promise<void>): void {
    const tracked = work.finally(() => underWay.delete(tracked))
    underWay.add(tracked)
  }

  function lookLater(ms: number): void {
    later(ms, () => {
      // So that replicas which were started together do not ask together for good.
      const nextMs = lookEveryMs * (0.75 + random() / 2)
      const look = takeDue(nextMs).catch(() => {
        // The database is away: the next look finds what was due by now.
      })
      track(look.then(() => (stopped ? undefined : lookLater(nextMs))))
    })
  }

  async function takeDue(withinMs: number): Promise<void> {
    const untilMs = nowMs() + withinMs
    const terms = [...upstreams.values()]
      .map((upstream) => termsOf(upstream, untilMs))
      .filter(({ limit }) => limit > 0)
    if (terms.length === 0) return
    const renewals = await due.take(terms, withinMs / 1000)
    const soonestFirst = renewals.toSorted((a, b) => a.dueInSeconds - b.dueInSeconds)
    for (const renewal of soonestFirst) plan(renewal)
  }

  /** No more than its token endpoint takes until the next look; the others are for replicas with less to do. */
  function termsOf(upstream: Upstream, untilMs: number): AheadTerms {
    const { name, credential } = upstream
    const queue = queueOf(upstream)
    const freeMs = untilMs - Math.max(nowMs(), queue.freeFromMs)
    const room = Math.floor((freeMs / 1000) * startsPerSecond) - queue.limit.pendingCount
    return {
      upstream: name,
      binding: bindingOf(credential),
      refreshBeforeSeconds: credential.refreshBeforeSeconds,
      usesSignInTokens: storesSubjectTokens && isExchanged(upstream),
      limit: Math.max(0, room),
    }
  }

  function plan(renewal: DueRenewal): void {
    const upstream = upstreams.get(renewal.upstream)
    if (upstream === undefined) return
    const queue = queueOf(upstream)
    const dueMs = nowMs() + Math.max(0, renewal.dueInSeconds * 1000 + random() * jitterMs)
    const startMs = Math.max(dueMs, queue.freeFromMs)
    queue.freeFromMs = startMs + 1000 / startsPerSecond
    later(startMs - nowMs(), () => track(begin(queue, renewal, upstream)))
  }

  async function begin(queue: Queue, renewal: DueRenewal, upstream: Upstream): Promise<void> {
    await queue.limit(async () => {
      if (!stopped) await attempt(renewal, upstream)
    })
  }

  async function attempt(renewal: DueRenewal, upstream: Upstream): Promise<void> {
    try {
      await renew(renewal, upstream)
    } catch (error) {
      if (isBrokerError(error, ...passing)) return
      // Not said again: the renewal has its record.
      await due.postpone(renewal, postponedSeconds).catch(() => {})
    }
  }

  return {
    start() {
      stopped = false
      lookLater(random() * jitterMs)
    },
    async stop() {
      stopped = true
      for (const cancel of waiting) cancel()
      waiting.clear()
      while (underWay.size > 0) await Promise.allSettled(underWay)
    },
  }
}
