import type { IncomingHttpHeaders } from 'node:http'
import type { Person } from '../core/caller.ts'
import { BrokerError } from '../core/errors.ts'
import type { BearerUse } from '../core/ports/authenticator.ts'
import type { GatewayCall, StreamedAnswer } from '../core/ports/gateway.ts'
import type { BearerRefusal } from '../core/ports/protected-resources.ts'
import { Secret } from '../core/secret.ts'
import type { Upstream } from '../core/upstream.ts'
import { parseBearer, refuseQueryToken, sendsToken } from './callers.ts'
import { acceptedMethods, refuseAmbiguousHead, refuseDotSegments, requestIdOf } from './edge.ts'
import type { Problems } from './problem.ts'
import { securityHeaders } from './security-headers.ts'
import type { HttpServices } from './services.ts'
import { withChallenge } from './with-challenge.ts'

/** A request to the gateway, as it came. */
export type GatewayRequest = {
  readonly method: string
  /** Path and query as they were sent. */
  readonly target: string
  /** By name in lower case. */
  readonly headers: IncomingHttpHeaders
  /** Names and values by turns. */
  readonly rawHeaders: readonly string[]
  readonly body: GatewayCall['body']
}

/**
 * The gateway's doors: who calls, from where, and for which upstream. What happens behind them is the gateway's room.
 *
 * Only a bearer opens them. A session cookie does not: any page that a browser shows could call an upstream with it.
 */
export type GatewayDoors = {
  /** Whether a target leads here at all. */
  has(target: string): boolean
  /**
   * Resolves when the call is over: with what is to be answered where nothing of an answer has begun. Never rejects.
   * `answer` gives the place for an answer of the upstream's, to which these headers are added.
   */
  enter(
    request: GatewayRequest,
    answer: (added: Readonly<Record<string, string>>) => StreamedAnswer,
  ): Promise<Response | undefined>
}

export function createGatewayDoors(
  services: Pick<
    HttpServices,
    | 'allowedOrigins'
    | 'authenticator'
    | 'challenge'
    | 'clock'
    | 'gateway'
    | 'publicUrl'
    | 'refusals'
    | 'upstreams'
  >,
  problems: Problems,
): GatewayDoors {
  const { allowedOrigins, authenticator, challenge, clock, gateway, refusals } = services
  const origins: ReadonlySet<string> = new Set([services.publicUrl, ...allowedOrigins])
  const ownHeaders = Object.entries(securityHeaders(services.publicUrl))
  const doors = new Map<string, Door>()
  for (const [name, upstream] of services.upstreams) {
    const path = `${prefixes[upstream.kind]}${name}`
    doors.set(path, { path, upstream, use: { kind: 'upstream', upstream } })
  }

  function doorAt(target: string): Door {
    // An absolute target names a host, and nothing is taken from that.
    if (!target.startsWith('/')) {
      throw new BrokerError('invalid_request', { field: 'path', expectation: 'Send a path.' })
    }
    // As it was written, not decoded: who judged it on the way here read it so.
    const door = doors.get(pathOf(target) ?? '')
    if (door === undefined) {
      // The same of every name, so that it tells nobody which there are.
      const expectation =
        'Upstreams of kind mcp are at /mcp/{upstream}, those of kind http at /proxy/{upstream}/{path}'
      throw new BrokerError('unknown_upstream', { expectation })
    }
    return door
  }

  /** @throws BrokerError unauthenticated, insufficient_scope: with the challenge of this very upstream */
  function personAt(
    { headers, target }: GatewayRequest,
    { upstream, use }: Door,
  ): { readonly person: Person | Promise<Person>; readonly bearer: Secret } {
    const challengeHere = (refusal: BearerRefusal) =>
      challenge(refusal, { kind: 'upstream', upstream })
    const header = headers.authorization
    refuseQueryToken(target, header !== undefined)
    const token = header === undefined ? undefined : parseBearer(header)
    if (token === undefined) {
      const error = sendsToken(header) ? 'invalid_token' : undefined
      throw new BrokerError('unauthenticated', { challenge: challengeHere({ error, scopes: [] }) })
    }
    const bearer = new Secret(token)
    try {
      const person = authenticator.verifyBearer(token, use)
      if (!(person instanceof Promise)) return { person, bearer }
      const named = person.catch((error: unknown) => {
        throw withChallenge(error, challengeHere)
      })
      return { person: named, bearer }
    } catch (error) {
      throw withChallenge(error, challengeHere)
    }
  }

  /** A page of another origin has no business here, whatever it knows (DNS rebinding, MCP transport security). */
  function refuseForeignOrigin(origin: string | undefined): void {
    if (origin === undefined || origins.has(origin)) return
    throw new BrokerError('forbidden', {
      field: 'Origin',
      expectation: 'This origin may not call the gateway (allowed_origins).',
    })
  }

  /** Lets a call through to the gateway, as its person. Gives what is answered instead. */
  async function pass(
    request: GatewayRequest,
    requestId: string,
    answer: Parameters<GatewayDoors['enter']>[1],
  ): Promise<Response | undefined> {
    const startedAt = clock.now()
    const { headers, rawHeaders, method, target } = request
    refuseAmbiguousHead(request)
    if (!acceptedMethods.includes(method)) {
      const allowedMethods = target.startsWith(prefixes.mcp) ? mcpMethods : acceptedMethods
      throw new BrokerError('method_not_allowed', { allowedMethods })
    }
    refuseDotSegments(target)
    refuseForeignOrigin(headers.origin)
    const preflight = preflightAnswer(request)
    if (preflight !== undefined) return preflight
    refuseUpgrade(headers)
    const door = doorAt(target)
    const { person, bearer } = personAt(request, door)
    const { upstream, path } = door
    const caller = person instanceof Promise ? await person : person
    refusals.admit()
    const added = { 'x-request-id': requestId, ...corsHeaders(headers.origin) }
    const call = {
      person: caller,
      bearer,
      upstream,
      requestId,
      startedAt,
      method,
      tail: target.slice(path.length),
      headers: rawHeaders,
      header: (name: string) => {
        const value = headers[name]
        return typeof value === 'string' ? value : undefined
      },
      body: request.body,
      answer: answer(added),
    }
    await (upstream.kind === 'mcp' ? gateway.mcp(call) : gateway.proxy(call))
    return undefined
  }

  /** Whatever the gateway says for itself. A browser client reads it too: without the challenge it would never learn where people sign in. */
  function asOurs(response: Response, requestId: string, origin: string | undefined): Response {
    for (const [name, value] of ownHeaders) {
      if (!response.headers.has(name)) response.headers.set(name, value)
    }
    response.headers.set('x-request-id', requestId)
    if (origin === undefined || !origins.has(origin)) return response
    for (const [name, value] of Object.entries(corsHeaders(origin))) {
      response.headers.set(name, value)
    }
    return response
  }

  return {
    has: (target) => pathOf(target) !== undefined,
    async enter(request, answer) {
      const requestId = requestIdOf(request.headers['x-request-id'])
      const { origin } = request.headers
      try {
        const own = await pass(request, requestId, answer)
        return own && asOurs(own, requestId, origin)
      } catch (error) {
        return asOurs(problems.respond(error, requestId), requestId, origin)
      }
    },
  }
}

type Door = { readonly path: string; readonly upstream: Upstream; readonly use: BearerUse }

const prefixes = { http: '/proxy/', mcp: '/mcp/' } as const
const mcpMethods: readonly string[] = ['GET', 'POST', 'DELETE']

/** The part of a target that says which upstream it is for, as it is written. */
function pathOf(target: string): string | undefined {
  return /^(?:\/proxy\/[^/?#]+(?=[/?]|$)|\/mcp\/[^/?#]+(?=\?|$))/.exec(target)?.[0]
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
function preflightAnswer({ method, headers }: GatewayRequest): Response | undefined {
  const isPreflight =
    method === 'OPTIONS' &&
    headers.origin !== undefined &&
    headers['access-control-request-method'] !== undefined
  if (!isPreflight) return undefined
  // Named one by one, because `*` does not cover `Authorization`; only what can be a name is said again.
  const asked = (headers['access-control-request-headers'] ?? '').split(',')
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
function refuseUpgrade(headers: IncomingHttpHeaders): void {
  if (headers.upgrade === undefined) return
  throw new BrokerError('invalid_request', {
    field: 'Upgrade',
    expectation: 'Connections are not upgraded here.',
  })
}
