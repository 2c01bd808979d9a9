import type { Server } from 'node:http'
import { createAdaptorServer, type HttpBindings } from '@hono/node-server'

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
export function startServer(options: {
  readonly fetch: Fetch
  readonly host: string
  readonly port: number
}): Promise<HttpServer> {
  const { host, port } = options
  const server = createAdaptorServer({
    fetch: (request, env) => options.fetch(request, env as HttpBindings),
    serverOptions: {
      maxHeaderSize: 16 * 1024,
      // Someone who sends a byte a minute must not keep a socket (slowloris).
      headersTimeout: 10_000,
      requestTimeout: 60_000,
      keepAliveTimeout: 65_000,
    },
  }) as Server
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, host, () => {
      server.off('error', reject)
      const address = server.address()
      const listening = typeof address === 'object' && address !== null ? address.port : port
      resolve({ host, port: listening, close: (graceMs) => close(server, graceMs) })
    })
  })
}

function close(server: Server, graceMs: number): Promise<void> {
  return new Promise((resolve) => {
    const cut = setTimeout(() => server.closeAllConnections(), graceMs)
    server.close(() => {
      clearTimeout(cut)
      resolve()
    })
    server.closeIdleConnections()
  })
}
