import type { ServerResponse } from 'node:http'
import { serve, type HttpBindings } from '@hono/node-server'
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response'
import { Hono } from 'hono'
import { Pool } from 'undici'
import { serveQuestions } from './child.ts'

/** The least that a gateway on Hono and undici's `dispatch` can do: one header is swapped, bytes go both ways. */
const pool = new Pool(process.env['UPSTREAM'] ?? '', { connections: null, pipelining: 1 })
const dropped = new Set(['host', 'connection', 'authorization', 'content-length'])

const app = new Hono<{ Bindings: HttpBindings }>().all('*', async (c) => {
  const { incoming, outgoing } = c.env
  const chunks: Buffer[] = []
  for await (const chunk of incoming) chunks.push(chunk as Buffer)
  const headers = ['authorization', 'Bearer constant']
  for (let at = 0; at < incoming.rawHeaders.length; at += 2) {
    const name = incoming.rawHeaders[at] ?? ''
    if (!dropped.has(name.toLowerCase())) headers.push(name, incoming.rawHeaders[at + 1] ?? '')
  }
  await new Promise<void>((resolve) => {
    pool.dispatch(
      {
        method: incoming.method as 'POST',
        path: incoming.url ?? '/',
        headers,
        body: Buffer.concat(chunks),
      },
      {
        onRequestStart() {},
        onResponseStart(_controller, status, received) {
          outgoing.writeHead(status, received)
        },
        onResponseData(_controller, chunk) {
          outgoing.write(chunk)
        },
        onResponseEnd() {
          ;(outgoing as ServerResponse).end()
          resolve()
        },
        onResponseError() {
          outgoing.destroy()
          resolve()
        },
      },
    )
  })
  return RESPONSE_ALREADY_SENT
})

const server = serve({ fetch: app.fetch, port: 0, hostname: '127.0.0.1' }, ({ port }) =>
  serveQuestions(port, {}),
)
process.on('SIGTERM', () => {
  server.close()
  process.exit(0)
})
