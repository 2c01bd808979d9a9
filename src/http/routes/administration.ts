import { z } from '@hono/zod-openapi'
import { isPlainText, isUserId } from '../../core/caller.ts'
import { BrokerError } from '../../core/errors.ts'
import type { AdministeredConnection, UpstreamOverview } from '../../core/ports/administration.ts'
import type { HttpContext } from '../http-env.ts'
import { refuseRepeatedParameters } from '../page-routes.ts'
import { parseFields } from '../request-body.ts'
import type { Routes } from '../routing.ts'
import type { HttpServices } from '../services.ts'
import { connection, connectionJson, connectionStatuses } from './connections.ts'
import { streamOfPieces } from '../piece-stream.ts'

const administered = connection
  .extend({
    issuer: z.string(),
    user_id: z.string(),
  })
  .openapi('AdministeredConnection')

// What PostgreSQL cannot keep is in no row, and it takes no question about it.
const plain = z.string().min(1).refine(isPlainText)

const connectionQuery = z.strictObject({
  user_id: plain.optional().describe('Of people with this id, at whatever issuer'),
  upstream: plain.optional(),
  status: z.enum(connectionStatuses).optional(),
})

const counted = z.int().min(0)

const overview = z
  .object({
    upstream: z.string(),
    display_name: z.string(),
    url: z.string(),
    kind: z.enum(['mcp', 'http']),
    mode: z.string(),
    health: z
      .enum(['ok', 'failing', 'paused'])
      .describe(
        '`paused`: its authorization server said when it may be asked again. `failing`: renewals of some connections fail for now.',
      ),
    paused_until: z.iso.datetime().nullable(),
    connections: z.object({
      connected: counted,
      expired: counted,
      reconnect_required: counted,
      unavailable: counted,
    }),
    last_used_at: z.iso.datetime().nullable(),
  })
  .openapi('UpstreamOverview')

const person = z.object({ issuer: z.string(), user_id: z.string() })

/** Everybody's connections, for admins, and the end of a person's access. */
export function addAdministrationRoutes(
  routes: Routes,
  services: Pick<HttpServices, 'administration' | 'connections'>,
): void {
  const { administration, connections } = services

  routes.add(
    {
      method: 'get',
      path: '/api/v1/admin/connections',
      caller: 'admin',
      operation: {
        tag: 'Administration',
        summary: "Everybody's connections",
        description: 'Stored ones, by issuer, person and upstream.',
        query: connectionQuery,
        success: {
          status: 200,
          description: 'The connections, as a stream: it may be long.',
          content: {
            type: 'application/json',
            schema: z.object({ connections: z.array(administered) }),
          },
        },
        refusals: [],
      },
    },
    async (c) => {
      const query = new URL(c.req.url).searchParams
      refuseRepeatedParameters(query)
      const asked = parseFields(connectionQuery, Object.fromEntries(query))
      const pages = administration.connections({
        userId: asked.user_id,
        upstream: asked.upstream,
        status: asked.status,
      })
      return streamed(c, 'connections', pages, administeredJson)
    },
  )

  routes.add(
    {
      method: 'get',
      path: '/api/v1/admin/upstreams',
      caller: 'admin',
      operation: {
        tag: 'Administration',
        summary: 'Every upstream, how it does and how many are connected',
        success: {
          status: 200,
          description: 'The upstreams, sorted by name.',
          content: { type: 'application/json', schema: z.object({ upstreams: z.array(overview) }) },
        },
        refusals: [],
      },
    },
    async (c) => c.json({ upstreams: (await administration.upstreams()).map(overviewJson) }),
  )

  routes.add(
    {
      method: 'delete',
      path: '/api/v1/admin/users/{issuer}/{user_id}/connections',
      caller: 'offboarder',
      operation: {
        tag: 'Administration',
        summary: 'Offboard a person',
        description:
          'Ends their sessions, stored sign-in token, open connects and connections, and refuses every bearer issued to them until now and any assertion of them until a later bearer or sign-in. Both ids are percent-encoded.',
        params: person,
        success: { status: 204, description: 'True on every replica.' },
        refusals: ['audit_unavailable'],
      },
    },
    async (c, { actor }) => {
      const requestId = c.get('requestId')
      const startedAt = c.get('startedAt')
      await administration.offboard({ person: personOf(c), actor, requestId, startedAt })
      return c.body(null, 204)
    },
  )

  routes.add(
    {
      method: 'delete',
      path: '/api/v1/admin/users/{issuer}/{user_id}/connections/{upstream}',
      caller: 'admin',
      operation: {
        tag: 'Administration',
        summary: 'Disconnect a person from an upstream',
        params: person.extend({ upstream: z.string() }),
        success: { status: 204, description: 'There is no connection any more.' },
        refusals: ['unknown_upstream', 'audit_unavailable'],
      },
    },
    async (c, { actor }) => {
      await connections.disconnect({
        person: personOf(c),
        actor,
        upstream: c.req.param('upstream') ?? '',
        requestId: c.get('requestId'),
        startedAt: c.get('startedAt'),
      })
      return c.body(null, 204)
    },
  )
}

/** Of any issuer, configured or not: people of one that was taken out of the file may have left connections. */
function personOf(c: HttpContext): { readonly issuer: string; readonly userId: string } {
  const [sentIssuer, sentUserId] = new URL(c.req.url).pathname.split('/').slice(5, 7)
  const issuer = decoded(sentIssuer)
  const userId = decoded(sentUserId)
  if (!isPlainText(issuer)) throw invalidId('issuer')
  if (!isUserId(userId)) throw invalidId('user_id')
  return { issuer, userId }
}

/** By ourselves: the framework takes what is no UTF-8 as it stands, and who meant somebody else would read a 204 for nobody. */
function decoded(segment: string | undefined): string | undefined {
  try {
    return decodeURIComponent(segment ?? '')
  } catch {
    return undefined
  }
}

function invalidId(field: string): BrokerError {
  return new BrokerError('invalid_request', {
    field,
    expectation: 'One id, percent-encoded, without control characters.',
  })
}

function administeredJson(view: AdministeredConnection): z.input<typeof administered> {
  return { issuer: view.issuer, user_id: view.userId, ...connectionJson(view) }
}

function overviewJson(view: UpstreamOverview): z.input<typeof overview> {
  return {
    upstream: view.upstream,
    display_name: view.displayName,
    url: view.url,
    kind: view.kind,
    mode: view.mode,
    health: view.health,
    paused_until: view.pausedUntil?.toISOString() ?? null,
    connections: { ...view.connections },
    last_used_at: view.lastUsedAt?.toISOString() ?? null,
  }
}

/** `{"<name>":[…]}` piece by piece, so that no number of rows fills the memory. */
async function streamed<Row>(
  c: HttpContext,
  name: string,
  pages: AsyncIterable<readonly Row[]>,
  toJson: (row: Row) => object,
): Promise<Response> {
  const pieces = piecesOf(name, pages, toJson)
  const body = streamOfPieces(await pieces.next(), pieces)
  return c.body(body, 200, { 'content-type': 'application/json' })
}

async function* piecesOf<Row>(
  name: string,
  pages: AsyncIterable<readonly Row[]>,
  toJson: (row: Row) => object,
): AsyncGenerator<string, void> {
  let before = `{${JSON.stringify(name)}:[`
  for await (const page of pages) {
    if (page.length === 0) continue
    yield before + page.map((row) => JSON.stringify(toJson(row))).join(',')
    before = ','
  }
  yield before === ',' ? ']}' : `${before}]}`
}
