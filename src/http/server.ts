import { createServer, type Server, type ServerResponse, STATUS_CODES } from 'node:http'
import type { Duplex } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { getRequestListener, type HttpBindings, RequestError } from '@hono/node-server'
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response'
import type { GatewayDoors } from './gateway-doors.ts'
import { enterFromSocket } from './gateway-socket.ts'
import { plainProblem } from './problem.ts'

/** A listening HTTP server. */
export type HttpServer = {
  readonly host: string
  /** The real one, also when 0 was asked for. */
  readonly port: number
  /** Stops accepting, lets what is in flight finish for `graceMs`, then cuts it. */
  close(graceMs: number): Promise<void>
}

type Fetch = (request: Request, env: HttpBindings) => Response | Promise<Response>

/** @throws NodeJS.ErrnoException such as EADDRINUSE */
export async function startServer(options: {
  readonly fetch: Fetch
  /** What leads to the gateway goes there without the application. */
  readonly gatewayDoors?: GatewayDoors
  readonly host: string
  readonly port: number
}): Promise<HttpServer> {
  const { host, port, gatewayDoors } = options
  const listener = getRequestListener(
    (request, env) => {
      const answer = options.fetch(request, env as HttpBindings)
      return request.method === 'HEAD' ? keptAsSent(answer) : answer
    },
    {
      // HTTP/1.0 has no Host, and balancers ask for our health in it. Nothing is taken from this name.
      hostname: 'localhost',
      // A RequestError is what did not become a request at all: an impossible Host or target.
      errorHandler: (error) =>
        plainProblem(error instanceof RequestError ? 'invalid_request' : 'internal_error'),
    },
  )
  const limits = {
    maxHeaderSize: 16 * 1024,
    // Someone who sends a byte a minute must not keep a socket (slowloris).
    headersTimeout: 10_000,
    requestTimeout: 60_000,
    keepAliveTimeout: 65_000,
  }
  const answers = new WeakMap<Duplex, ServerResponse>()
  /** Connections that have asked nothing yet. Node counts them as busy, and a stop would wait for them. */
  const silent = new Set<Duplex>()
  /** Connections on which it cannot be told where a request ends. */
  const unclear = new WeakSet<Duplex>()
  const server = createServer(limits, (incoming, outgoing) => {
    // What follows there may be what another program took for a body: nobody asked for it (RFC 9112 §6.1, §11.2).
    if (unclear.has(incoming.socket)) return
    const coding = incoming.headers['transfer-encoding']
    if (coding !== undefined && coding.toLowerCase() !== 'chunked') {
      unclear.add(incoming.socket)
      outgoing.shouldKeepAlive = false
    }
    answers.set(incoming.socket, outgoing)
    silent.delete(incoming.socket)
    if (gatewayDoors?.has(incoming.url ?? '') === true && isPlainHost(incoming.headers.host)) {
      void enterFromSocket(gatewayDoors, incoming, outgoing)
      return
    }
    // Nothing of an answer that cannot be written may end the process.
    listener(incoming, outgoing).catch(() => outgoing.destroy())
  })
  // Node leaves out what comes behind a thousand: a second `Authorization` would be there, and nobody of us would see it. How many
  // there can be is a matter of the size of the head.
  server.maxHeadersCount = 0
  server.on('connection', (socket) => {
    silent.add(socket)
    socket.once('close', () => silent.delete(socket))
  })
  server.on('clientError', (error, socket) => {
    // An answer that has begun must not be followed by the text of another.
    const canAnswer = () => socket.writable && answers.get(socket)?.headersSent !== true
    if (canAnswer()) void refuseUnreadable(error, socket, canAnswer)
    else socket.destroy()
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, host, () => {
      server.off('error', reject)
      resolve()
    })
  })
  const address = server.address()
  const listening = typeof address === 'object' && address !== null ? address.port : port
  return { host, port: listening, close: (graceMs) => close(server, silent, graceMs) }
}

/** A name or an address that is surely possible; any other is judged by the application's listener. */
function isPlainHost(host: string | undefined): boolean {
  return host === undefined || plainHost.test(host)
}

/** What ends in a number is an IPv4 address or nothing (WHATWG URL, "ends-in-a-number checker"). */
const plainHost =
  /^(?:(?:[a-z\d-]+\.)*[a-z][a-z\d-]*|(?:1?\d?\d\.){3}1?\d?\d)(?::(?:\d{1,4}|[1-5]\d{4}))?$/i

/** Hono answers HEAD with a copy, in which the server would not see that the answer is out. */
async function keptAsSent(answer: Response | Promise<Response>): Promise<Response> {
  const response = await answer
  return response.headers.has('x-hono-already-sent') ? RESPONSE_ALREADY_SENT : response
}

const statusOfFault: Readonly<Record<string, 408 | 431>> = {
  ERR_HTTP_REQUEST_TIMEOUT: 408,
  HPE_HEADER_OVERFLOW: 431,
}

/** Answers to bytes that are no request, so that errors look alike here too. */
async function refuseUnreadable(
  error: NodeJS.ErrnoException,
  socket: Duplex,
  canAnswer: () => boolean,
): Promise<void> {
  const status = statusOfFault[error.code ?? ''] ?? 400
  const answer = plainProblem('invalid_request', status)
  const body = await answer.text()
  // Answered meanwhile: whoever counts answers would take a second one for the next request's.
  if (!canAnswer()) {
    socket.end(() => socket.destroy())
    return
  }
  const head = [
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}`,
    ...[...answer.headers].map(([name, value]) => `${name}: ${value}`),
    `content-length: ${Buffer.byteLength(body)}`,
    'connection: close',
  ]
  // Ended and then destroyed: what the sender still has to say is not read.
  socket.end(`${head.join('\r\n')}\r\n\r\n${body}`, () => socket.destroy())
}

async function close(server: Server, silent: ReadonlySet<Duplex>, graceMs: number): Promise<void> {
  const closed = new Promise<void>((resolve) => {
    server.close(() => resolve())
  })
  for (const socket of silent) socket.destroy()
  // A kept-alive connection becomes idle only when its answer is out, and would keep the server open until its own timeout.
  const idle = setInterval(() => server.closeIdleConnections(), 50)
  const done = new AbortController()
  const cut = sleep(graceMs, undefined, { signal: done.signal }).then(
    () => server.closeAllConnections(),
    () => undefined,
  )
  await closed
  clearInterval(idle)
  done.abort()
  await cut
}
