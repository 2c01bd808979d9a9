import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { Secret } from '../../src/core/secret.ts'
import { createCredentialStore } from '../../src/sealing/credential-store.ts'
import { createEnvelope } from '../../src/sealing/envelope.ts'
import { createKeyring } from '../../src/sealing/keyring.ts'
import { createCredentialRecords } from '../../src/storage/credential-records.ts'
import { endpoints, holdRequest } from '../support/authorization-server.ts'
import {
  type Answer,
  startTestBroker,
  type TestBroker,
  type TestConfig,
} from '../support/broker.ts'

// V24: what an upstream's credential is bound to changes under stored connections, on all replicas or first on some.

let broker: TestBroker
const replicas: TestBroker[] = []
beforeAll(async () => {
  broker = await startTestBroker()
})
afterEach(async () => {
  for (const replica of replicas.splice(0)) await replica.stop()
})
afterAll(() => broker.stop())

const otherResource = 'http://127.0.0.1/files/v2'

async function startWith(change: (config: TestConfig) => void): Promise<TestBroker> {
  const replica = await broker.startBeside(change)
  replicas.push(replica)
  return replica
}

const requests = () => [
  broker.authorizationServer.received(endpoints.token).length,
  broker.authorizationServer.received(endpoints.revocation).length,
  broker.identityProvider.received(endpoints.token).length,
]

const rowsOf = (person: string) =>
  broker.database.database.sql<Record<string, unknown>[]>`
    SELECT generation, status, reason, access_token, refresh_token, authorization_server, client_id, resource,
      lease_owner, attempt_started_at, fail_count, next_try_at
    FROM credential WHERE user_id = ${person} ORDER BY upstream`

async function viewOf(replica: TestBroker, person: string, upstream = 'files') {
  const { body } = await replica.call('GET', `/api/v1/connections/${upstream}`, person)
  return { status: body['status'], reason: body['reason'] }
}

const connected = { status: 'connected', reason: null }
const changed = { status: 'reconnect_required', reason: 'configuration_changed' }

function expectChanged(answer: Answer): void {
  expect(answer.status).toBe(403)
  expect(answer.body).toMatchObject({ code: 'connect_required', reason: 'configuration_changed' })
  expect(answer.body['connect_url']).toMatch(/\/connect\//)
}

const changes: readonly [string, (config: TestConfig) => void][] = [
  [
    'the issuer',
    ({ upstreams }) => (upstreams.files.credential['issuer'] = 'http://127.0.0.1:9/as'),
  ],
  ['the client', ({ upstreams }) => (upstreams.files.credential.client_id = 'another-client')],
  ['the resource', ({ upstreams }) => (upstreams.files.credential['resource'] = otherResource)],
  [
    'whether a resource is sent',
    ({ upstreams }) => (upstreams.files.credential['resource_parameter'] = 'never'),
  ],
  [
    'the issuer for a written token endpoint',
    ({ upstreams }) => {
      const { issuer: _gone, ...credential } = upstreams.files.credential
      upstreams.files.credential = {
        ...credential,
        authorization_endpoint: `${broker.authorizationServer.url}/auth`,
        token_endpoint: `${broker.authorizationServer.url}/token`,
      }
    },
  ],
]

describe('a change of what a connection is bound to', () => {
  it.each(changes)(
    '%s: it has to be connected again, is left as it is, and nothing is sent',
    async (_what, change) => {
      await broker.connect('ada')
      const replica = await startWith(change)
      // Fresh, due for an early refresh, ended: each would be answered in another way.
      for (const expiresInSeconds of [3600, 30, -1]) {
        await broker.age('ada', 'files', { expiresInSeconds })
        const before = await rowsOf('ada')
        const sent = requests()
        expectChanged(await replica.resolveAs('ada', 'files'))
        expectChanged(await replica.resolveAs('ada', 'files', { rejected: 'whatever' }))
        expect(await viewOf(replica, 'ada')).toEqual(changed)
        const list = await replica.call('GET', '/api/v1/connections', 'ada')
        const all = list.body['connections'] as { upstream: string }[]
        expect(all.find(({ upstream }) => upstream === 'files')).toMatchObject(changed)
        expect(requests()).toEqual(sent)
        expect(await rowsOf('ada')).toEqual(before)
      }
      // Under the former configuration, it is what it was.
      expect((await broker.resolveAs('ada', 'files')).status).toBe(200)
      expect(await viewOf(broker, 'ada')).toEqual(connected)
    },
  )

  it.each<[string, (config: TestConfig) => void]>([
    [
      'an added scope',
      ({ upstreams }) => (upstreams.files.credential['scopes'] = ['files:read', 'files:write']),
    ],
    ['the name that people see', ({ upstreams }) => (upstreams.files['display_name'] = 'Papers')],
    [
      'when it is refreshed',
      ({ upstreams }) => (upstreams.files.credential['refresh_before'] = '5m'),
    ],
    [
      'where else it is reached',
      ({ upstreams }) => (upstreams.files['external_url'] = 'https://edge.example.com/files'),
    ],
  ])('%s changes nothing', async (_what, change) => {
    await broker.connect('ada')
    const replica = await startWith(change)
    expect((await replica.resolveAs('ada', 'files')).status).toBe(200)
    expect(await viewOf(replica, 'ada')).toEqual(connected)
  })

  it('connecting again under the new configuration replaces it', async () => {
    await broker.connect('ada')
    await broker.database.database.sql`
      UPDATE credential SET client_id = 'the-client-before' WHERE user_id = 'ada' AND upstream = 'files'`
    const fresh = await startWith(() => {})
    expectChanged(await fresh.resolveAs('ada', 'files'))
    await broker.connect('ada')
    expect((await fresh.resolveAs('ada', 'files')).status).toBe(200)
  })

  it('an exchange is simply made again, also without anybody where there is a token to exchange', async () => {
    expect((await broker.resolveAs('ada', 'reports')).status).toBe(200)
    const asserted = { user: { issuer: broker.identityProvider.issuer, id: 'ada' } }
    await broker.database.database.sql`
      UPDATE credential SET client_id = 'the-client-before' WHERE user_id = 'ada' AND upstream = 'reports'`
    const replica = await startWith(() => {})
    expect(await replica.resolve({ upstream: 'reports', ...asserted })).toMatchObject({
      status: 403,
      body: { code: 'connect_required', reason: 'configuration_changed' },
    })
    const sent = broker.identityProvider.received(endpoints.token).length
    expect((await replica.resolveAs('ada', 'reports')).status).toBe(200)
    expect(broker.identityProvider.received(endpoints.token).length - sent).toBe(1)
    expect((await replica.resolve({ upstream: 'reports', ...asserted })).status).toBe(200)
  })
})

describe('two replicas of different configurations, while one takes the other’s place', () => {
  /** The replica that was not changed yet; what it stored is bound to another resource. */
  const startOld = () =>
    startWith(({ upstreams }) => (upstreams.files.credential['resource'] = otherResource))

  /** Turns a connection into one that the old configuration made. */
  async function makeOld(person: string): Promise<void> {
    await broker.connect(person)
    await broker.database.database.sql`
      UPDATE credential SET resource = ${otherResource} WHERE user_id = ${person} AND upstream = 'files'`
  }

  it('each serves what is its own, and neither touches what is the other’s', async () => {
    await makeOld('ada')
    const old = await startOld()
    const fresh = await startWith(() => {})
    const before = await rowsOf('ada')
    for (let round = 0; round < 2; round += 1) {
      expect((await old.resolveAs('ada', 'files')).status).toBe(200)
      expectChanged(await fresh.resolveAs('ada', 'files'))
      expect(await viewOf(old, 'ada')).toEqual(connected)
      expect(await viewOf(fresh, 'ada')).toEqual(changed)
    }
    expect(await rowsOf('ada')).toEqual(before)
  })

  it('once the person connected at the new one, the old one uses that nowhere: cold, from memory, forced or ended', async () => {
    await makeOld('grace')
    const old = await startOld()
    const first = await old.resolveAs('grace', 'files')
    expect(first.status).toBe(200)
    await broker.connect('grace')
    const before = await rowsOf('grace')
    const sent = requests()
    // From its memory it may still serve what is its own, and it renews nothing that is not.
    expectChanged(await old.resolveAs('grace', 'files', { rejected: first.body['fingerprint'] }))
    expectChanged(await (await startOld()).resolveAs('grace', 'files'))
    expect(await viewOf(old, 'grace')).toEqual(changed)
    expect(await rowsOf('grace')).toEqual(before)
    expect(requests()).toEqual(sent)
    expect((await broker.resolveAs('grace', 'files')).status).toBe(200)
  })

  it('a renewal that finds what another configuration has stored meanwhile does not hand that out', async () => {
    await broker.connect('ada')
    await broker.age('ada', 'files', { expiresInSeconds: -1 })
    const replica = await startWith(() => {})
    const sent = broker.authorizationServer.received(endpoints.token).length
    const { fault, release } = holdRequest()
    broker.authorizationServer.fail(endpoints.token, fault, 1)
    const answer = replica.resolveAs('ada', 'files')
    await expect
      .poll(() => broker.authorizationServer.received(endpoints.token).length)
      .toBe(sent + 1)
    const keyring = createKeyring([{ id: 'k1', secret: new Secret(broker.encryptionKey) }])
    await createCredentialStore({
      records: createCredentialRecords(broker.database.database),
      sealer: createEnvelope(keyring),
    }).put(
      { issuer: broker.identityProvider.issuer, userId: 'ada', upstream: 'files' },
      {
        tokens: {
          accessToken: new Secret('a token for another resource'),
          refreshToken: undefined,
          expiresAt: undefined,
          scopes: undefined,
          account: undefined,
        },
        method: 'connect',
        scopes: [],
        audience: otherResource,
        binding: {
          authorizationServer: broker.authorizationServer.issuer,
          clientId: broker.authorizationServer.clientId,
          resource: otherResource,
        },
        renewed: false,
      },
    )
    release()
    expectChanged(await answer)
    const [row] = await rowsOf('ada')
    expect(row).toMatchObject({ status: 'connected', resource: otherResource })
  })

  it('a disconnect at one removes the other’s connection and sends its token to no server of another configuration', async () => {
    await broker.connect('ada')
    const other = await startWith(({ upstreams }) => {
      upstreams.files.credential.client_id = 'another-client'
    })
    const revoked = broker.authorizationServer.received(endpoints.revocation).length
    expect((await other.call('DELETE', '/api/v1/connections/files', 'ada')).status).toBe(204)
    expect(await viewOf(broker, 'ada')).toEqual({ status: 'not_connected', reason: null })
    expect((await broker.resolveAs('ada', 'files')).body['reason']).toBe('not_connected')
    expect(broker.authorizationServer.received(endpoints.revocation)).toHaveLength(revoked)
  })
})
