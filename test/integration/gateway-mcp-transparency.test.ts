import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { z } from 'zod'
import { startTestBroker, type TestBroker } from '../support/broker.ts'
import { type RichMcpUpstream, startRichMcpUpstream } from '../support/rich-mcp-upstream.ts'

const modes = [
  ['the 2025 revisions', 'legacy' as const],
  ['2026-07-28', { pin: '2026-07-28' }],
] as const

describe('what works against an MCP server directly works the same through the gateway', () => {
  let upstream: RichMcpUpstream
  let broker: TestBroker
  let other: TestBroker

  beforeAll(async () => {
    upstream = await startRichMcpUpstream()
    broker = await startTestBroker({ filesUrl: upstream.url })
    other = await broker.startBeside()
    await broker.connect('ada')
    await broker.connect('grace')
  })
  afterAll(async () => {
    await other.stop()
    await broker.stop()
    await upstream.stop()
  })

  /** What servers asked of a client, and told it. */
  let asked: unknown[] = []
  let heard: unknown[] = []

  async function open(
    url: string,
    token: string,
    mode: 'legacy' | { pin: string },
  ): Promise<Client> {
    const client = new Client(
      { name: 'test', version: '1.0.0' },
      { versionNegotiation: { mode }, capabilities: { elicitation: { form: {}, url: {} } } },
    )
    client.setRequestHandler('elicitation/create', async ({ params }) => {
      // The id alone is another each time.
      asked.push({ ...params, elicitationId: 'elicitationId' in params ? 'any' : undefined })
      return 'url' in params ? { action: 'accept' } : { action: 'accept', content: { name: 'Ada' } }
    })
    client.fallbackNotificationHandler = async (notification) => void heard.push(notification)
    await client.connect(
      new StreamableHTTPClientTransport(new URL(url), {
        requestInit: { headers: { authorization: `Bearer ${token}` } },
      }),
    )
    return client
  }

  const through = async (person: string, mode: 'legacy' | { pin: string }, at = broker) =>
    open(`${at.url}/mcp/files`, await broker.tokenOf(person), mode)

  /** A call that its client gives up as soon as it has arrived: sooner, nobody would have to hear of it. */
  async function cancelledOnceBegun(client: Client, begun: number): Promise<unknown> {
    const controller = new AbortController()
    const call = client.callTool({ name: 'slow' }, { signal: controller.signal })
    call.catch(() => {})
    await expect.poll(() => upstream.slow.begun).toBe(begun + 1)
    controller.abort()
    return call
  }

  /** The same script, whoever the client talks to. */
  async function script(client: Client): Promise<Record<string, unknown>> {
    const progress: unknown[] = []
    asked = []
    heard = []
    const { begun, cancelled } = upstream.slow
    const failure = (work: Promise<unknown>) =>
      work.then(
        () => 'no failure',
        ({ code, message }: { code?: unknown; message?: unknown }) => ({ code, message }),
      )
    return {
      server: client.getServerVersion(),
      capabilities: client.getServerCapabilities(),
      instructions: client.getInstructions(),
      revision: client.getNegotiatedProtocolVersion(),
      tools: await client.listTools(),
      echo: await client.callTool({ name: 'echo', arguments: { text: 'ä€😀 \u2028' } }),
      long: await client.callTool({ name: 'echo', arguments: { text: 'x'.repeat(200_000) } }),
      invalid: await failure(client.callTool({ name: 'echo', arguments: { text: 1 } })),
      unknownTool: await failure(client.callTool({ name: 'nope' })),
      fail: await client.callTool({ name: 'fail' }),
      count: await client.callTool(
        { name: 'count' },
        { onprogress: (one) => void progress.push(one) },
      ),
      progress,
      ask: await client.callTool({ name: 'ask' }),
      link: await failure(client.callTool({ name: 'link' })),
      asked,
      cancelled: await failure(cancelledOnceBegun(client, begun)),
      isCancelledThere: await vi.waitUntil(() => upstream.slow.cancelled === cancelled + 1, {
        timeout: 10_000,
      }),
      level: await failure(client.setLoggingLevel('warning')),
      // A request of 2026-07-28 says for itself what it wants to hear.
      loud: await client.callTool({
        name: 'count',
        _meta: { 'io.modelcontextprotocol/logLevel': 'warning' },
      }),
      heard,
      ping: await failure(client.ping()),
      complete: await client.complete({
        ref: { type: 'ref/prompt', name: 'greet' },
        argument: { name: 'name', value: 'A' },
      }),
      unknownMethod: await failure(client.request({ method: 'nope/nothing' }, z.looseObject({}))),
      prompts: await client.listPrompts(),
      greet: await client.getPrompt({ name: 'greet', arguments: { name: 'Ada' } }),
      unknownPrompt: await failure(client.getPrompt({ name: 'nope' })),
      resources: await client.listResources(),
      templates: await client.listResourceTemplates(),
      fixed: await client.readResource({ uri: 'rich://fixed' }),
      named: await client.readResource({ uri: 'rich://named/a%20b' }),
      unknownResource: await failure(client.readResource({ uri: 'rich://nope' })),
    }
  }

  it.each(modes)('%s: one script, direct and through', async (_era, mode) => {
    const resolved = await broker.resolveAs('ada', 'files')
    const token = String(resolved.body['value']).slice('Bearer '.length)
    const direct = await open(upstream.url, token, mode)
    const expected = await script(direct)
    await direct.close()
    const client = await through('ada', mode)
    expect(await script(client)).toEqual(expected)
    await client.close()
    // Not the same for want of anything.
    expect(expected['heard']).not.toEqual([])
    expect(expected['asked']).toHaveLength(2)
    expect(expected['complete']).toMatchObject({ completion: { values: ['Ada', 'Alan'] } })
    expect(expected['ask']).toMatchObject({
      content: [{ text: 'Ada the-state-of-the-upstream' }],
    })
    expect(new Set(upstream.holders)).toEqual(new Set(['ada-at-files']))
  })

  it.each(modes)('%s: a cancelled call is cancelled at the upstream', async (_era, mode) => {
    const { begun, cancelled: before } = upstream.slow
    const client = await through('ada', mode)
    await expect(cancelledOnceBegun(client, begun)).rejects.toThrow()
    await expect.poll(() => upstream.slow.cancelled).toBe(before + 1)
    await client.close()
  })

  it('2025: a client that goes away has not cancelled its call', async () => {
    const { begun, finished } = upstream.slow
    const client = await through('ada', 'legacy')
    const call = client.callTool({ name: 'slow' }).catch(() => {})
    await expect.poll(() => upstream.slow.begun).toBe(begun + 1)
    await client.transport?.close()
    await call
    // Long enough for everybody to hear that it has gone.
    await new Promise((resolve) => setTimeout(resolve, 500))
    upstream.slow.end()
    await expect.poll(() => upstream.slow.finished).toBe(finished + 1)
  })

  it('P9, F-10: a session serves its own person, on every replica, and is 404 for everybody else', async () => {
    const [id, initialized] = await rawSession('ada')
    expect(initialized).toBe(202)
    const here = upstream.holders.length
    expect(await rawCall(broker, 'grace', id)).toBe(404)
    expect(await rawCall(broker, 'ada', `${id.startsWith('A') ? 'B' : 'A'}${id.slice(1)}`)).toBe(
      404,
    )
    expect(await rawCall(broker, 'ada', undefined)).toBe(400)
    expect(upstream.holders.length).toBe(here)
    expect(await rawCall(other, 'ada', id)).toBe(200)
    expect([...upstream.sessions.keys()]).not.toContain(id)
    for (const holders of upstream.sessions.values()) expect(holders.size).toBe(1)
  })

  it('an upstream that forgot its sessions is asked for a new one, and the client goes on', async () => {
    const client = await through('ada', 'legacy')
    await client.callTool({ name: 'echo', arguments: { text: 'before' } })
    upstream.forgetSessions()
    const after = await client.callTool({ name: 'echo', arguments: { text: 'after' } })
    expect(after.content).toEqual([{ type: 'text', text: 'after' }])
    await client.close()
  })

  it('a session that is opened before the connection gets one session at the upstream, however many calls come at once', async () => {
    await broker.call('DELETE', '/api/v1/connections/files', 'linus')
    const [id] = await rawSession('linus')
    await broker.connect('linus', 'grace-at-files')
    const before = upstream.sessions.size
    const statuses = await Promise.all(
      [broker, other, broker, other, broker, other].map((at) => rawCall(at, 'linus', id)),
    )
    expect(statuses).toEqual([200, 200, 200, 200, 200, 200])
    expect(upstream.sessions.size).toBe(before + 1)
  })

  it('a call in a session that is open reads no row', async () => {
    const [id] = await rawSession('ada')
    expect(await rawCall(broker, 'ada', id)).toBe(200)
    await broker.database.database.sql.begin(async (transaction) => {
      await transaction`LOCK TABLE gateway_session, credential, upstream_server IN ACCESS EXCLUSIVE MODE`
      expect(await rawCall(broker, 'ada', id)).toBe(200)
    })
  })

  it('a call of 2026-07-28 reads no row', async () => {
    expect(await rawModernCall('ada')).toBe(200)
    await broker.database.database.sql.begin(async (transaction) => {
      await transaction`LOCK TABLE gateway_session, credential, upstream_server IN ACCESS EXCLUSIVE MODE`
      expect(await rawModernCall('ada')).toBe(200)
    })
  })

  it('DELETE ends the session at the upstream and on every replica, also where it is in use', async () => {
    const [id] = await rawSession('ada')
    const both = () => Promise.all([broker, other].map((at) => rawCall(at, 'ada', id)))
    expect(await both()).toEqual([200, 200])
    const answer = await raw(broker, 'ada', 'DELETE', id)
    expect(answer.status).toBe(204)
    expect(await both()).toEqual([404, 404])
  })

  it('a new connection of its person is that of the session from the next call on, on every replica', async () => {
    const [id] = await rawSession('linus')
    const both = () => Promise.all([broker, other].map((at) => rawCall(at, 'linus', id)))
    expect(await both()).toEqual([200, 200])
    await broker.connect('linus', 'grace-at-files')
    const before = upstream.sessions.size
    expect(await both()).toEqual([200, 200])
    expect(await both()).toEqual([200, 200])
    expect(upstream.sessions.size).toBe(before + 1)
  })

  async function raw(
    at: TestBroker,
    person: string,
    method: string,
    session: string | undefined,
    body?: unknown,
  ): Promise<Response> {
    return fetch(`${at.url}/mcp/files`, {
      method,
      headers: {
        authorization: `Bearer ${await broker.tokenOf(person)}`,
        'content-type': 'application/json',
        accept: 'application/json, text/event-stream',
        ...(session === undefined ? {} : { 'mcp-session-id': session }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
  }

  async function rawCall(at: TestBroker, person: string, session: string | undefined) {
    const body = { jsonrpc: '2.0', id: 1, method: 'tools/call', params: { name: 'count' } }
    const answer = await raw(at, person, 'POST', session, body)
    await answer.text()
    return answer.status
  }

  async function rawModernCall(person: string): Promise<number> {
    const revision = '2026-07-28'
    const answer = await fetch(`${broker.url}/mcp/files`, {
      method: 'POST',
      headers: {
        authorization: `Bearer ${await broker.tokenOf(person)}`,
        'content-type': 'application/json',
        accept: 'application/json, text/event-stream',
        'mcp-protocol-version': revision,
        'mcp-method': 'tools/call',
        'mcp-name': 'count',
      },
      body: JSON.stringify({
        jsonrpc: '2.0',
        id: 1,
        method: 'tools/call',
        params: {
          name: 'count',
          _meta: {
            'io.modelcontextprotocol/protocolVersion': revision,
            'io.modelcontextprotocol/clientInfo': { name: 'raw', version: '1' },
            'io.modelcontextprotocol/clientCapabilities': {},
          },
        },
      }),
    })
    await answer.text()
    return answer.status
  }

  async function rawSession(person: string): Promise<[string, number]> {
    const clientInfo = { name: 'raw', version: '1' }
    const params = { protocolVersion: '2025-06-18', capabilities: {}, clientInfo }
    const begun = await raw(broker, person, 'POST', undefined, {
      jsonrpc: '2.0',
      id: 0,
      method: 'initialize',
      params,
    })
    await begun.text()
    const id = begun.headers.get('mcp-session-id') ?? ''
    const done = { jsonrpc: '2.0', method: 'notifications/initialized' }
    return [id, (await raw(broker, person, 'POST', id, done)).status]
  }
})

describe('an upstream that speaks the 2025 revisions only', () => {
  let upstream: RichMcpUpstream
  let broker: TestBroker

  beforeAll(async () => {
    upstream = await startRichMcpUpstream({ eras: 'session' })
    broker = await startTestBroker({ filesUrl: upstream.url })
    await broker.connect('ada')
  })
  afterAll(async () => {
    await broker.stop()
    await upstream.stop()
  })

  /** As a client of 2026-07-28 asks. */
  const listTools = async () =>
    fetch(`${broker.url}/mcp/files`, {
      method: 'POST',
      headers: {
        authorization: `Bearer ${await broker.tokenOf('ada')}`,
        'content-type': 'application/json',
        'mcp-protocol-version': '2026-07-28',
        'mcp-method': 'tools/list',
      },
      body: JSON.stringify({
        jsonrpc: '2.0',
        id: 1,
        method: 'tools/list',
        params: { _meta: { 'io.modelcontextprotocol/protocolVersion': '2026-07-28' } },
      }),
    })

  it('tells the very first call of 2026-07-28 so, which does not reach it', async () => {
    const answer = await listTools()
    expect(answer.status).toBe(400)
    expect(await answer.json()).toMatchObject({ id: 1, error: { code: -32022 } })
    // What it was asked itself is all.
    expect(upstream.holders).toHaveLength(1)
  })

  it('tells a client of 2026-07-28 so, who goes on with what it speaks', async () => {
    const token = await broker.tokenOf('ada')
    const client = new Client(
      { name: 'test', version: '1.0.0' },
      { versionNegotiation: { mode: 'auto' } },
    )
    await client.connect(
      new StreamableHTTPClientTransport(new URL(`${broker.url}/mcp/files`), {
        requestInit: { headers: { authorization: `Bearer ${token}` } },
      }),
    )
    expect(client.getNegotiatedProtocolVersion()).toBe('2025-11-25')
    expect((await client.listTools()).tools.length).toBeGreaterThan(3)
    await client.close()
    const answer = await listTools()
    expect(answer.status).toBe(400)
    expect(await answer.json()).toMatchObject({
      error: { code: -32022, data: { supported: ['2025-11-25', '2025-06-18', '2025-03-26'] } },
    })
  })
})
