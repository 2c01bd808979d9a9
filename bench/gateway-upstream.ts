import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { serveQuestions } from './child.ts'

/** An upstream that answers every small call the same, and keeps a stream open where one is asked for. It is not measured. */
const answer = Buffer.from(
  JSON.stringify({
    jsonrpc: '2.0',
    id: 1,
    result: { resultType: 'complete', content: [{ type: 'text', text: 'x'.repeat(200) }] },
  }),
)
/** To the gateway's own first question: as a server says that knows only the revision of these calls. */
const discovered = Buffer.from(
  JSON.stringify({
    jsonrpc: '2.0',
    id: 'onbehalf-discover',
    result: {
      resultType: 'complete',
      supportedVersions: ['2026-07-28'],
      capabilities: { tools: {} },
      ttlMs: 0,
      cacheScope: 'private',
    },
  }),
)
const initialized = Buffer.from(
  JSON.stringify({
    jsonrpc: '2.0',
    id: 0,
    result: {
      protocolVersion: '2025-11-25',
      capabilities: { tools: {} },
      serverInfo: { name: 'bench', version: '1' },
    },
  }),
)
const event = Buffer.from(`data: ${'x'.repeat(1000)}\n\n`)

const server = createServer((request, response) => {
  request.resume()
  request.on('end', () => {
    if (request.headers.accept === 'text/event-stream') {
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      response.write(event)
      if (request.url?.endsWith('/flood') === true) flood(response)
      return
    }
    const { 'mcp-method': method, 'mcp-session-id': session } = request.headers
    // What names neither is how a session begins.
    const begins = method === undefined && session === undefined
    const body = method === 'server/discover' ? discovered : begins ? initialized : answer
    response.writeHead(200, {
      ...(begins ? { 'mcp-session-id': 'of-the-upstream' } : {}),
      'content-type': 'application/json',
      'content-length': String(body.length),
    })
    response.end(body)
  })
})

/** Writes as fast as it is read, for a reader that stalls. */
function flood(response: ServerResponse): void {
  while (response.write(event)) {
    if (response.destroyed) return
  }
  response.once('drain', () => flood(response))
}

server.keepAliveTimeout = 60_000
server.listen(0, '127.0.0.1', () => serveQuestions((server.address() as AddressInfo).port, {}))
process.on('SIGTERM', () => process.exit(0))
