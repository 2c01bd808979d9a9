import { z } from '@hono/zod-openapi'
import { BrokerError, type ErrorCode } from '../core/errors.ts'
import type { Administrator, Callers, PersonCaller } from './callers.ts'
import type { HttpApp, HttpContext } from './http-env.ts'
import { problems } from './problem.ts'
import type { ActivityReader } from './services.ts'

/** Who may come through a door, and what its handler gets of them. `anyone` is the only one without proof. */
type CallerOf = {
  anyone: undefined
  person: PersonCaller
  activity_reader: ActivityReader
  admin: Administrator
  offboarder: Administrator
}

/**
 * A route of the API. It stands in the OpenAPI document by being added, and its handler cannot be reached without the caller
 * that it asks for.
 */
export type Route<Kind extends keyof CallerOf> = {
  readonly method: 'get' | 'post' | 'put' | 'delete'
  /** As OpenAPI writes it: `/api/v1/connections/{upstream}`. */
  readonly path: string
  readonly caller: Kind
  /** Its GET does something, so HEAD is refused. */
  readonly getOnly?: true
  readonly operation: Operation
}

/** What the OpenAPI document says of a route. */
export type Operation = {
  readonly tag:
    | 'Resolve'
    | 'Connections'
    | 'Activity'
    | 'Administration'
    | 'Discovery'
    | 'Operations'
  readonly summary: string
  readonly description?: string
  readonly params?: z.ZodObject
  readonly query?: z.ZodObject
  readonly headers?: z.ZodObject
  readonly body?: { readonly schema: z.ZodType; readonly required: boolean }
  readonly success: {
    readonly status: 200 | 201 | 204
    readonly description: string
    /** Absent where there is no body. */
    readonly content?: { readonly type: string; readonly schema: z.ZodType }
  }
  /** Besides those that every route of its kind of caller has. */
  readonly refusals: readonly ErrorCode[]
}

type Handler = (c: HttpContext) => Response | Promise<Response>

export type Routes = {
  add<Kind extends keyof CallerOf>(
    route: Route<Kind>,
    /** `again` finds the caller once more, for answers that take so long that a right may end meanwhile. */
    handler: (
      c: HttpContext,
      caller: CallerOf[Kind],
      again: () => Promise<CallerOf[Kind]>,
    ) => Response | Promise<Response>,
  ): void
}

export function createRoutes(app: HttpApp, callers: Callers): Routes {
  const findCaller: {
    [Kind in keyof CallerOf]: (c: HttpContext) => CallerOf[Kind] | Promise<CallerOf[Kind]>
  } = {
    anyone: () => undefined,
    person: callers.person,
    activity_reader: callers.activityReader,
    admin: callers.admin,
    offboarder: callers.offboarder,
  }

  return {
    add(route, handler) {
      describeRoute(app, route)
      const answer: Handler = async (c) => {
        const find = async () => findCaller[route.caller](c)
        const caller = await find()
        if (route.getOnly === true) refuseHead(app, c)
        return handler(c, caller, find)
      }
      if (route.getOnly === true) getOnly.add(answer)
      app.on(route.method, routingPath(route.path), answer)
    },
  }
}

/** Puts a route into the OpenAPI document. */
export function describeRoute(
  app: HttpApp,
  route: {
    readonly method: Route<'anyone'>['method']
    readonly path: string
    readonly caller: keyof CallerOf | 'service'
    readonly operation: Operation
  },
): void {
  const { operation } = route
  const { success, params, query, headers, body } = operation
  app.openAPIRegistry.registerPath({
    method: route.method,
    path: route.path,
    tags: [operation.tag],
    summary: operation.summary,
    ...(operation.description === undefined ? {} : { description: operation.description }),
    security: securityOf[route.caller],
    request: {
      ...(params === undefined ? {} : { params }),
      ...(query === undefined ? {} : { query }),
      ...(headers === undefined ? {} : { headers }),
      ...(body === undefined
        ? {}
        : {
            body: {
              required: body.required,
              content: { 'application/json': { schema: body.schema } },
            },
          }),
    },
    responses: {
      [success.status]: {
        description: success.description,
        ...(success.content === undefined
          ? {}
          : { content: { [success.content.type]: { schema: success.content.schema } } }),
      },
      ...refusalAnswers([...refusalsOf[route.caller], ...operation.refusals]),
    },
  })
}

const securityOf: Record<keyof CallerOf | 'service', Record<string, string[]>[]> = {
  anyone: [],
  person: [{ personToken: [] }, { session: [] }],
  activity_reader: [{ personToken: [] }, { session: [] }, { serviceKey: [] }],
  admin: [{ personToken: [] }, { session: [] }],
  offboarder: [{ personToken: [] }, { session: [] }, { serviceKey: [] }],
  service: [{ serviceKey: [] }],
}

const personRefusals = [
  // A token in the query, or a head that can be read in two ways.
  'invalid_request',
  'unauthenticated',
  'insufficient_scope',
  'issuer_unavailable',
  'storage_unavailable',
  'internal_error',
] as const

const refusalsOf: Record<keyof CallerOf | 'service', readonly ErrorCode[]> = {
  anyone: ['internal_error'],
  person: personRefusals,
  activity_reader: [...personRefusals, 'forbidden'],
  admin: [...personRefusals, 'forbidden'],
  offboarder: [...personRefusals, 'forbidden'],
  service: ['unauthenticated', 'internal_error'],
}

/** An error as it is written: RFC 9457 `application/problem+json`. */
const problemSchema = z
  .object({
    type: z.string().describe('Where this code is explained'),
    title: z.string(),
    status: z.int(),
    code: z.enum(Object.keys(problems) as [ErrorCode, ...ErrorCode[]]),
    request_id: z.uuid(),
    detail: z.string().optional(),
    field: z.string().optional().describe('The field at fault, with `invalid_request`'),
    reason: z.string().optional().describe('Why the person must connect, with `connect_required`'),
    connect_url: z.string().optional().describe('Where the person connects'),
  })
  .openapi('Problem')

function refusalAnswers(codes: readonly ErrorCode[]) {
  const byStatus = new Map<number, ErrorCode[]>()
  for (const code of codes) {
    const { status } = problems[code]
    byStatus.set(status, [...(byStatus.get(status) ?? []), code])
  }
  return Object.fromEntries(
    [...byStatus].map(([status, of]) => [
      status,
      {
        description: [...new Set(of)].map((code) => `\`${code}\``).join(', '),
        content: { 'application/problem+json': { schema: problemSchema } },
      },
    ]),
  )
}

/** `/a/{b}` as Hono writes it: `/a/:b`. */
function routingPath(path: string): string {
  return path.replaceAll(/\/\{(\w+)\}/g, '/:$1')
}

const routedMethods = ['GET', 'POST', 'PUT', 'DELETE'] as const

/** Handlers of routes whose GET does something: a link scanner's HEAD must not begin or end a flow. */
const getOnly = new WeakSet<object>()

/** A route that refuses HEAD, which elsewhere comes with GET. */
export function addGetOnly(app: HttpApp, path: string, answer: Handler): void {
  const handler: Handler = (c) => {
    refuseHead(app, c)
    return answer(c)
  }
  getOnly.add(handler)
  app.get(path, handler)
}

function refuseHead(app: HttpApp, c: HttpContext): void {
  if (c.req.method === 'GET') return
  throw new BrokerError('method_not_allowed', { allowedMethods: methodsAt(app, c.req.path) })
}

/** The methods that a path takes, for `Allow`; empty where there is no such path. HEAD comes with GET, unless its route refuses it. */
export function methodsAt(app: HttpApp, path: string): readonly string[] {
  return routedMethods.flatMap((method) => {
    const matched = app.router.match(method, path)[0].map(([[, route]]) => route)
    // The first answers: a fixed path stands before the parameter that would match it.
    const answering = matched.find((route) => route.method === method)
    if (answering === undefined) return []
    return method === 'GET' && !getOnly.has(answering.handler) ? ['GET', 'HEAD'] : [method]
  })
}
