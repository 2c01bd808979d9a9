import type { ActivityFeedRecords, ArrivedBatch, FeedMark } from './ports/activity-feed-records.ts'
import type { ActivityRecord } from './ports/activity-store.ts'
import type { Timer } from './ports/timer.ts'

/** The activity log as it comes in, for everybody who follows it in this process. */
export interface ActivityFeed {
  /**
   * Follows it, from now on or, given the id of a record, from some seconds before that record came in: nothing is left out then,
   * and some of it may come twice. Gives undefined for a record that is unknown or came in more than an hour ago.
   * @throws BrokerError storage_unavailable
   */
  follow(after: string | undefined): Promise<Following | undefined>

  /** Ends every following. */
  stop(): void
}

export type Following = {
  /**
   * What came in next, together; an empty list after `ms` without any. Undefined at the end: it was ended, or its reader is so
   * far behind that it had better come back with the last id it has.
   */
  next(ms: number): Promise<readonly ActivityRecord[] | undefined>
  end(): void
}

/** Of a reader that does not keep up: about 10 MB, and the same records are shared by all that wait. */
const mostWaiting = 20_000
/** Longer than a statement takes that stores a batch: one that began before another's end began no earlier. */
const overlapMs = 10_000
const batchesAtOnce = 100

type Follower = {
  /** Batches that have come in and were not taken yet. */
  readonly arrived: { readonly id: number; readonly records: readonly ActivityRecord[] }[]
  waiting: number
  wake: () => void
  ended: boolean
}

/** One question a second for all who follow, none while nobody does. */
export function createActivityFeed(ports: {
  readonly records: ActivityFeedRecords
  readonly timer: Timer
  readonly pollMs: number
}): ActivityFeed {
  const { records, timer, pollMs } = ports
  const followers = new Set<Follower>()
  /** Undefined while nobody follows. */
  let mark: FeedMark | undefined
  /** Batches behind the mark that were handed on. */
  let handedOn = new Set<number>()
  let polling: Promise<void> = Promise.resolve()
  let cancelTimer = () => {}
  let stopped = false

  /** One after the other, however many ask for it. */
  function poll(): Promise<void> {
    polling = polling.then(pollOnce, pollOnce)
    return polling
  }

  async function pollOnce(): Promise<void> {
    const isFirst = mark === undefined
    mark ??= await records.now()
    const arrived = await records.since(mark)
    for (const batch of arrived.batches) {
      if (handedOn.has(batch.id)) continue
      if (!isFirst && followers.size > 0) handOn(batch.id, await records.records(batch))
      handedOn.add(batch.id)
    }
    mark = arrived.mark
    handedOn = new Set(arrived.again)
  }

  function handOn(id: number, of: readonly ActivityRecord[]): void {
    for (const follower of followers) {
      follower.arrived.push({ id, records: of })
      follower.waiting += of.length
      if (follower.waiting > mostWaiting) end(follower)
      follower.wake()
    }
  }

  function keepPolling(): void {
    cancelTimer()
    cancelTimer = timer.after(pollMs, () => {
      if (followers.size === 0) {
        mark = undefined
        handedOn = new Set()
        return
      }
      // A database that is away comes back; until then nothing is missed, because the mark stays.
      void poll().then(keepPolling, keepPolling)
    })
  }

  function end(follower: Follower): void {
    follower.ended = true
    follower.arrived.length = 0
    followers.delete(follower)
    follower.wake()
  }

  async function join(): Promise<Follower> {
    // What came in until now was there before: it is nobody's news.
    await poll()
    const follower: Follower = { arrived: [], waiting: 0, wake: () => {}, ended: stopped }
    if (stopped) return follower
    followers.add(follower)
    if (followers.size === 1) keepPolling()
    return follower
  }

  async function take(
    follower: Follower,
    ms: number,
  ): Promise<readonly ActivityRecord[] | undefined> {
    if (follower.arrived.length === 0 && !follower.ended) {
      await new Promise<void>((resolve) => {
        const cancel = timer.after(ms, resolve)
        follower.wake = () => {
          cancel()
          resolve()
        }
      })
    }
    if (follower.ended) return undefined
    const taken = follower.arrived.splice(0)
    follower.waiting = 0
    return taken.flatMap((batch) => batch.records)
  }

  async function* backlog(
    start: { readonly arrivedAt: Date; readonly now: Date },
    had: Set<number>,
  ) {
    const from = new Date(start.arrivedAt.getTime() - overlapMs)
    const unsettled = new Date(start.now.getTime() - overlapMs)
    let after = 0
    for (;;) {
      const batches: readonly ArrivedBatch[] = await records.from(from, after, batchesAtOnce)
      for (const batch of batches) {
        yield await records.records(batch)
        if (batch.arrivedAt >= unsettled) had.add(batch.id)
      }
      after = batches.at(-1)?.id ?? after
      if (batches.length < batchesAtOnce) return unsettled
    }
  }

  function resumed(start: { readonly arrivedAt: Date; readonly now: Date }): Following {
    const had = new Set<number>()
    const past = backlog(start, had)
    let live: Follower | undefined
    let late: ArrivedBatch[] = []
    let ended = false

    async function next(ms: number): Promise<readonly ActivityRecord[] | undefined> {
      if (ended) return undefined
      if (live === undefined) {
        const step = await past.next()
        if (step.done !== true) return step.value
        live = await join()
        if (ended) end(live)
        // Batches with an earlier number that came to be seen while the later ones were read.
        late = (await everyBatch(step.value)).filter(({ id }) => !had.has(id))
      }
      const batch = late.shift()
      if (batch !== undefined) {
        had.add(batch.id)
        return records.records(batch)
      }
      // The first that are taken may be among what was read.
      live.arrived.splice(0, live.arrived.length, ...live.arrived.filter(({ id }) => !had.has(id)))
      return take(live, ms)
    }

    return {
      next,
      end() {
        ended = true
        if (live !== undefined) end(live)
      },
    }
  }

  async function everyBatch(from: Date): Promise<readonly ArrivedBatch[]> {
    const found: ArrivedBatch[] = []
    for (;;) {
      const batches = await records.from(from, found.at(-1)?.id ?? 0, batchesAtOnce)
      found.push(...batches)
      if (batches.length < batchesAtOnce) return found
    }
  }

  return {
    async follow(after) {
      if (after !== undefined) {
        const start = await records.arrivalOf(after)
        return start === undefined ? undefined : resumed(start)
      }
      const follower = await join()
      return { next: (ms) => take(follower, ms), end: () => end(follower) }
    },

    stop() {
      stopped = true
      cancelTimer()
      for (const follower of followers) end(follower)
    },
  }
}
