import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import type { NewClients } from '../../src/demo/sandbox-provider.ts'
import {
  endpoints,
  rewriteJson,
  startAuthorizationServer,
} from '../support/authorization-server.ts'
import { startTestBroker, type TestBroker } from '../support/broker.ts'
import type { TestConfig } from '../support/broker-servers.ts'
import { planMcpUpstream, type TestMcpUpstream } from '../support/mcp-upstream.ts'

const resourceDocument = '/.well-known/oauth-protected-resource/mcp'

type Room = { readonly broker: TestBroker; readonly upstream: TestMcpUpstream }

const rooms: Room[] = []

afterEach(async () => {
  for (const room of rooms.splice(0)) await stop(room)
})

async function stop({ broker, upstream }: Room): Promise<void> {
  await broker.stop()
  await upstream.stop()
}

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

async function whoami(room: Room, person: string): Promise<unknown> {
  return (await callWhoami(room, person)).structuredContent
}

async function callWhoami({ broker }: Room, person: string) {
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
    return await client.callTool({ name: 'whoami' })
  } finally {
    await client.close()
  }
}

/** How often the servers were asked so far. */
const timesAsked = ({ broker, upstream }: Room) => ({
  documents: upstream.received(resourceDocument).length,
  metadata: broker.authorizationServer.received(endpoints.metadata).length,
  registrations: broker.authorizationServer.received(endpoints.registration).length,
})

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

describe('what was found', () => {
  it('is found and registered once by two replicas that need it at the same time', async () => {
    const room = await startRoom()
    const beside = await room.broker.startBeside()
    const answers = await Promise.all(
      [room.broker, beside].map((broker) => broker.resolveAs('ada', 'files')),
    )
    expect(answers.map(({ body }) => body['code'])).toEqual([
      'connect_required',
      'connect_required',
    ])
    expect(timesAsked(room).registrations).toBe(1)
    await beside.stop()
  })

  it('outlives a restart, and a connection goes on with it', async () => {
    const room = await startRoom()
    await room.broker.connect('ada')
    const before = timesAsked(room)
    const restarted = await room.broker.startBeside()
    await restarted.age('ada', 'files', { expiresInSeconds: -1 })
    const { status } = await restarted.resolveAs('ada', 'files')
    expect(status).toBe(200)
    expect(timesAsked(room)).toEqual(before)
    await restarted.stop()
  })

  it('C9: another authorization server gets no token of the old one, and the person connects there', async () => {
    const room = await startRoom()
    const { broker, upstream } = room
    await broker.connect('ada')
    const { body } = await broker.resolveAs('ada', 'files')
    const other = await startAuthorizationServer({
      redirectUris: [],
      accounts: ['ada-elsewhere'],
      resources: [upstream.url],
      newClients: ['registration'],
      scan: broker.scan,
    })
    upstream.fail(
      resourceDocument,
      rewriteJson((document) => ({ ...document, authorization_servers: [other.issuer] })),
    )
    const refused = await broker.resolveAs('ada', 'files', { rejected: body['fingerprint'] })
    expect(refused.status).toBe(403)
    expect(refused.body).toMatchObject({
      code: 'connect_required',
      reason: 'configuration_changed',
    })
    const { body: listed } = await broker.call('GET', '/api/v1/connections/files', 'ada')
    expect(listed).toMatchObject({
      status: 'reconnect_required',
      reason: 'configuration_changed',
    })
    await broker.call('DELETE', '/api/v1/connections/files', 'ada')
    expect(other.received().filter(({ method }) => method === 'POST')).toMatchObject([
      { path: endpoints.registration },
    ])
    expect(broker.authorizationServer.received(endpoints.token)).toHaveLength(1)
    expect(broker.logged.join('')).toContain('"event":"upstream_server_changed"')
    await broker.connect('ada', 'ada-elsewhere')
    expect((await broker.resolveAs('ada', 'files')).status).toBe(200)
    await other.stop()
  })

  it('C9: through the gateway the person of a changed server is asked to connect, and the call is not lost on them', async () => {
    const room = await startRoom()
    const { broker, upstream } = room
    await broker.connect('ada')
    expect(await whoami(room, 'ada')).toMatchObject({ id: 'ada-at-files' })
    const other = await startAuthorizationServer({
      redirectUris: [],
      newClients: ['registration'],
      resources: [upstream.url],
    })
    upstream.fail(
      resourceDocument,
      rewriteJson((document) => ({ ...document, authorization_servers: [other.issuer] })),
    )
    upstream.fail('/mcp', {
      kind: 'answer',
      status: 401,
      headers: { 'www-authenticate': 'Bearer error="invalid_token"' },
    })
    const { content, isError } = await callWhoami(room, 'ada')
    expect(isError).toBe(true)
    expect(JSON.stringify(content)).toMatch(/\/connect\/[\w-]{43}/)
    await other.stop()
  })

  it('a client that its server forgot is registered anew, once, and the person connects again', async () => {
    const room = await startRoom()
    const { broker } = room
    const { authorizationServer } = broker
    await broker.connect('ada')
    const clientId = await clientIdIn(broker)
    await authorizationServer.forgetClient(clientId)
    await broker.age('ada', 'files', { expiresInSeconds: -1 })
    const refused = await broker.resolveAs('ada', 'files')
    expect(refused.body).toMatchObject({
      code: 'connect_required',
      reason: 'configuration_changed',
    })
    expect(timesAsked(room).registrations).toBe(2)
    await broker.connect('ada')
    const { body } = await broker.call('GET', '/api/v1/connections/files', 'ada')
    expect(body['status']).toBe('connected')

    await authorizationServer.forgetClient(await clientIdIn(broker))
    await broker.age('ada', 'files', { expiresInSeconds: -1 })
    expect((await broker.resolveAs('ada', 'files')).body['code']).toBe('upstream_misconfigured')
    expect(timesAsked(room).registrations).toBe(2)
  })

  it('another replica hears of it, and serves nothing of the old client', async () => {
    const { broker } = await startRoom()
    await broker.connect('ada')
    const beside = await broker.startBeside()
    await broker.authorizationServer.forgetClient(await clientIdIn(broker))
    await broker.age('ada', 'files', { expiresInSeconds: -1 })
    await broker.resolveAs('ada', 'files')
    await expect
      .poll(async () => (await beside.call('GET', '/api/v1/connections/files', 'ada')).body)
      .toMatchObject({ reason: 'configuration_changed' })
    await beside.stop()
  })

  async function clientIdIn({ database }: TestBroker): Promise<string> {
    const [row] = await database.database.sql<{ client_id: string }[]>`
      SELECT client_id FROM client_registration`
    return row?.client_id ?? ''
  }
})

describe('what was found, while its people are connected', () => {
  let room: Room

  beforeAll(async () => {
    room = await startRoom()
    rooms.pop()
    await room.broker.connect('ada')
  })
  afterAll(() => stop(room))

  it('is looked up again when a good credential is refused; the same server renews it', async () => {
    const before = timesAsked(room)
    const { body } = await room.broker.resolveAs('ada', 'files')
    const again = await room.broker.resolveAs('ada', 'files', { rejected: body['fingerprint'] })
    expect(again.status).toBe(200)
    expect(again.body['fingerprint']).not.toBe(body['fingerprint'])
    expect(timesAsked(room)).toEqual({
      documents: before.documents + 1,
      metadata: before.metadata + 1,
      registrations: 1,
    })
  })

  it('the server that people are connected at is kept while the upstream names it, wherever in its list', async () => {
    const { broker, upstream } = room
    const { body } = await broker.resolveAs('ada', 'files')
    const other = await startAuthorizationServer({ redirectUris: [], newClients: ['registration'] })
    const { issuer } = broker.authorizationServer
    const end = upstream.fail(
      resourceDocument,
      rewriteJson((document) => ({ ...document, authorization_servers: [other.issuer, issuer] })),
    )
    const again = await broker.resolveAs('ada', 'files', { rejected: body['fingerprint'] })
    expect(again.status).toBe(200)
    expect(other.received()).toHaveLength(0)
    end()
    await other.stop()
  })

  it('a server that is away for a moment loses nobody', async () => {
    const { broker, upstream } = room
    const { body } = await broker.resolveAs('ada', 'files')
    upstream.fail(resourceDocument, { kind: 'answer', status: 503 })
    upstream.fail('/mcp', { kind: 'answer', status: 503 })
    const again = await broker.resolveAs('ada', 'files', { rejected: body['fingerprint'] })
    expect(again.status).toBe(200)
  })
})

describe('connecting at a server that was found', () => {
  it('C6: refuses an answer without the issuer that the metadata promise', async () => {
    const { broker } = await startRoom()
    broker.authorizationServer.answerWithIssuer('missing')
    await expect(broker.connect('ada')).rejects.toThrow('not connected')
    expect(broker.authorizationServer.received(endpoints.token)).toHaveLength(0)
  })

  it('asks for what the challenge says, and for offline_access where the server lists it', async () => {
    const { broker, upstream } = await startRoom()
    upstream.fail('/mcp', {
      kind: 'answer',
      status: 401,
      headers: {
        'www-authenticate': `Bearer scope="files:read", resource_metadata="${upstream.origin}${resourceDocument}"`,
      },
    })
    broker.authorizationServer.changeMetadata((metadata) => ({
      ...metadata,
      scopes_supported: ['files:read', 'files:write', 'offline_access'],
    }))
    await broker.connect('ada').catch(() => {})
    const [asked] = broker.authorizationServer.received(endpoints.authorization)
    const query = new URL(asked?.target ?? '', broker.url).searchParams
    expect(query.get('scope')).toBe('files:read offline_access')
    expect(query.get('prompt')).toBe('consent')
  })

  it('asks for the written scopes, at the written issuer, where they are written, whether or not the upstream answers', async () => {
    const { broker, upstream } = await startRoom(['registration'], (files, { upstreams }) => {
      const { issuer } = upstreams.files.credential
      files['credential'] = { mode: 'oauth_connect', issuer, scopes: ['files:read'] }
    })
    upstream.fail(resourceDocument, { kind: 'answer', status: 503 })
    upstream.fail('/mcp', { kind: 'lose' })
    await broker.connect('ada')
    const { body } = await broker.call('GET', '/api/v1/connections/files', 'ada')
    expect(body).toMatchObject({ status: 'connected', scopes: ['files:read'] })
  })
})
