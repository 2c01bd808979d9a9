import { z } from '@hono/zod-openapi'
import type { Person } from '../../core/caller.ts'
import { BrokerError } from '../../core/errors.ts'
import type { ActivityPage } from '../../core/ports/activity-store.ts'
import { encodeActivityCursor } from '../activity-cursor.ts'
import { activityRecord, activityRecordJson } from '../activity-json.ts'
import { type ActivityQuery, activityQuery, parseActivityQuery } from '../activity-query.ts'
import type { HttpContext } from '../http-env.ts'
import type { Routes } from '../routing.ts'
import type { HttpServices } from '../services.ts'
import { isUuid } from '../uuid.ts'

const page = z
  .object({
    items: z.array(activityRecord),
    next_cursor: z.string().nullable().describe('`cursor` of the next page; null on the last'),
  })
  .openapi('ActivityPage')

const success = {
  status: 200,
  description: 'Records, newest first.',
  content: { type: 'application/json', schema: page },
} as const

/** The activity log: everybody's, for who may read it, and one's own. */
export function addActivityRoutes(routes: Routes, services: Pick<HttpServices, 'activity'>): void {
  const { activity } = services

  routes.add(
    {
      method: 'get',
      path: '/api/v1/activity',
      caller: 'activity_reader',
      operation: {
        tag: 'Activity',
        summary: 'Who used what',
        query: activityQuery,
        success,
        refusals: [],
      },
    },
    async (c) => {
      const { filter, limit, after } = queryOf(c)
      return c.json(pageJson(await activity.page(filter, limit, after)))
    },
  )

  routes.add(
    {
      method: 'get',
      path: '/api/v1/activity/{id}',
      caller: 'activity_reader',
      operation: {
        tag: 'Activity',
        summary: 'One record',
        params: z.object({ id: z.uuid() }),
        success: {
          status: 200,
          description: 'The record.',
          content: { type: 'application/json', schema: activityRecord },
        },
        refusals: ['not_found'],
      },
    },
    async (c) => {
      const id = c.req.param('id') ?? ''
      const found = isUuid(id) ? await activity.find(id.toLowerCase()) : undefined
      if (found === undefined) throw new BrokerError('not_found')
      return c.json(activityRecordJson(found))
    },
  )

  routes.add(
    {
      method: 'get',
      path: '/api/v1/me/activity',
      caller: 'person',
      operation: {
        tag: 'Activity',
        summary: 'What was done with my credentials',
        description: 'A filter by person narrows this as any other does: nobody else is found.',
        query: activityQuery,
        success,
        refusals: [],
      },
    },
    async (c, { person }) => {
      const query = queryOf(c)
      if (!asksAbout(query, person)) return c.json(pageJson({ records: [], next: undefined }))
      const own = { ...query.filter, userId: [person.userId], issuer: [person.issuer] }
      return c.json(pageJson(await activity.page(own, query.limit, query.after)))
    },
  )
}

function queryOf(c: HttpContext): ActivityQuery {
  return parseActivityQuery(new URL(c.req.url).searchParams)
}

function asksAbout({ filter }: ActivityQuery, person: Person): boolean {
  const { userId, issuer } = filter
  return (
    (userId === undefined || userId.includes(person.userId)) &&
    (issuer === undefined || issuer.includes(person.issuer))
  )
}

function pageJson({ records, next }: ActivityPage): z.input<typeof page> {
  return {
    items: records.map(activityRecordJson),
    next_cursor: next === undefined ? null : encodeActivityCursor(next),
  }
}
