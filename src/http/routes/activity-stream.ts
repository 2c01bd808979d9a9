import { z } from '@hono/zod-openapi'
import { fitsFilter } from '../../core/activity-filter.ts'
import type { Following } from '../../core/activity-feed.ts'
import { BrokerError, isBrokerError } from '../../core/errors.ts'
import type { ActivityFilter } from '../../core/ports/activity-store.ts'
import { activityRecordJson } from '../activity-json.ts'
import { activityFilterQuery, parseActivityFilter } from '../activity-query.ts'
import { refuseHead, type Routes } from '../routing.ts'
import type { HttpServices } from '../services.ts'

/** Proxies close what says nothing for long. */
const COMMENT_MS = 15_000
/** How often it is looked whether the caller may still read. */
const RECHECK_MS = 5000
/** An identity provider or a database that is away for longer than this leaves a right unproven. */
const UNPROVEN_MS = 60_000

/** Server-sent events (HTML, "Server-sent events"): the activity log as it comes in. */
export function addActivityStreamRoute(
  routes: Routes,
  { activityFeed }: Pick<HttpServices, 'activityFeed'>,
): void {
  routes.add(
    {
      method: 'get',
      path: '/api/v1/activity/stream',
      caller: 'activity_reader',
      operation: {
        tag: 'Activity',
        summary: 'Records as they come in',
        description:
          'Server-sent events: `id` is that of the record, `event` is `activity`, `data` is the record. With `Last-Event-ID` it goes on behind that record, which must have come in within the last hour; the last seconds may be repeated.',
        headers: z.object({ 'last-event-id': z.uuid().optional() }),
        query: activityFilterQuery,
        success: {
          status: 200,
          description: 'Events, until the right to read them ends.',
          content: { type: 'text/event-stream', schema: z.string() },
        },
        refusals: ['invalid_request'],
      },
    },
    async (c, _caller, stillMayCall) => {
      refuseHead(c)
      const filter = parseActivityFilter(new URL(c.req.url).searchParams)
      const following = await activityFeed.follow(lastEventId(c.req.header('last-event-id')))
      if (following === undefined) throw unknownEvent()
      return c.body(eventsOf(following, filter, stillMayCall), 200, {
        'content-type': 'text/event-stream',
        // nginx would keep events until its buffer is full.
        'x-accel-buffering': 'no',
      })
    },
  )
}

const uuid = /^[\da-f]{8}(?:-[\da-f]{4}){3}-[\da-f]{12}$/i

/** An `EventSource` that has had no event yet sends an empty one, or none. */
function lastEventId(sent: string | undefined): string | undefined {
  if (sent === undefined || sent === '') return undefined
  if (!uuid.test(sent)) throw unknownEvent()
  return sent.toLowerCase()
}

function unknownEvent(): BrokerError {
  return new BrokerError('invalid_request', {
    field: 'Last-Event-ID',
    expectation: 'The id of a record that came in within the last hour.',
  })
}

function eventsOf(
  following: Following,
  filter: ActivityFilter,
  stillMayCall: () => Promise<unknown>,
): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder()
  let quietMs = 0
  let provenAt = performance.now()
  let checkedAt = provenAt
  let begun = false

  async function mayRead(): Promise<boolean> {
    const now = performance.now()
    if (now - checkedAt < RECHECK_MS) return true
    checkedAt = now
    try {
      await stillMayCall()
      provenAt = now
      return true
    } catch (error) {
      const isRefused = isBrokerError(error, 'unauthenticated', 'forbidden', 'insufficient_scope')
      return !isRefused && now - provenAt < UNPROVEN_MS
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
      const records = await following.next(Math.min(RECHECK_MS, COMMENT_MS - quietMs))
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
      if (quietMs >= COMMENT_MS - 1) {
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
