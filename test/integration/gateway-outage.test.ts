import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startTestBroker, type TestBroker } from '../support/broker.ts'
import { readEvents } from '../support/event-reader.ts'
import { type PlainUpstream, startPlainUpstream } from '../support/plain-upstream.ts'
import { startTcpDoor, type TcpDoor } from '../support/tcp-door.ts'

/** A disconnect could not be heard any more, and nothing that was opened may outlive it. */
describe('the gateway of a replica that does not hear from its database', () => {
  const freshForMs = 6000
  let upstream: PlainUpstream
  let here: TestBroker
  let there: TestBroker
  let door: TcpDoor
  let token = ''

  beforeAll(async () => {
    upstream = await startPlainUpstream()
    upstream.answerWith((request, response) => {
      if (request.url !== '/base/events') return response.writeHead(200).end('done')
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      return response.write('data: {"method":"first"}\n\n')
    })
    here = await startTestBroker({
      timings: { freshForMs },
      change(config) {
        config.upstreams.reports['url'] = `${upstream.url}/base`
      },
    })
    door = await startTcpDoor(here.database.url)
    there = await here.startBeside((config) => {
      config.database.url = door.url
    })
    token = await here.tokenOf('grace')
  })
  afterAll(async () => {
    door.open()
    await there.stop()
    await here.stop()
    await door.stop()
    await upstream.stop()
  })

  const call = (
    path: string,
    init: { method?: string; headers?: Record<string, string>; body?: string } = {},
  ) =>
    fetch(`${there.url}${path}`, {
      ...init,
      headers: { authorization: `Bearer ${token}`, accept: 'text/event-stream', ...init.headers },
    })

  const status = async () => {
    const answer = await call('/proxy/reports/x')
    await answer.text()
    return answer.status
  }

  async function waitingStream() {
    const params = { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: {} }
    const begun = await call('/mcp/files', {
      method: 'POST',
      body: JSON.stringify({ jsonrpc: '2.0', id: 0, method: 'initialize', params }),
    })
    await begun.text()
    const session = { 'mcp-session-id': begun.headers.get('mcp-session-id') ?? '' }
    return { session, reader: readEvents(await call('/mcp/files', { headers: session })) }
  }

  it.each(['shut', 'stall'] as const)(
    'P13: %s: cuts every stream once it has not for too long, refuses calls, and is well again with it',
    async (how) => {
      await expect.poll(status).toBe(200)
      const { session, reader: waiting } = await waitingStream()
      const stream = readEvents(await call('/proxy/reports/events'))
      await expect.poll(stream.text).not.toBe('')
      await expect.poll(waiting.text).not.toBe('')
      const aborted = upstream.aborted()
      const isOpen = () => stream.ended() === undefined && waiting.ended() === undefined

      const begunMs = performance.now()
      door[how]()
      // For as long as nobody may have been answered that a connection is gone, all goes on.
      const seen = [await status(), isOpen()]
      const wasQuick = performance.now() - begunMs < freshForMs / 3
      // On a machine that stood still meanwhile, that time may be over.
      if (wasQuick) expect(seen).toEqual([200, true])
      const ends = () => [stream.ended(), waiting.ended()]
      await expect.poll(ends, { timeout: 20_000 }).toEqual(['cut', 'cut'])
      await expect.poll(upstream.aborted).toBe(aborted + 1)

      const hits = upstream.hits.length
      const message = { jsonrpc: '2.0', id: 1, method: 'tools/list' }
      const refused = await Promise.all([
        call('/proxy/reports/x'),
        call('/proxy/reports/events'),
        call('/mcp/files', { headers: session }),
        call('/mcp/files', { method: 'POST', headers: session, body: JSON.stringify(message) }),
      ])
      for (const answer of refused) {
        expect(answer.status).toBe(503)
        expect(answer.headers.get('retry-after')).toMatch(/^[1-9]\d*$/)
        expect(await answer.json()).toMatchObject({ code: 'storage_unavailable' })
      }
      expect(upstream.hits.length).toBe(hits)

      door.open()
      await expect.poll(status).toBe(200)
      // The session outlives it.
      const again = readEvents(await call('/mcp/files', { headers: session }))
      await expect.poll(again.text).not.toBe('')
      await again.leave()
    },
    90_000,
  )
})
