import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { startTestBroker, type TestBroker } from '../support/broker.ts'
import { createBrowser, followConnectLink } from '../support/browser.ts'
import { type RichMcpUpstream, startRichMcpUpstream } from '../support/rich-mcp-upstream.ts'

describe('an upstream that wants more scope for a call', () => {
  let upstream: RichMcpUpstream
  let broker: TestBroker
  const clients: Client[] = []

  beforeAll(async () => {
    upstream = await startRichMcpUpstream({ toolScopes: { echo: 'files:write', count: 'other' } })
    broker = await startTestBroker({ filesUrl: upstream.url })
  })
  afterEach(async () => {
    await Promise.all(clients.splice(0).map((client) => client.close()))
    await broker.call('DELETE', '/api/v1/connections/files', 'ada')
    await broker.database.database.sql`DELETE FROM step_up`
  })
  afterAll(async () => {
    await broker.stop()
    await upstream.stop()
  })

  async function clientOf(mode: 'legacy' | { pin: string }, takesLinks = true): Promise<Client> {
    const client = new Client(
      { name: 'test', version: '1.0.0' },
      {
        versionNegotiation: { mode },
        capabilities: takesLinks ? { elicitation: { url: {} } } : {},
      },
    )
    clients.push(client)
    await client.connect(
      new StreamableHTTPClientTransport(new URL(`${broker.url}/mcp/files`), {
        requestInit: { headers: { authorization: `Bearer ${await broker.tokenOf('ada')}` } },
      }),
    )
    return client
  }

  const open = (link: string, decision: 'allow' | 'deny') =>
    followConnectLink(createBrowser(), link, { person: 'ada', account: 'ada-at-files', decision })

  const scopes = async () => {
    const { body } = await broker.call('GET', '/api/v1/connections/files', 'ada')
    return body['scopes']
  }

  const echo = { name: 'echo', arguments: { text: 'more' } }

  it('2026-07-28: the person gives what is configured, granted and asked for, and the call goes on', async () => {
    await broker.connect('ada')
    const client = await clientOf({ pin: '2026-07-28' })
    client.setRequestHandler('elicitation/create', async ({ params }) => {
      setTimeout(() => void open(String((params as { url?: string }).url), 'allow'), 100)
      return { action: 'accept' }
    })
    const result = await client.callTool(echo)
    expect(result.content).toEqual([{ type: 'text', text: 'more' }])
    expect(await scopes()).toEqual(['files:read', 'files:write'])
  })

  it('2025-11-25: the same in error -32042, and the next try works', async () => {
    await broker.connect('ada')
    const client = await clientOf('legacy')
    const refused = await client.callTool(echo).catch((error: unknown) => error)
    expect(refused).toMatchObject({ code: -32042 })
    const { elicitations } = (refused as { data: { elicitations: { url: string }[] } }).data
    await open(String(elicitations[0]?.url), 'allow')
    expect((await client.callTool(echo)).content).toEqual([{ type: 'text', text: 'more' }])
  })

  it('a client that takes no links gets the link as text', async () => {
    await broker.connect('ada')
    const client = await clientOf({ pin: '2026-07-28' }, false)
    const result = await client.callTool(echo)
    expect(result.isError).toBe(true)
    expect(JSON.stringify(result.content)).toMatch(/\/connect\/[\w-]{43}/)
  })

  it('declining keeps the connection as it was', async () => {
    await broker.connect('ada')
    const client = await clientOf('legacy')
    const refused = await client.callTool(echo).catch((error: unknown) => error)
    const { elicitations } = (refused as { data: { elicitations: { url: string }[] } }).data
    await open(String(elicitations[0]?.url), 'deny')
    const { body } = await broker.call('GET', '/api/v1/connections/files', 'ada')
    expect(body).toMatchObject({ status: 'connected', scopes: ['files:read'] })
    expect((await client.callTool({ name: 'fail' })).isError).toBe(true)
  })

  it('a person who gave the same three times in 10 minutes is not asked again: the 403 passes', async () => {
    await broker.connect('ada')
    await broker.database.database.sql`
      INSERT INTO step_up (issuer, user_id, upstream, scopes, completed_at)
      SELECT ${broker.identityProvider.issuer}, 'ada', 'files', '{files:read,files:write}', now()
      FROM generate_series(1, 3)`
    const answer = await rawEcho()
    expect(answer.status).toBe(403)
    expect(await answer.json()).toEqual({ error: 'insufficient_scope' })
    expect(answer.headers.get('www-authenticate')).toBeNull()
  })

  async function rawEcho(): Promise<Response> {
    return fetch(`${broker.url}/mcp/files`, {
      method: 'POST',
      headers: {
        authorization: `Bearer ${await broker.tokenOf('ada')}`,
        'content-type': 'application/json',
        accept: 'application/json, text/event-stream',
        'mcp-protocol-version': '2026-07-28',
        'mcp-method': 'tools/call',
        'mcp-name': 'echo',
      },
      body: JSON.stringify({
        jsonrpc: '2.0',
        id: 1,
        method: 'tools/call',
        params: {
          ...echo,
          _meta: {
            'io.modelcontextprotocol/protocolVersion': '2026-07-28',
            'io.modelcontextprotocol/clientCapabilities': {},
          },
        },
      }),
    })
  }
})
