import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { getRequestListener } from '@hono/node-server'
import { BrokerError } from '../core/errors.ts'
import type { Problems } from './problem.ts'
import { requestIdOf } from './edge.ts'

/** A listening HTTP/1.1 server. */
export type HttpServer = {
  /** The address it listens on, with the real port: `http://127.0.0.1:8080`. */
  readonly url: string
  /** Stops accepting, lets what is in flight finish for at most `graceMs`, then cuts it. */
  close(graceMs: number): Promise<void>
}

/** Head of a request, in bytes; Node answers 431 above it. */
const largestHeadBytes = 16 * 1024

/**
 * Serves an application over HTTP. Port 0 takes any free one.
 * @throws Error of the system when the address cannot be listened on.
 */
export async function startHttpServer(options: {
  readonly fetch: Parameters<typeof getRequestListener>[0]
  readonly host: string
  readonly port: number
  readonly problems: Pick<Problems, 'respond'>
}): Promise<HttpServer> {
  const { fetch, host, port, problems } = options
  const listener = getRequestListener(fetch, {
    // What did not become a request at all: an impossible Host or target.
    errorHandler: () =>
      problems.respond(
        new BrokerError('invalid_request', { field: 'request target' }),
        requestIdOf(undefined),
      ),
  })
  const server = createServer({ maxHeaderSize: largestHeadBytes }, (incoming, outgoing) => {
    // Nothing of an answer that cannot be written may end the process.
    listener(incoming, outgoing).catch(() => outgoing.destroy())
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, host, () => {
      server.off('error', reject)
      resolve()
    })
  })
  return { url: urlOf(server), close: (graceMs) => closeServer(server, graceMs) }
}

function urlOf(server: Server): string {
  const { address, family, port } = server.address() as AddressInfo
  return `http://${family === 'IPv6' ? `[${address}]` : address}:${port}`
}

async function closeServer(server: Server, graceMs: number): Promise<void> {
  const closed = new Promise<void>((resolve) => {
    server.close(() => resolve())
  })
  // A kept-alive connection counts as open until it is idle, and becomes idle only when its answer is out.
  const idle = setInterval(() => server.closeIdleConnections(), 50)
  const timer = new AbortController()
  const graceOver = sleep(graceMs, undefined, { signal: timer.signal }).then(
    () => server.closeAllConnections(),
    () => undefined,
  )
  await closed
  clearInterval(idle)
  timer.abort()
  await graceOver
}
