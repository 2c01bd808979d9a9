import { z } from '@hono/zod-openapi'
import { BrokerError } from '../../core/errors.ts'
import type { ConnectionView } from '../../core/ports/broker-services.ts'
import { isReturnTo } from '../../core/return-to.ts'
import { isConnectable } from '../../core/upstream.ts'
import { disconnectOwn } from '../disconnect-own.ts'
import { readJson } from '../request-body.ts'
import { readKey, requireKeyMode } from '../user-keys.ts'
import type { Routes } from '../routing.ts'
import type { HttpServices } from '../services.ts'
import { upstreamFor } from '../upstream-access.ts'

const instant = z.iso.datetime().nullable()

export const connectionStatuses = [
  'connected',
  'expired',
  'not_connected',
  'reconnect_required',
  'unavailable',
] as const

export const connection = z
  .object({
    upstream: z.string(),
    display_name: z.string(),
    mode: z.string().nullable().describe('Null where the upstream is configured no more'),
    status: z.enum(connectionStatuses),
    reason: z.string().nullable(),
    scopes: z.array(z.string()),
    audience: z.string().nullable(),
    method: z.string(),
    account: z.string().nullable().describe("The server's name for the person, where it says one"),
    expires_at: instant,
    connected_at: instant,
    last_used_at: instant,
    connect_path: z.string().nullable().describe('POST here to connect; null where nobody can'),
  })
  .openapi('Connection')

const connectionList = z.object({ connections: z.array(connection) }).openapi('Connections')

const connectBody = z
  .strictObject({
    return_to: z
      .string()
      .optional()
      .describe('A path of the broker or a URL of an origin in `return_to` of the configuration'),
  })
  .openapi('ConnectRequest')

const keyBody = z
  .strictObject({ key: z.string().describe('Printable ASCII, 8,192 characters at most') })
  .openapi('KeyRequest')

const connectAnswer = z
  .object({ connect_url: z.url(), expires_at: z.iso.datetime() })
  .openapi('ConnectLink')

const upstreamParameter = z.object({ upstream: z.string() })

/** A person's connections: list, look at, connect, store a key, disconnect. */
export function addConnectionRoutes(
  routes: Routes,
  services: Pick<
    HttpServices,
    'connections' | 'connector' | 'publicUrl' | 'returnTo' | 'upstreams'
  >,
): void {
  const { connections, connector, upstreams } = services
  const returnOrigins = [services.publicUrl, ...services.returnTo]

  routes.add(
    {
      method: 'get',
      path: '/api/v1/connections',
      caller: 'person',
      operation: {
        tag: 'Connections',
        summary: 'My connections',
        success: {
          status: 200,
          description:
            'Every upstream that I may use, and what I have left at those that are configured no more, sorted by name.',
          content: { type: 'application/json', schema: connectionList },
        },
        refusals: [],
      },
    },
    async (c, { person, presentsToken }) => {
      const views = await connections.list(person, presentsToken)
      return c.json({ connections: views.map(connectionJson) })
    },
  )

  routes.add(
    {
      method: 'get',
      path: '/api/v1/connections/{upstream}',
      caller: 'person',
      operation: {
        tag: 'Connections',
        summary: 'One of my connections',
        params: upstreamParameter,
        success: {
          status: 200,
          description: 'The connection.',
          content: { type: 'application/json', schema: connection },
        },
        refusals: ['unknown_upstream', 'policy_denied'],
      },
    },
    async (c, { person, presentsToken }) => {
      const name = c.req.param('upstream') ?? ''
      const leftOver = await connections.findUnconfigured(person, name)
      if (leftOver !== undefined) return c.json(connectionJson(leftOver))
      const upstream = upstreamFor(upstreams, name, person)
      return c.json(connectionJson(await connections.find(person, upstream, presentsToken)))
    },
  )

  routes.add(
    {
      method: 'post',
      path: '/api/v1/connections/{upstream}/connect',
      caller: 'person',
      operation: {
        tag: 'Connections',
        summary: 'Get a link that connects an upstream',
        params: upstreamParameter,
        body: { schema: connectBody, required: false },
        success: {
          status: 201,
          description: 'A link for one use, by me alone.',
          content: { type: 'application/json', schema: connectAnswer },
        },
        refusals: [
          'unknown_upstream',
          'policy_denied',
          'not_connectable',
          'upstream_misconfigured',
          'upstream_unavailable',
        ],
      },
    },
    async (c, { person }) => {
      const upstream = upstreamFor(upstreams, c.req.param('upstream'), person)
      if (!isConnectable(upstream)) throw new BrokerError('not_connectable')
      const returnTo = (await readJson(c, connectBody, {})).return_to
      if (returnTo !== undefined && !isReturnTo(returnTo, returnOrigins)) {
        throw new BrokerError('invalid_request', {
          field: 'return_to',
          expectation: 'A path of the broker, or a URL of an origin that the configuration lists.',
        })
      }
      const link = await connector.issueLink({ person, upstream, returnTo })
      return c.json({ connect_url: link.url, expires_at: link.expiresAt.toISOString() }, 201)
    },
  )

  routes.add(
    {
      method: 'put',
      path: '/api/v1/connections/{upstream}/key',
      caller: 'person',
      operation: {
        tag: 'Connections',
        summary: 'Store a key of my own',
        description: 'For upstreams of mode `user_key`. It replaces the one before.',
        params: upstreamParameter,
        body: { schema: keyBody, required: true },
        success: { status: 204, description: 'The key is stored, and used on every replica.' },
        refusals: ['unknown_upstream', 'policy_denied', 'not_connectable', 'audit_unavailable'],
      },
    },
    async (c, { person }) => {
      const upstream = upstreamFor(upstreams, c.req.param('upstream'), person)
      requireKeyMode(upstream)
      const { key } = await readJson(c, keyBody)
      await connections.storeKey({
        person,
        upstream,
        key: readKey(key),
        requestId: c.get('requestId'),
        startedAt: c.get('startedAt'),
      })
      return c.body(null, 204)
    },
  )

  routes.add(
    {
      method: 'delete',
      path: '/api/v1/connections/{upstream}',
      caller: 'person',
      operation: {
        tag: 'Connections',
        summary: 'Disconnect an upstream',
        params: upstreamParameter,
        success: { status: 204, description: 'There is no connection any more.' },
        refusals: ['unknown_upstream', 'policy_denied', 'audit_unavailable'],
      },
    },
    async (c, { person }) => {
      await disconnectOwn(c, person, services)
      return c.body(null, 204)
    },
  )
}

export function connectionJson(view: ConnectionView): z.input<typeof connection> {
  return {
    upstream: view.upstream,
    display_name: view.displayName,
    mode: view.mode,
    status: view.status,
    reason: view.reason,
    scopes: [...view.scopes],
    audience: view.audience,
    method: view.method,
    account: view.account,
    expires_at: timeJson(view.expiresAt),
    connected_at: timeJson(view.connectedAt),
    last_used_at: timeJson(view.lastUsedAt),
    connect_path: view.connectable ? `/api/v1/connections/${view.upstream}/connect` : null,
  }
}

function timeJson(at: Date | null): string | null {
  return at === null ? null : at.toISOString()
}
