import { fitsFilter } from '../core/activity-filter.ts'
import type { Following } from '../core/activity-feed.ts'
import { isBrokerError } from '../core/errors.ts'
import type { ActivityFilter } from '../core/ports/activity-store.ts'
import { activityRecordJson } from './activity-json.ts'

/** What is fixed, and shorter in tests. */
export type EventTimings = {
  /** Proxies close what says nothing for long. */
  readonly commentMs: number
  /** How often it is looked whether the caller may still read. */
  readonly recheckMs: number
  /** An identity provider or a database that is away for longer than this leaves a right unproven. */
  readonly unprovenMs: number
}

const fixedTimings: EventTimings = { commentMs: 15_000, recheckMs: 5000, unprovenMs: 60_000 }

/**
 * Server-sent events of what is followed, as long as its reader may read: `stillMayCall` throws a refusal when it may not any more.
 * Asks for more only when what it gave was taken.
 */
export function activityEvents(options: {
  readonly following: Following
  readonly filter: ActivityFilter
  readonly stillMayCall: () => Promise<unknown>
  readonly timings?: EventTimings
}): ReadableStream<Uint8Array> {
  const { following, filter, stillMayCall } = options
  const { commentMs, recheckMs, unprovenMs } = options.timings ?? fixedTimings
  const encoder = new TextEncoder()
  let quietMs = 0
  let provenAt = performance.now()
  let checkedAt = provenAt
  let begun = false

  async function mayRead(): Promise<boolean> {
    const now = performance.now()
    if (now - checkedAt < recheckMs) return true
    checkedAt = now
    try {
      await stillMayCall()
      provenAt = now
      return true
    } catch (error) {
      const isRefused = isBrokerError(error, 'unauthenticated', 'forbidden', 'insufficient_scope')
      return !isRefused && now - provenAt < unprovenMs
    }
  }

  /** The text to send next; undefined at the end. */
  async function next(): Promise<string | undefined> {
    if (!begun) {
      begun = true
      // So that the head of the answer leaves, and a client knows that it is heard.
      return ': follows\n\n'
    }
    for (;;) {
      const asked = performance.now()
      const records = await following.next(Math.min(recheckMs, commentMs - quietMs))
      if (records === undefined || !(await mayRead())) return undefined
      const text = records
        .filter((record) => fitsFilter(record, filter))
        .map(
          (record) =>
            `id: ${record.id}\nevent: activity\ndata: ${JSON.stringify(activityRecordJson(record))}\n\n`,
        )
        .join('')
      quietMs = text === '' ? quietMs + (performance.now() - asked) : 0
      if (text !== '') return text
      if (quietMs >= commentMs - 1) {
        quietMs = 0
        return ': still there\n\n'
      }
    }
  }

  return new ReadableStream(
    {
      async pull(controller) {
        const text = await next().catch((error: unknown) => {
          following.end()
          throw error
        })
        if (text !== undefined) {
          controller.enqueue(encoder.encode(text))
          return
        }
        following.end()
        controller.close()
      },
      cancel: () => following.end(),
    },
    { highWaterMark: 0 },
  )
}
