import { z } from '@hono/zod-openapi'
import {
  auditActions,
  auditMethods,
  auditOutcomes,
  auditReasons,
  auditTypes,
} from '../../core/audit-event.ts'
import type { Person } from '../../core/caller.ts'
import { BrokerError } from '../../core/errors.ts'
import type { ActivityPage, ActivityRecord } from '../../core/ports/activity-store.ts'
import { encodeActivityCursor } from '../activity-cursor.ts'
import { type ActivityQuery, activityQuery, parseActivityQuery } from '../activity-query.ts'
import type { HttpContext } from '../http-env.ts'
import type { Routes } from '../routing.ts'
import type { HttpServices } from '../services.ts'

const record = z
  .object({
    id: z.uuid(),
    occurred_at: z.iso.datetime(),
    request_id: z.uuid(),
    type: z.enum(auditTypes),
    user_id: z.string().nullable(),
    issuer: z.string().nullable(),
    actor: z.object({ kind: z.enum(['user', 'service', 'admin', 'system']), id: z.string() }),
    upstream: z.string().nullable(),
    action: z.enum(auditActions),
    method: z.enum(auditMethods),
    outcome: z.enum(auditOutcomes),
    reason: z.enum(auditReasons).nullable(),
    duration_ms: z.number(),
    details: z.object({ identity: z.enum(['token', 'asserted']).nullable().optional() }),
  })
  .openapi('ActivityRecord')

const page = z
  .object({
    items: z.array(record),
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
        refusals: ['invalid_request'],
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
          content: { type: 'application/json', schema: record },
        },
        refusals: ['not_found'],
      },
    },
    async (c) => {
      const id = c.req.param('id') ?? ''
      const found = uuid.test(id) ? await activity.find(id.toLowerCase()) : undefined
      if (found === undefined) throw new BrokerError('not_found')
      return c.json(recordJson(found))
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
        refusals: ['invalid_request'],
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

const uuid = /^[\da-f]{8}(?:-[\da-f]{4}){3}-[\da-f]{12}$/i

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
    items: records.map(recordJson),
    next_cursor: next === undefined ? null : encodeActivityCursor(next),
  }
}

function recordJson(found: ActivityRecord): z.input<typeof record> {
  return {
    id: found.id,
    occurred_at: found.occurredAt.toISOString(),
    request_id: found.requestId,
    type: found.type,
    user_id: found.userId,
    issuer: found.issuer,
    actor: { kind: found.actor.kind, id: found.actor.id },
    upstream: found.upstream,
    action: found.action,
    method: found.method,
    outcome: found.outcome,
    reason: found.reason,
    duration_ms: found.durationMs,
    details: detailsJson(found),
  }
}

/** Each type has its own fields; those of a type are always there, null without a value. */
function detailsJson({ type, details }: ActivityRecord): z.input<typeof record>['details'] {
  return type === 'credential_broker' ? { identity: details.identity ?? null } : details
}
