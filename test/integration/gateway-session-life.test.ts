import type { IncomingMessage, ServerResponse } from 'node:http'
import { gzipSync } from 'node:zlib'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { startTestBroker, type TestBroker } from '../support/broker.ts'
import { type EventReader, readEvents } from '../support/event-reader.ts'
import { type PlainUpstream, startPlainUpstream } from '../support/plain-upstream.ts'

type Json = Record<string, unknown>

const revision = '2026-07-28'

describe('a session of the gateway’s and the upstream’s own behind it', () => {
  let upstream: PlainUpstream
  let broker: TestBroker
  let other: TestBroker
  /** The sessions that the upstream knows, and their GET streams. */
  const sessions = new Map<string, ServerResponse | undefined>()
  const readers: EventReader[] = []
  let count = 0

  const bodyOf = () => JSON.parse(String(upstream.hits.at(-1)?.body) || '{}') as Json
  const asked = () =>
    upstream.hits.map(({ method, body }) => {
      const text = String(body)
      return text === '' ? method : (JSON.parse(text) as Json)['method']
    })

  /** Holds what comes of these, and gives what answers the last. */
  function hold(which: 'initialize' | 'GET'): { readonly goOn: () => void } {
    const held = { goOn: () => {} }
    upstream.answerWith((request, response) => {
      const message = bodyOf()
      const answerIt = () => asServer(request, response, message)
      if (message['method'] === which || request.method === which) held.goOn = answerIt
      else answerIt()
    })
    return held
  }

  /** An MCP server of 2025. */
  function asServer(
    { method, headers }: IncomingMessage,
    response: ServerResponse,
    message = bodyOf(),
  ): void {
    const session = String(headers['mcp-session-id'])
    if (message['method'] === 'server/discover') return void response.writeHead(404).end()
    if (message['method'] === 'initialize') {
      count += 1
      sessions.set(`session-${count}`, undefined)
      const result = {
        protocolVersion: '2025-11-25',
        capabilities: { tools: {}, completions: {} },
        serverInfo: { name: 'plain', version: '1' },
      }
      response.setHeader('mcp-session-id', `session-${count}`)
      return answerWith(response, { id: message['id'], result })
    }
    if (!sessions.has(session)) return void response.writeHead(404).end()
    if (method === 'DELETE') {
      sessions.delete(session)
      return void response.writeHead(204).end()
    }
    if (method === 'GET') {
      sessions.set(session, response)
      response.writeHead(200, { 'content-type': 'text/event-stream' }).flushHeaders()
      return
    }
    if (message['id'] === undefined) return void response.writeHead(202).end()
    answerWith(response, {
      id: message['id'],
      result: { content: [{ type: 'text', text: session }] },
    })
  }

  beforeAll(async () => {
    upstream = await startPlainUpstream()
    broker = await startTestBroker({ filesUrl: `${upstream.url}/mcp` })
    other = await broker.startBeside()
    upstream.answerWith(asServer)
  })
  afterEach(async () => {
    upstream.answerWith(asServer)
    await Promise.all(readers.splice(0).map((reader) => reader.leave()))
    await broker.call('DELETE', '/api/v1/connections/files', 'ada')
    sessions.clear()
  })
  afterAll(async () => {
    await other.stop()
    await broker.stop()
    await upstream.stop()
  })

  async function send(
    at: TestBroker,
    method: string,
    body: Json | undefined,
    more: { session?: string; person?: string; headers?: Record<string, string> } = {},
  ): Promise<Response> {
    const { session, person = 'ada', headers = {} } = more
    return fetch(`${at.url}/mcp/files`, {
      method,
      headers: {
        authorization: `Bearer ${await broker.tokenOf(person)}`,
        accept: 'application/json, text/event-stream',
        'content-type': 'application/json',
        ...(session === undefined ? {} : { 'mcp-session-id': session }),
        ...headers,
      },
      ...(body === undefined ? {} : { body: JSON.stringify({ jsonrpc: '2.0', ...body }) }),
    })
  }

  async function open(person = 'ada'): Promise<{ readonly id: string; readonly result: Json }> {
    const params = {
      protocolVersion: '2025-11-25',
      capabilities: {},
      clientInfo: { name: 'raw', version: '1' },
    }
    const begun = await send(broker, 'POST', { id: 0, method: 'initialize', params }, { person })
    const { result } = (await begun.json()) as { result: Json }
    return { id: begun.headers.get('mcp-session-id') ?? '', result }
  }

  async function openStream(at: TestBroker, session: string): Promise<EventReader> {
    const reader = readEvents(await send(at, 'GET', undefined, { session }))
    readers.push(reader)
    return reader
  }

  const call = (at: TestBroker, session: string): Promise<Response> =>
    send(at, 'POST', { id: 1, method: 'tools/call', params: { name: 'any' } }, { session })

  /** The upstream's session that a call went to. */
  const placeOf = async (answer: Response) =>
    /session-\d+/.exec(await answer.text())?.[0] ?? 'nowhere'

  const streamsOpen = () => [...sessions.values()].filter((stream) => stream !== undefined)

  it('one that began before anybody was connected is the first to ask who the upstream is, and others see it', async () => {
    const { id, result } = await open()
    expect(Object.keys(result['capabilities'] as Json)).toEqual(['tools', 'prompts', 'resources'])
    await broker.connect('ada')
    await (await call(broker, id)).text()
    await (await call(other, id)).text()
    expect(asked()).toEqual([
      'server/discover',
      'initialize',
      'notifications/initialized',
      'tools/call',
      'tools/call',
    ])
    const grace = await open('grace')
    expect(grace.result['capabilities']).toEqual({ tools: { listChanged: true }, completions: {} })
  })

  it('DELETE ends what another replica has opened anew meanwhile', async () => {
    await broker.connect('ada')
    const { id } = await open()
    const first = await placeOf(await call(broker, id))
    expect(await placeOf(await call(other, id))).toBe(first)
    sessions.clear()
    const second = await placeOf(await call(other, id))
    expect([...sessions.keys()]).toEqual([second])
    expect((await send(broker, 'DELETE', undefined, { session: id })).status).toBe(204)
    await expect.poll(() => [...sessions.keys()]).toEqual([])
  })

  it('DELETE ends what is just being opened', async () => {
    const { id } = await open()
    await broker.connect('ada')
    const held = hold('initialize')
    const answer = call(broker, id)
    await expect.poll(() => asked().at(-1)).toBe('initialize')
    expect((await send(broker, 'DELETE', undefined, { session: id })).status).toBe(204)
    held.goOn()
    expect((await answer).status).toBe(404)
    await expect.poll(() => asked().at(-1)).toBe('DELETE')
    expect([...sessions.keys()]).toEqual([])
  })

  it.each([
    ['waits for its person', false],
    ['is the upstream’s', true],
  ])('DELETE ends a stream that %s, on every replica', async (_which, isConnected) => {
    if (isConnected) await broker.connect('ada')
    const { id } = await open()
    const stays = await openStream(broker, (await open()).id)
    const streams = [await openStream(broker, id), await openStream(other, id)]
    if (isConnected) await expect.poll(() => streamsOpen().length).toBe(2)
    await send(broker, 'DELETE', undefined, { session: id })
    for (const stream of streams) await expect.poll(stream.ended).toBe('end')
    expect(stays.ended()).toBeUndefined()
  })

  it.each([
    ['for a call', true],
    ['by its client', false],
  ])(
    'what is opened %s while its person connects another account is not used for that',
    async (_by, isLater) => {
      const begun = isLater ? await open() : undefined
      await broker.connect('ada', 'ada-at-files')
      const held = hold('initialize')
      const opening = begun === undefined ? open() : call(broker, begun.id).then(() => begun)
      await expect.poll(() => asked().at(-1)).toBe('initialize')
      await broker.connect('ada', 'grace-at-files')
      held.goOn()
      const { id } = await opening
      const [first] = [...sessions.keys()]
      upstream.answerWith(asServer)
      expect(await placeOf(await call(broker, id))).not.toBe(first)
      expect(await placeOf(await call(other, id))).toBe([...sessions.keys()].at(-1))
      expect(sessions.size).toBe(2)
    },
  )

  it('calls that find it forgotten one after the other share the next one', async () => {
    const { id } = await open()
    await broker.connect('ada')
    const held: (() => void)[] = []
    upstream.answerWith((request, response) => {
      const message = bodyOf()
      const answerIt = () => asServer(request, response, message)
      if (message['method'] === 'tools/call') held.push(answerIt)
      else answerIt()
    })
    const answers = [call(broker, id), call(broker, id)]
    await expect.poll(() => held.length).toBe(2)
    sessions.clear()
    held[0]?.()
    await expect.poll(() => held.length).toBe(3)
    held[1]?.()
    await expect.poll(() => held.length).toBe(4)
    for (const answerIt of held.slice(2)) answerIt()
    const [first, second] = await Promise.all(answers)
    expect(await placeOf(first as Response)).toBe(await placeOf(second as Response))
    expect(sessions.size).toBe(1)
  })

  it('an upstream that forgot it has the client’s stream in the new one before the call, on every replica', async () => {
    await broker.connect('ada')
    const { id } = await open()
    const here = await openStream(broker, id)
    const there = await openStream(other, id)
    await (await call(broker, id)).text()
    await expect.poll(streamsOpen).toHaveLength(1)
    // It takes the streams for open as well: nothing ends them.
    sessions.clear()
    const gets = () => asked().filter((what) => what === 'GET').length
    const before = gets()
    const place = await placeOf(await call(broker, id))
    expect(sessions.get(place)).toBeDefined()
    await expect.poll(gets).toBe(before + 2)
    await expect.poll(() => streamsOpen().length).toBe(1)
    sessions.get(place)?.write('data: {"jsonrpc":"2.0","method":"of-the-new"}\n\n')
    const heard = () =>
      [here, there].flatMap((reader) => reader.messages()).map(({ method }) => method)
    await expect.poll(heard).toContain('of-the-new')
    expect([here.ended(), there.ended()]).toEqual([undefined, undefined])
  })

  it('a stream that comes to the upstream’s session when that is forgotten already goes on in the next one', async () => {
    const { id } = await open()
    const stream = await openStream(broker, id)
    const held = hold('GET')
    await broker.connect('ada')
    await expect.poll(() => asked().at(-1)).toBe('GET')
    sessions.clear()
    const place = await placeOf(await call(other, id))
    upstream.answerWith(asServer)
    held.goOn()
    await expect.poll(() => sessions.get(place)).toBeDefined()
    sessions.get(place)?.write('data: {"jsonrpc":"2.0","method":"of-the-new"}\n\n')
    await expect.poll(() => stream.messages().at(-1)?.method).toBe('of-the-new')
  })

  it('2026-07-28: a stream that goes on as the upstream’s is never packed', async () => {
    await broker.database.database.sql`UPDATE upstream_server SET revisions = ARRAY[${revision}]`
    const fresh = await broker.startBeside()
    upstream.answerWith((request, response) => {
      if (bodyOf()['method'] !== 'subscriptions/listen') return asServer(request, response)
      const isPacked = request.headers['accept-encoding'] !== undefined
      const coding = isPacked ? { 'content-encoding': 'gzip' } : {}
      response.writeHead(200, { 'content-type': 'text/event-stream', ...coding })
      const events = ['notifications/subscriptions/acknowledged', 'of-the-upstream'].map(
        (method) => `data: {"jsonrpc":"2.0","method":"${method}"}\n\n`,
      )
      response.write(isPacked ? gzipSync(events.join('')) : events.join(''))
    })
    const params = {
      notifications: { toolsListChanged: true },
      _meta: {
        'io.modelcontextprotocol/protocolVersion': revision,
        'io.modelcontextprotocol/clientCapabilities': {},
      },
    }
    const method = 'subscriptions/listen'
    const headers = {
      'mcp-protocol-version': revision,
      'mcp-method': method,
      'accept-encoding': 'gzip',
    }
    const stream = readEvents(await send(fresh, 'POST', { id: 7, method, params }, { headers }))
    readers.push(stream)
    await broker.connect('ada')
    await expect
      .poll(() => stream.messages().map((message) => message.method))
      .toEqual([
        'notifications/subscriptions/acknowledged',
        'notifications/tools/list_changed',
        'of-the-upstream',
      ])
    await fresh.stop()
  })
})

function answerWith(response: ServerResponse, message: Json): void {
  response.writeHead(200, { 'content-type': 'application/json' })
  response.end(JSON.stringify({ jsonrpc: '2.0', ...message }))
}
