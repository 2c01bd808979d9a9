import type { IncomingMessage, ServerResponse } from 'node:http'
import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { startTestBroker, type TestBroker } from '../support/broker.ts'
import { createBrowser, followConnectLink } from '../support/browser.ts'
import { type EventReader, readEvents } from '../support/event-reader.ts'
import { type PlainUpstream, startPlainUpstream } from '../support/plain-upstream.ts'
import { type RichMcpUpstream, startRichMcpUpstream } from '../support/rich-mcp-upstream.ts'

type Json = Record<string, unknown>

const listsChanged = ['tools', 'prompts', 'resources'].map(
  (name) => `notifications/${name}/list_changed`,
)

describe('the GET stream of a session whose person connects anew', () => {
  let upstream: PlainUpstream
  let broker: TestBroker
  let other: TestBroker
  /** The upstream's GET streams that are open, by its own session. */
  const gets = new Map<string, ServerResponse>()
  const readers: EventReader[] = []

  const asServer = (request: IncomingMessage, response: ServerResponse) => {
    const { body } = upstream.hits.at(-1) ?? { body: Buffer.alloc(0) }
    answerAsServer(request, body, response, gets)
  }

  beforeAll(async () => {
    upstream = await startPlainUpstream()
    broker = await startTestBroker({ filesUrl: `${upstream.url}/mcp` })
    other = await broker.startBeside()
  })
  beforeEach(async () => {
    upstream.answerWith(asServer)
    await broker.connect('ada')
  })
  afterEach(async () => {
    await Promise.all(readers.splice(0).map((reader) => reader.leave()))
    await broker.call('DELETE', '/api/v1/connections/files', 'ada')
    gets.clear()
  })
  afterAll(async () => {
    await other.stop()
    await broker.stop()
    await upstream.stop()
  })

  async function send(at: TestBroker, method: string, body: Json | undefined, session?: string) {
    return fetch(`${at.url}/mcp/files`, {
      method,
      headers: {
        authorization: `Bearer ${await broker.tokenOf('ada')}`,
        accept: 'application/json, text/event-stream',
        'content-type': 'application/json',
        ...(session === undefined ? {} : { 'mcp-session-id': session }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
  }

  async function openSession(): Promise<string> {
    const params = {
      protocolVersion: '2025-11-25',
      capabilities: { elicitation: { url: {} } },
      clientInfo: { name: 'raw', version: '1' },
    }
    const body = { jsonrpc: '2.0', id: 0, method: 'initialize', params }
    const begun = await send(broker, 'POST', body)
    await begun.text()
    return begun.headers.get('mcp-session-id') ?? ''
  }

  async function openStream(at: TestBroker, session: string): Promise<EventReader> {
    const reader = readEvents(await send(at, 'GET', undefined, session))
    readers.push(reader)
    return reader
  }

  const call = async (at: TestBroker, session: string): Promise<Json> => {
    const params = { name: 'write' }
    const body = { jsonrpc: '2.0', id: 1, method: 'tools/call', params }
    return (await (await send(at, 'POST', body, session)).json()) as Json
  }

  /** Of the prompt in -32042. */
  const elicitationIn = (answer: Json) =>
    (answer as { error: { data: { elicitations: { elicitationId: string; url: string }[] } } })
      .error.data.elicitations[0]

  const methods = (reader: EventReader) => reader.messages().map(({ method }) => method)

  it('is told between two events of the upstream, never inside one, and goes on as that of its new session', async () => {
    const session = await openSession()
    const stream = await openStream(broker, session)
    await expect.poll(() => gets.size).toBe(1)
    const [[first, before] = ['', undefined]] = gets
    before?.write('data: {"jsonrpc":"2.0","method":"whole"}\n\ndata: {"jsonrpc":"2.0",')
    await expect.poll(() => methods(stream)).toEqual(['whole'])

    const prompt = elicitationIn(await call(broker, session))
    await followConnectLink(createBrowser(), String(prompt?.url), {
      person: 'ada',
      account: 'ada-at-files',
      decision: 'allow',
    })
    // Both replicas know of it, and the half of an event is still waited for.
    expect(JSON.stringify(await call(other, session))).toContain('written')
    expect(methods(stream)).toEqual(['whole'])
    before?.write('"method":"half"}\n\n')
    await expect.poll(() => methods(stream).length).toBeGreaterThan(5)
    expect(stream.messages().slice(0, 6)).toEqual([
      { jsonrpc: '2.0', method: 'whole' },
      { jsonrpc: '2.0', method: 'half' },
      {
        jsonrpc: '2.0',
        method: 'notifications/elicitation/complete',
        params: { elicitationId: prompt?.elicitationId },
      },
      ...listsChanged.map((method) => ({ jsonrpc: '2.0', method })),
    ])

    await expect.poll(() => gets.size).toBe(2)
    await expect.poll(() => before?.destroyed).toBe(true)
    const [, [second, after] = ['', undefined]] = gets
    expect(second).not.toBe(first)
    after?.write('data: {"jsonrpc":"2.0","method":"of-the-new"}\n\n')
    await expect.poll(() => methods(stream).slice(6)).toEqual(['of-the-new'])
    expect(stream.ended()).toBeUndefined()
  })

  it('hears of it on another replica than the one where the person connects', async () => {
    const session = await openSession()
    const stream = await openStream(other, session)
    await expect.poll(() => gets.size).toBe(1)
    const prompt = elicitationIn(await call(broker, session))
    await broker.connect('ada')
    await expect
      .poll(() => methods(stream))
      .toEqual(['notifications/elicitation/complete', ...listsChanged])
    expect(stream.messages()[0]).toMatchObject({
      params: { elicitationId: prompt?.elicitationId },
    })
    // From here on a disconnect cuts it, wherever.
    await broker.call('DELETE', '/api/v1/connections/files', 'ada')
    await expect.poll(stream.ended).toBe('cut')
  })

  it('is there before the first call goes up in the new session', async () => {
    const session = await openSession()
    const stream = await openStream(broker, session)
    await expect.poll(() => gets.size).toBe(1)
    await broker.connect('ada')
    const hits = upstream.hits.length
    await call(broker, session)
    const order = upstream.hits.slice(hits).map(({ method, body }) => [method, methodIn(body)])
    expect(order.at(-1)).toEqual(['POST', 'tools/call'])
    const all = upstream.hits.map(({ method }) => method)
    expect(all.lastIndexOf('GET')).toBeLessThan(all.lastIndexOf('POST'))
    expect(gets.size).toBe(2)
    expect(stream.ended()).toBeUndefined()
  })

  it('is waited for by a call that finds it going up in the new session', async () => {
    const session = await openSession()
    await openStream(broker, session)
    await expect.poll(() => gets.size).toBe(1)
    const order: unknown[] = []
    const held: (() => void)[] = []
    upstream.answerWith((request, response) => {
      const { body } = upstream.hits.at(-1) ?? { body: Buffer.alloc(0) }
      const answerIt = () => answerAsServer(request, body, response, gets)
      if (request.method === 'GET') held.push(() => order.push('GET'), answerIt)
      else {
        order.push(methodIn(body))
        answerIt()
      }
    })
    // The stream opens the session by itself, so that the call finds it open.
    await broker.connect('ada')
    await expect.poll(() => held.length).toBe(2)
    const answer = call(broker, session)
    setTimeout(() => {
      for (const step of held) step()
    }, 300)
    await answer
    expect(order).toEqual(['initialize', 'notifications/initialized', 'GET', 'tools/call'])
  })

  it('that is opened after the person was done hears of it first, once, and not of what is not done', async () => {
    const session = await openSession()
    const prompt = elicitationIn(await call(broker, session))
    const early = await openStream(broker, session)
    await expect.poll(() => gets.size).toBe(1)
    await early.leave()
    await broker.connect('ada')
    await call(broker, session)
    const late = await openStream(other, session)
    await expect.poll(() => gets.size).toBe(2)
    expect(methods(early)).toEqual([])
    await expect
      .poll(() => methods(late))
      .toEqual(['notifications/elicitation/complete', ...listsChanged])
    expect(late.messages()[0]?.params).toEqual({ elicitationId: prompt?.elicitationId })
    gets.get([...gets.keys()].at(-1) ?? '')?.write('data: {"method":"next"}\n\n')
    await expect.poll(() => methods(late).at(-1)).toBe('next')
    // The one that came with the second call is still open.
    await broker.connect('ada')
    const isComplete = (method: unknown) => method === 'notifications/elicitation/complete'
    await expect.poll(() => methods(late).filter(isComplete).length).toBe(2)
  })

  it('P12: a call that waits for its session when its person disconnects uses the credential no more', async () => {
    await broker.call('DELETE', '/api/v1/connections/files', 'ada')
    const session = await openSession()
    await broker.connect('ada')
    const before = upstream.hits.length
    const asked = () => upstream.hits.slice(before).map(({ body }) => methodIn(body))
    upstream.answerWith(() => {})
    const calls = [call(broker, session), call(broker, session), call(broker, session)]
    await expect.poll(asked).toEqual(['initialize'])
    // One opens the session, and the others wait for it.
    await new Promise((resolve) => {
      setTimeout(resolve, 150)
    })
    await broker.call('DELETE', '/api/v1/connections/files', 'ada')
    for (const answer of await Promise.all(calls)) {
      expect(JSON.stringify(answer)).toMatch(/-32042.*\/connect\//)
    }
    expect(asked()).toEqual(['initialize'])
  })

  it('that the upstream packed although nobody asked is left alone', async () => {
    const session = await openSession()
    upstream.answerWith((request, response) => {
      if (request.method !== 'GET') return asServer(request, response)
      response.writeHead(200, { 'content-type': 'text/event-stream', 'content-encoding': 'x-own' })
      response.write('packed')
    })
    const stream = await openStream(broker, session)
    await expect.poll(stream.text).toBe('packed')
    expect(upstream.hits.at(-1)?.headers['accept-encoding']).toBeUndefined()
    await call(broker, session)
    await broker.connect('ada')
    await call(broker, session)
    expect([stream.text(), stream.ended()]).toEqual(['packed', undefined])
  })
})

describe('a session that is opened on one replica', () => {
  let upstream: RichMcpUpstream
  let broker: TestBroker
  let other: TestBroker

  beforeAll(async () => {
    upstream = await startRichMcpUpstream()
    broker = await startTestBroker({ filesUrl: upstream.url })
    other = await broker.startBeside()
  })
  afterAll(async () => {
    await other.stop()
    await broker.stop()
    await upstream.stop()
  })

  it('F-10: goes on on another, whose stream is handed over when its person connects on the first', async () => {
    const authorization = `Bearer ${await broker.tokenOf('ada')}`
    const heard: unknown[] = []
    let streams = 0
    /** Begins on the one, then has its streams and half of its calls on the other. */
    let calls = 0
    const transport = new StreamableHTTPClientTransport(new URL(`${broker.url}/mcp/files`), {
      requestInit: { headers: { authorization } },
      fetch: (url, init) => {
        const isStream = init?.method === 'GET'
        streams += isStream ? 1 : 0
        calls += 1
        const at = isStream || (calls > 2 && calls % 2 === 0) ? other : broker
        return fetch(new URL(new URL(url).pathname, at.url), init)
      },
    })
    const client = new Client(
      { name: 'test', version: '1.0.0' },
      { versionNegotiation: { mode: 'legacy' }, capabilities: { elicitation: { url: {} } } },
    )
    client.fallbackNotificationHandler = async ({ method, params }) => {
      heard.push([method, params?.['elicitationId']])
    }
    await client.connect(transport)
    await expect.poll(() => streams).toBe(1)
    expect((await client.listTools()).tools.map(({ name }) => name)).toEqual(['connect_files'])
    const refused = await client
      .callTool({ name: 'echo', arguments: { text: 'x' } })
      .catch((error: unknown) => error)
    const { elicitations } = (refused as { data: { elicitations: { elicitationId: string }[] } })
      .data
    await broker.connect('ada')
    await expect.poll(() => heard.length).toBeGreaterThanOrEqual(4)
    expect(heard.slice(0, 4)).toEqual([
      ['notifications/elicitation/complete', elicitations[0]?.elicitationId],
      ...listsChanged.map((method) => [method, undefined]),
    ])
    for (const text of ['a', 'b', 'c']) {
      const result = await client.callTool({ name: 'echo', arguments: { text } })
      expect(result.content).toEqual([{ type: 'text', text }])
    }
    // One session at the upstream for both, and what it says without being asked reaches the client.
    expect(upstream.sessions.size).toBe(1)
    const spoken = async () => {
      await upstream.speak()
      return heard.at(-1)
    }
    await expect.poll(spoken).toEqual(['notifications/message', undefined])
    expect(streams).toBe(1)
    await client.close()
  })
})

function methodIn(body: Buffer): unknown {
  return body.length === 0 ? undefined : (JSON.parse(body.toString()) as Json)['method']
}

let sessions = 0

/** An MCP server of 2025 that wants `files:write` for a call. */
function answerAsServer(
  request: IncomingMessage,
  body: Buffer,
  response: ServerResponse,
  gets: Map<string, ServerResponse>,
): void {
  const session = request.headers['mcp-session-id']
  if (request.method === 'GET' && typeof session === 'string') {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.flushHeaders()
    gets.set(session, response)
    return
  }
  const method = methodIn(body)
  if (method === 'server/discover') {
    response.writeHead(404).end()
    return
  }
  if (method === 'tools/call' && !scopesOf(request).includes('files:write')) {
    const challenge = 'Bearer error="insufficient_scope", scope="files:write"'
    response.writeHead(403, { 'www-authenticate': challenge }).end()
    return
  }
  const begins = method === 'initialize'
  sessions += begins ? 1 : 0
  const id = begins ? { 'mcp-session-id': `session-${sessions}` } : {}
  response.writeHead(200, { 'content-type': 'application/json', ...id })
  const result = begins
    ? {
        protocolVersion: '2025-11-25',
        capabilities: { tools: {}, prompts: {}, resources: {} },
        serverInfo: { name: 'plain', version: '1' },
      }
    : { content: [{ type: 'text', text: 'written' }] }
  const message = JSON.parse(body.toString()) as Json
  response.end(JSON.stringify({ jsonrpc: '2.0', id: message['id'], result }))
}

function scopesOf(request: IncomingMessage): readonly string[] {
  const payload = request.headers.authorization?.split('.')[1] ?? ''
  const claims = JSON.parse(Buffer.from(payload, 'base64url').toString()) as { scope?: string }
  return claims.scope?.split(' ') ?? []
}
