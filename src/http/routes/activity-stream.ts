import { z } from '@hono/zod-openapi'
import { BrokerError } from '../../core/errors.ts'
import { activityEvents } from '../activity-events.ts'
import { activityFilterQuery, parseActivityFilter } from '../activity-query.ts'
import type { Routes } from '../routing.ts'
import type { HttpServices } from '../services.ts'
import { isUuid } from '../uuid.ts'

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
      getOnly: true,
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
        refusals: [],
      },
    },
    async (c, _caller, stillMayCall) => {
      const filter = parseActivityFilter(new URL(c.req.url).searchParams)
      const following = await activityFeed.follow(lastEventId(c.req.header('last-event-id')))
      if (following === undefined) throw unknownEvent()
      return c.body(activityEvents({ following, filter, stillMayCall }), 200, {
        'content-type': 'text/event-stream',
        // nginx would keep events until its buffer is full.
        'x-accel-buffering': 'no',
      })
    },
  )
}

/** An `EventSource` that has had no event yet sends an empty one, or none. */
function lastEventId(sent: string | undefined): string | undefined {
  if (sent === undefined || sent === '') return undefined
  if (!isUuid(sent)) throw unknownEvent()
  return sent.toLowerCase()
}

function unknownEvent(): BrokerError {
  return new BrokerError('invalid_request', {
    field: 'Last-Event-ID',
    expectation: 'The id of a record that came in within the last hour.',
  })
}
