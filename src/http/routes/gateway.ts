import type { MiddlewareHandler } from 'hono'
import type { Person } from '../../core/caller.ts'
import { BrokerError, isBrokerError } from '../../core/errors.ts'
import type { GatewayCall } from '../../core/ports/gateway.ts'
import { Secret } from '../../core/secret.ts'
import type { Upstream } from '../../core/upstream.ts'
import { parseBearer, refuseQueryToken, sendsToken } from '../callers.ts'
import type { HttpApp, HttpContext, HttpEnv } from '../http-env.ts'
import type { HttpServices } from '../services.ts'
import { answerAsResponse, answerOnSocket, type StreamingAnswer } from '../streamed-answer.ts'

/**
 * The gateway's doors: who calls, from where, and for which upstream. What happens behind them is the gateway's room.
 *
 * Only a bearer opens them. A session cookie does not: any page that a browser shows could call an upstream with it.
 */
export function addGatewayRoutes(
  app: HttpApp,
  services: Pick<
    HttpServices,
    | 'allowedOrigins'
    | 'authenticator'
    | 'challenge'
    | 'gateway'
    | 'publicUrl'
    | 'refusals'
    | 'upstreams'
  >,
): void {
  const { allowedOrigins, authenticator, challenge, gateway, refusals, upstreams } = services
  const origins: ReadonlySet<string> = new Set([services.publicUrl, ...allowedOrigins])

  function upstreamAt(name: string | undefined, kind: Upstream['kind']): Upstream {
    const upstream = name === undefined ? undefined : upstreams.get(name)
    if (upstream?.kind !== kind) throw new BrokerError('unknown_upstream')
    return upstream
  }

  /** @throws BrokerError unauthenticated, insufficient_scope: with the challenge of this very upstream */
  async function personAt(
    c: HttpContext,
    upstream: Upstream,
  ): Promise<{ readonly person: Person; readonly bearer: Secret }> {
    const header = c.req.header('authorization')
    refuseQueryToken(c.req.url, header !== undefined)
    const refused = (
      error: 'invalid_token' | 'insufficient_scope' | undefined,
      scopes: readonly string[],
    ) => challenge({ error, scopes }, { kind: 'upstream', upstream })
    const token = header === undefined ? undefined : parseBearer(header)
    if (token === undefined || authenticator.findService(token) !== undefined) {
      const error = sendsToken(header) ? 'invalid_token' : undefined
      throw new BrokerError('unauthenticated', { challenge: refused(error, []) })
    }
    try {
      const person = await authenticator.verifyBearer(token, { kind: 'upstream', upstream })
      return { person, bearer: new Secret(token) }
    } catch (error) {
      if (isBrokerError(error, 'unauthenticated')) {
        const details = { challenge: refused('invalid_token', []), cause: error }
        throw new BrokerError('unauthenticated', details)
      }
      if (isBrokerError(error, 'insufficient_scope')) {
        const details = {
          challenge: refused('insufficient_scope', error.details.scopes ?? []),
          cause: error,
        }
        throw new BrokerError('insufficient_scope', details)
      }
      throw error
    }
  }

  /** A page of another origin has no business here, whatever it knows (DNS rebinding, MCP transport security). */
  function refuseForeignOrigin(c: HttpContext): void {
    const origin = c.req.header('origin')
    if (origin === undefined || origins.has(origin)) return
    throw new BrokerError('forbidden', {
      field: 'Origin',
      expectation: 'This origin may not call the gateway (allowed_origins).',
    })
  }

  /** A browser client reads refusals too: without the challenge it would never learn where people sign in. */
  const readable: MiddlewareHandler<HttpEnv> = async (c, next) => {
    const origin = c.req.header('origin')
    await next()
    if (origin === undefined || !origins.has(origin)) return
    const { headers } = c.res
    // An answer of the gateway's own has them, or is out.
    if (headers.has('x-hono-already-sent') || headers.has('access-control-allow-origin')) return
    for (const [name, value] of Object.entries(corsHeaders(origin))) headers.set(name, value)
  }

  /** Lets a call through to the gateway, as its person. */
  function door(kind: Upstream['kind'], carry: (call: GatewayCall) => Promise<void>) {
    return async (c: HttpContext): Promise<Response> => {
      refuseForeignOrigin(c)
      const preflight = preflightAnswer(c)
      if (preflight !== undefined) return preflight
      refuseUpgrade(c)
      const upstream = upstreamAt(c.req.param('upstream'), kind)
      const { person, bearer } = await personAt(c, upstream)
      refusals.admit()
      const requestId = c.get('requestId')
      const streaming = answerFor(c, {
        'x-request-id': requestId,
        ...corsHeaders(c.req.header('origin')),
      })
      const done = carry({
        person,
        bearer,
        upstream,
        requestId,
        startedAt: c.get('startedAt'),
        method: c.req.method,
        tail: tailOf(c, `${prefixes[kind]}/${upstream.name}`),
        headers: receivedHeaders(c),
        body: bodyOf(c),
        answer: streaming.answer,
      })
      // A refusal comes before the answer begins, and then instead of it.
      return Promise.race([streaming.response, done.then(() => streaming.response)])
    }
  }

  for (const path of ['/proxy/:upstream', '/proxy/:upstream/*', '/mcp/:upstream']) {
    app.use(path, readable)
  }
  const proxy = door('http', (call) => gateway.proxy(call))
  app.all('/proxy/:upstream', proxy)
  app.all('/proxy/:upstream/*', proxy)
  app.all(
    '/mcp/:upstream',
    door('mcp', (call) => gateway.mcp(call)),
  )
}

const prefixes = { http: '/proxy', mcp: '/mcp' } as const

function answerFor(c: HttpContext, added: Readonly<Record<string, string>>): StreamingAnswer {
  const outgoing = c.env?.outgoing
  // HTTP/2 answers are none that our server gives.
  return outgoing !== undefined && 'assignSocket' in outgoing
    ? answerOnSocket(outgoing, added)
    : answerAsResponse(added)
}

/** For a browser client of an allowed origin (Fetch standard, CORS protocol). */
function corsHeaders(origin: string | undefined): Readonly<Record<string, string>> {
  if (origin === undefined) return {}
  return {
    'access-control-allow-origin': origin,
    'access-control-expose-headers': '*, WWW-Authenticate, Mcp-Session-Id, X-Request-Id',
    vary: 'Origin',
  }
}

/**
 * The answer to a browser that asks what it may send; undefined for any other request. A browser asks without a bearer
 * (Fetch standard, CORS-preflight), and an upstream has no say in who may call the gateway.
 */
function preflightAnswer(c: HttpContext): Response | undefined {
  const method = c.req.header('access-control-request-method')
  const isPreflight =
    c.req.method === 'OPTIONS' && c.req.header('origin') !== undefined && method !== undefined
  if (!isPreflight) return undefined
  // Named one by one, because `*` does not cover `Authorization`; only what can be a name is said again.
  const asked = (c.req.header('access-control-request-headers') ?? '').split(',')
  const names = asked.map((name) => name.trim()).filter((name) => headerName.test(name))
  return new Response(null, {
    status: 204,
    headers: {
      'access-control-allow-methods': 'GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS',
      'access-control-allow-headers': names.length === 0 ? 'Authorization' : names.join(', '),
      'access-control-max-age': '600',
    },
  })
}

const headerName = /^[!#$%&'*+.^_`|~\w-]+$/

/** Behind an upgraded connection nothing that this gateway promises would hold. */
function refuseUpgrade(c: HttpContext): void {
  if (c.req.header('upgrade') === undefined) return
  throw new BrokerError('invalid_request', {
    field: 'Upgrade',
    expectation: 'Connections are not upgraded here.',
  })
}

/**
 * What was sent behind `prefix`. The framework's own path has dots resolved and letters decoded and is no longer what the caller
 * wrote, so one that does not begin as it should is nobody's.
 */
function tailOf(c: HttpContext, prefix: string): string {
  const target = targetOf(c)
  const tail = target.slice(prefix.length)
  if (target.startsWith(prefix) && (tail === '' || /^[/?]/.test(tail))) return tail
  throw new BrokerError('unknown_upstream')
}

function targetOf(c: HttpContext): string {
  const sent = c.env?.incoming?.url
  if (sent !== undefined) {
    if (sent.startsWith('/')) return sent
    // An absolute target names a host, and nothing is taken from that.
    throw new BrokerError('invalid_request', { field: 'path', expectation: 'Send a path.' })
  }
  const { pathname, search } = new URL(c.req.url)
  return `${pathname}${search}`
}

function receivedHeaders(c: HttpContext): readonly string[] {
  return c.env?.incoming?.rawHeaders ?? [...c.req.raw.headers].flat()
}

function bodyOf(c: HttpContext): AsyncIterable<Uint8Array> | undefined {
  const incoming = c.env?.incoming
  if (incoming === undefined) return c.req.raw.body ?? undefined
  const { headers } = incoming
  const sendsBody =
    headers['transfer-encoding'] !== undefined || (headers['content-length'] ?? '0') !== '0'
  return sendsBody ? incoming : undefined
}
