import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

export type LoopbackListener = (
  request: IncomingMessage,
  response: ServerResponse,
) => void | Promise<void>

/** A loopback address that is taken, and that can be told later what to answer: servers that name each other start this way. */
export type LoopbackServer = {
  /** An origin without a trailing slash. */
  readonly url: string
  readonly port: number
  /** Until it is called, every request gets 503. `host`: the only `Host` that is answered, by default that of `url`. */
  serve(listener: LoopbackListener, options?: { readonly host?: string }): void
  stop(): Promise<void>
}

/** Takes a free port of `host` (127.0.0.1), or the one that is asked for. Rejects with Node's error when it is taken. */
export async function bindLoopback(
  options: { readonly host?: string; readonly port?: number } = {},
): Promise<LoopbackServer> {
  const host = options.host ?? '127.0.0.1'
  let answer: LoopbackListener = (_request, response) => {
    response.writeHead(503).end()
  }
  const server = createServer((request, response) => {
    void answerSafely(answer, request, response)
  })
  // Longer than the pauses of a demonstration, so that no client meets a connection that is just being closed.
  server.keepAliveTimeout = 60_000
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(options.port ?? 0, host, resolve)
  })
  const { port } = server.address() as AddressInfo
  const url = `http://${host}:${port}`
  return {
    url,
    port,
    serve(listener, { host: expectedHost = `${host}:${port}` } = {}) {
      answer = (request, response) => {
        // A page on the web that made its own name resolve to 127.0.0.1 sends that name (DNS rebinding).
        if (request.headers.host === expectedHost) return listener(request, response)
        response.writeHead(421, { 'content-type': 'text/plain' }).end('another host is meant\n')
      }
    },
    async stop() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()))
      server.closeAllConnections()
      await closed
    },
  }
}

async function answerSafely(
  answer: LoopbackListener,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  try {
    await answer(request, response)
  } catch {
    if (response.headersSent) response.destroy()
    else response.writeHead(500, { 'content-type': 'text/plain' }).end('the sandbox failed\n')
  }
}

/** The port is free at the moment of asking, no longer promise than that. */
export async function findFreePort(preferred?: number): Promise<number> {
  const taken = await bindLoopback(preferred === undefined ? {} : { port: preferred }).catch(() =>
    bindLoopback(),
  )
  await taken.stop()
  return taken.port
}

const maxFormBytes = 64 * 1024

/** Reads an urlencoded body. Rejects one above 64 KiB. */
export async function readForm(request: IncomingMessage): Promise<URLSearchParams> {
  const chunks: Buffer[] = []
  let bytes = 0
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length
    if (bytes > maxFormBytes) throw new Error('the form is too large')
    chunks.push(chunk)
  }
  return new URLSearchParams(Buffer.concat(chunks).toString('utf8'))
}

export function sendJson(
  response: ServerResponse,
  status: number,
  body: unknown,
  headers: Readonly<Record<string, string>> = {},
): void {
  response
    .writeHead(status, { 'content-type': 'application/json', ...headers })
    .end(JSON.stringify(body))
}
