import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { startTestBroker, type TestBroker } from '../support/broker.ts'
import { planMcpUpstream, type TestMcpUpstream } from '../support/mcp-upstream.ts'

const modes = [
  ['the 2025 revisions', 'legacy' as const],
  ['2026-07-28', { pin: '2026-07-28' }],
] as const

describe('/mcp: an MCP upstream behind the gateway, with the official SDK', () => {
  let broker: TestBroker
  let upstream: TestMcpUpstream
  const clients: Client[] = []

  beforeAll(async () => {
    const planned = await planMcpUpstream()
    broker = await startTestBroker({
      filesUrl: planned.url,
      change(config) {
        config.upstreams.files.credential['scopes'] = ['files:read', 'files:write']
      },
    })
    upstream = await planned.start({ issuer: broker.authorizationServer.issuer })
  })
  afterEach(async () => {
    await Promise.all(clients.splice(0).map((client) => client.close()))
  })
  afterAll(async () => {
    await broker.stop()
    await upstream.stop()
  })

  async function clientOf(
    person: string,
    mode: 'legacy' | { pin: string },
    capabilities: object = {},
  ): Promise<Client> {
    const client = new Client(
      { name: 'test', version: '1.0.0' },
      { versionNegotiation: { mode }, capabilities },
    )
    clients.push(client)
    const token = await broker.tokenOf(person)
    await client.connect(
      new StreamableHTTPClientTransport(new URL(`${broker.url}/mcp/files`), {
        requestInit: { headers: { authorization: `Bearer ${token}` } },
      }),
    )
    return client
  }

  it.each(modes)(
    '%s: before there is a connection the server is well and has one tool, whose call gives the link',
    async (_era, mode) => {
      const client = await clientOf('grace', mode)
      const { tools } = await client.listTools()
      expect(tools.map(({ name }) => name)).toEqual(['connect_files'])
      const result = await client.callTool({ name: 'anything' })
      expect(result.isError).toBe(true)
      expect(JSON.stringify(result.content)).toMatch(/\/connect\/[\w-]{43}/)
    },
  )

  it.each(modes)('%s: once connected, the upstream answers as the person', async (_era, mode) => {
    await broker.connect('ada')
    const client = await clientOf('ada', mode)
    const { tools } = await client.listTools()
    expect(tools.map(({ name }) => name)).toEqual(['whoami', 'list_notes', 'write_note'])
    const { structuredContent } = await client.callTool({ name: 'whoami' })
    expect(structuredContent).toMatchObject({ id: 'ada-at-files' })
    const again = await client.callTool({ name: 'connect_files' })
    expect(JSON.stringify(again.content)).toContain('is connected')
  })

  it.each(modes)('%s: the same session goes on once its person connected', async (_era, mode) => {
    await disconnect('linus')
    const client = await clientOf('linus', mode)
    expect((await client.listTools()).tools.map(({ name }) => name)).toEqual(['connect_files'])
    await broker.connect('linus', 'grace-at-files')
    const { structuredContent } = await client.callTool({ name: 'whoami' })
    expect(structuredContent).toMatchObject({ id: 'grace-at-files' })
    expect((await client.listTools()).tools).toHaveLength(3)
  })

  it('2026-07-28: a call waits for its person to open the link and connect, then gives the result', async () => {
    await disconnect('linus')
    const client = await clientOf('linus', { pin: '2026-07-28' }, { elicitation: { url: {} } })
    const links: unknown[] = []
    client.setRequestHandler('elicitation/create', async ({ params }) => {
      links.push(params)
      setTimeout(() => void broker.connect('linus', 'grace-at-files'), 100)
      return { action: 'accept' }
    })
    const { structuredContent } = await client.callTool({ name: 'whoami' })
    expect(structuredContent).toMatchObject({ id: 'grace-at-files' })
    expect(links).toHaveLength(1)
    expect(JSON.stringify(links)).toMatch(/"mode":"url".*\/connect\/[\w-]{43}"/)
  })

  it.each(['decline', 'cancel'] as const)(
    '2026-07-28: %s ends the prompt with the link as text',
    async (action) => {
      await disconnect('linus')
      const client = await clientOf('linus', { pin: '2026-07-28' }, { elicitation: { url: {} } })
      client.setRequestHandler('elicitation/create', async () => ({ action }))
      const result = await client.callTool({ name: 'whoami' })
      expect(result.isError).toBe(true)
      expect(JSON.stringify(result.content)).toMatch(/\/connect\/[\w-]{43}/)
    },
  )

  it('2025-11-25: a client that takes links gets error -32042, and is told on its stream when it is done', async () => {
    await disconnect('linus')
    const client = await clientOf('linus', 'legacy', { elicitation: { url: {} } })
    const heard: string[] = []
    client.fallbackNotificationHandler = async ({ method, params }) => {
      heard.push(
        method === 'notifications/elicitation/complete'
          ? String(params?.['elicitationId'])
          : method,
      )
    }
    const refused = await client.callTool({ name: 'whoami' }).then(
      () => undefined,
      (error: { code?: number; data?: { elicitations?: { elicitationId: string }[] } }) => error,
    )
    expect(refused?.code).toBe(-32042)
    const elicitationId = refused?.data?.elicitations?.[0]?.elicitationId
    await broker.connect('linus', 'grace-at-files')
    await expect.poll(() => heard).toEqual([elicitationId, 'notifications/tools/list_changed'])
    expect((await client.listTools()).tools).toHaveLength(3)
  })

  async function disconnect(person: string): Promise<void> {
    await broker.call('DELETE', '/api/v1/connections/files', person)
  }
})
