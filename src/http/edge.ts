import { randomUUID } from 'node:crypto'
import type { IncomingHttpHeaders } from 'node:http'
import type { MiddlewareHandler } from 'hono'
import { BrokerError } from '../core/errors.ts'
import type { Clock } from '../core/ports/clock.ts'
import type { HttpEnv } from './http-env.ts'
import { securityHeaders } from './security-headers.ts'
import { isUuid } from './uuid.ts'

/** No route of ours is that long; before anything is done for it. */
const longestPath = 2048

export const acceptedMethods: readonly string[] = [
  'GET',
  'HEAD',
  'POST',
  'PUT',
  'PATCH',
  'DELETE',
  'OPTIONS',
]

/** Headers of which a second one makes two programs on the way disagree about the request (RFC 9110 §5.3, RFC 9112 §3.2). */
const singleHeaders: ReadonlySet<string> = new Set([
  'authorization',
  'content-length',
  'content-type',
  'host',
  'origin',
])

/** The first and last thing that a request meets: its id, what no route may see, and the headers of every answer. */
export function createEdge(ports: {
  readonly publicUrl: string
  readonly clock: Clock
  /** What an address takes, for `Allow` (RFC 9110 §15.5.6). */
  readonly methodsAt: (path: string) => readonly string[]
}): MiddlewareHandler<HttpEnv> {
  const headers = Object.entries(securityHeaders(ports.publicUrl))
  return async (c, next) => {
    const requestId = requestIdOf(c.req.header('x-request-id'))
    c.set('requestId', requestId)
    c.set('startedAt', ports.clock.now())
    refuseAmbiguousHead(c.env?.incoming)
    if (!acceptedMethods.includes(c.req.method)) {
      const allowedMethods = ports.methodsAt(c.req.path)
      throw new BrokerError('method_not_allowed', { allowedMethods })
    }
    refuseDotSegments(c.env?.incoming?.url)
    if (c.req.path.length > longestPath) throw new BrokerError('not_found')
    await next()
    const answer = c.res.headers
    // One that is out already said all of this itself.
    if (answer.has('x-hono-already-sent')) return
    for (const [name, value] of headers) if (!answer.has(name)) answer.set(name, value)
    answer.set('x-request-id', requestId)
  }
}

/** The caller's own id where it is a UUID, else a new one: nothing else of a caller's choosing reaches the activity log. */
export function requestIdOf(sent: string | readonly string[] | undefined): string {
  return typeof sent === 'string' && isUuid(sent) ? sent.toLowerCase() : randomUUID()
}

/** Of what came over a socket: elsewhere nobody else has read the same bytes. @throws BrokerError invalid_request */
export function refuseAmbiguousHead(
  incoming:
    | { readonly headers: IncomingHttpHeaders; readonly rawHeaders: readonly string[] }
    | undefined,
): void {
  if (incoming === undefined) return
  const { headers, rawHeaders } = incoming
  const transferEncoding = headers['transfer-encoding']
  if (transferEncoding !== undefined && transferEncoding.toLowerCase() !== 'chunked') {
    // Node reads `xchunked` as no body at all; a proxy before us may read it otherwise (RFC 9112 §6.1).
    throw ambiguous('Transfer-Encoding')
  }
  // As many names as lines, so nothing came twice: nearly every request, and the quick way to tell.
  if (2 * Object.keys(headers).length === rawHeaders.length) return
  const seen = new Set<string>()
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const name = rawHeaders[index]?.toLowerCase() ?? ''
    if (!singleHeaders.has(name)) continue
    if (seen.has(name)) throw ambiguous('head')
    seen.add(name)
  }
}

/**
 * The path that is routed has its dots resolved: `/proxy/x/../../api` would be ours, and to whoever decided on the way here by
 * what it begins with another's. @throws BrokerError invalid_request
 */
export function refuseDotSegments(target: string | undefined): void {
  const [path = ''] = target?.split('?', 1) ?? []
  if (!/[\\/](?:\.|%2e){1,2}(?:[\\/]|$)/i.test(path)) return
  throw new BrokerError('invalid_request', {
    field: 'path',
    expectation: 'The path has a dot segment.',
  })
}

function ambiguous(field: string): BrokerError {
  return new BrokerError('invalid_request', {
    field,
    expectation: 'The head of the request can be read in two ways.',
  })
}
