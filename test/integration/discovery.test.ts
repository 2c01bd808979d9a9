import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client'
import { afterEach, describe, expect, it } from 'vitest'
import type { NewClients } from '../../src/demo/sandbox-provider.ts'
import { endpoints } from '../support/authorization-server.ts'
import { startTestBroker, type TestBroker } from '../support/broker.ts'
import type { TestConfig } from '../support/broker-servers.ts'
import { planMcpUpstream, type TestMcpUpstream } from '../support/mcp-upstream.ts'

type Room = { readonly broker: TestBroker; readonly upstream: TestMcpUpstream }

const rooms: Room[] = []

afterEach(async () => {
  for (const { broker, upstream } of rooms.splice(0)) {
    await broker.stop()
    await upstream.stop()
  }
})

/** A broker that knows nothing of `files` but its url, and the real servers that say the rest. */
async function startRoom(
  newClients: NewClients = ['registration'],
  change: (files: Record<string, unknown>, config: TestConfig) => void = () => {},
): Promise<Room> {
  const planned = await planMcpUpstream()
  const broker = await startTestBroker({
    filesUrl: planned.url,
    newClients,
    change(config) {
      const files: Record<string, unknown> = { url: planned.url, allow_private_network: true }
      change(files, config)
      Object.assign(config.upstreams, { files })
    },
  })
  const upstream = await planned.start({ issuer: broker.authorizationServer.issuer })
  rooms.push({ broker, upstream })
  return { broker, upstream }
}

async function whoami({ broker }: Room, person: string): Promise<unknown> {
  const client = new Client(
    { name: 'test', version: '1.0.0' },
    { versionNegotiation: { mode: { pin: '2026-07-28' } } },
  )
  const token = await broker.tokenOf(person)
  await client.connect(
    new StreamableHTTPClientTransport(new URL(`${broker.url}/mcp/files`), {
      requestInit: { headers: { authorization: `Bearer ${token}` } },
    }),
  )
  try {
    return (await client.callTool({ name: 'whoami' })).structuredContent
  } finally {
    await client.close()
  }
}

describe('an upstream that is given by its url alone', () => {
  it.each([
    ['with a registration', ['registration'], /^[\w-]{21,}$/],
    ['with our own document', ['documents'], /\/oauth-client\/files$/],
  ] as const)('connects %s, from nothing to a tool result', async (_how, newClients, id) => {
    const room = await startRoom(newClients)
    const { broker, upstream } = room
    expect(upstream.counts().refused).toBe(0)
    await broker.connect('ada')
    expect(await whoami(room, 'ada')).toMatchObject({
      id: 'ada-at-files',
      clientId: expect.stringMatching(id) as string,
      scopes: ['files:read', 'files:write'],
    })
    const [asked] = broker.authorizationServer.received(endpoints.authorization)
    const query = new URL(asked?.target ?? '', broker.url).searchParams
    expect(query.get('resource')).toBe(upstream.url)
    expect(query.get('code_challenge_method')).toBe('S256')
    expect(query.get('scope')).toBe('files:read files:write')
    expect(broker.authorizationServer.received(endpoints.registration)).toHaveLength(
      newClients[0] === 'registration' ? 1 : 0,
    )
    const { body } = await broker.call('GET', '/api/v1/connections/files', 'ada')
    expect(body).toMatchObject({ status: 'connected', audience: upstream.url })
  })
})
