import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startTestBroker, type TestBroker } from '../support/broker.ts'
import {
  byPath,
  json,
  type Script,
  type ScriptedServer,
  startScriptedServer,
  text,
} from '../support/scripted-server.ts'

type Scripts = Record<string, Script>

const resourceDocument = '/.well-known/oauth-protected-resource/mcp'
const serverMetadata = '/.well-known/oauth-authorization-server'

/** An upstream and its authorization server in one, as good as the others. */
function goodServer(origin: string): {
  readonly resource: Record<string, unknown>
  readonly metadata: Record<string, unknown>
} {
  return {
    resource: { resource: `${origin}/mcp`, authorization_servers: [origin] },
    metadata: {
      issuer: origin,
      authorization_endpoint: `${origin}/authorize`,
      token_endpoint: `${origin}/token`,
      registration_endpoint: `${origin}/register`,
      code_challenge_methods_supported: ['S256'],
    },
  }
}

function scriptsOf(
  origin: string,
  change: {
    readonly resource?: Record<string, unknown>
    readonly metadata?: Record<string, unknown>
    readonly also?: Scripts
  } = {},
): Scripts {
  const good = goodServer(origin)
  return {
    '/mcp': json({}, 401, { 'www-authenticate': 'Bearer' }),
    [resourceDocument]: json({ ...good.resource, ...change.resource }),
    [serverMetadata]: json({ ...good.metadata, ...change.metadata }),
    '/register': json({ client_id: 'made-for-us', token_endpoint_auth_method: 'none' }, 201),
    ...change.also,
  }
}

const huge: Script = (_request, response) => {
  response.writeHead(200, { 'content-type': 'application/json', 'content-length': '1000000000' })
  response.write('{"resource":"')
}

type Case = {
  readonly what: string
  readonly step: string
  readonly fault: string
  readonly code?: string
  readonly scripts: (origin: string, other: string) => Scripts
}

const cases: readonly Case[] = [
  {
    what: 'names another origin as its resource',
    step: 'resource_metadata',
    fault: 'resource_mismatch',
    scripts: (origin) =>
      scriptsOf(origin, { resource: { resource: 'https://victim.example/mcp' } }),
  },
  {
    what: 'names a path beside its own',
    step: 'resource_metadata',
    fault: 'resource_mismatch',
    scripts: (origin) => scriptsOf(origin, { resource: { resource: `${origin}/mc` } }),
  },
  {
    what: 'names no authorization server',
    step: 'resource_metadata',
    fault: 'no_authorization_server',
    scripts: (origin) => scriptsOf(origin, { resource: { authorization_servers: [] } }),
  },
  {
    what: 'has no document',
    step: 'resource_metadata',
    fault: 'not_found',
    scripts: (origin) => ({
      ...scriptsOf(origin),
      [resourceDocument]: text('', 'text/plain', 404),
    }),
  },
  {
    what: 'answers with HTML',
    step: 'resource_metadata',
    fault: 'unreadable',
    scripts: (origin) =>
      scriptsOf(origin, { also: { [resourceDocument]: text('<p>', 'text/html') } }),
  },
  {
    what: 'redirects',
    step: 'resource_metadata',
    fault: 'redirect',
    scripts: (origin, other) =>
      scriptsOf(origin, {
        also: { [resourceDocument]: text('', 'text/plain', 307, { location: `${other}/prm` }) },
      }),
  },
  {
    what: 'promises a gigabyte',
    step: 'resource_metadata',
    fault: 'too_large',
    scripts: (origin) => scriptsOf(origin, { also: { [resourceDocument]: huge } }),
  },
  {
    what: 'names a document at a private address in its challenge',
    step: 'resource_metadata',
    fault: 'address_refused',
    code: 'upstream_unavailable',
    scripts: (origin, other) =>
      scriptsOf(origin, {
        also: {
          '/mcp': json({}, 401, {
            'www-authenticate': `Bearer resource_metadata="${other}/prm"`,
          }),
        },
      }),
  },
  {
    what: 'names a document that is no URL of the web',
    step: 'resource_metadata',
    fault: 'url_unusable',
    scripts: (origin) =>
      scriptsOf(origin, {
        also: {
          '/mcp': json({}, 401, { 'www-authenticate': 'Bearer resource_metadata="file:///etc"' }),
        },
      }),
  },
  {
    what: 'names an authorization server at a private address',
    step: 'server_metadata',
    fault: 'issuer_unusable',
    scripts: (origin) =>
      scriptsOf(origin, { resource: { authorization_servers: ['http://10.0.0.7'] } }),
  },
  {
    what: 'names an authorization server at a loopback address that nobody wrote',
    step: 'server_metadata',
    fault: 'address_refused',
    code: 'upstream_unavailable',
    scripts: (origin, other) => scriptsOf(origin, { resource: { authorization_servers: [other] } }),
  },
  {
    what: 'names the metadata service of a cloud',
    step: 'server_metadata',
    fault: 'address_refused',
    code: 'upstream_unavailable',
    scripts: (origin) =>
      scriptsOf(origin, { resource: { authorization_servers: ['https://169.254.169.254'] } }),
  },
  {
    what: 'leads to metadata of another issuer',
    step: 'server_metadata',
    fault: 'issuer_mismatch',
    scripts: (origin) => scriptsOf(origin, { metadata: { issuer: `${origin}/` } }),
  },
  {
    what: 'C10: leads to a server that does not advertise PKCE',
    step: 'server_metadata',
    fault: 'pkce_not_advertised',
    scripts: (origin) =>
      scriptsOf(origin, { metadata: { code_challenge_methods_supported: undefined } }),
  },
  {
    what: 'C10: leads to a server that takes plain PKCE only',
    step: 'server_metadata',
    fault: 'pkce_not_advertised',
    scripts: (origin) =>
      scriptsOf(origin, { metadata: { code_challenge_methods_supported: ['plain'] } }),
  },
  {
    what: 'C19: leads to a server whose endpoint would run a script',
    step: 'server_metadata',
    fault: 'endpoint_missing',
    scripts: (origin) =>
      scriptsOf(origin, { metadata: { authorization_endpoint: 'javascript:alert(1)' } }),
  },
  {
    what: 'leads to a server that takes no new client',
    step: 'client',
    fault: 'no_way_to_register',
    scripts: (origin) => scriptsOf(origin, { metadata: { registration_endpoint: undefined } }),
  },
  {
    what: 'leads to a server that refuses to register',
    step: 'client',
    fault: 'registration_refused',
    scripts: (origin) => scriptsOf(origin, { also: { '/register': json({}, 403) } }),
  },
  {
    what: 'leads to a server that registers at a loopback address that nobody wrote',
    step: 'client',
    fault: 'address_refused',
    code: 'upstream_unavailable',
    scripts: (origin, other) =>
      scriptsOf(origin, { metadata: { registration_endpoint: `${other}/register` } }),
  },
  {
    what: 'leads to a server that registers us without an id',
    step: 'client',
    fault: 'unreadable',
    scripts: (origin) => scriptsOf(origin, { also: { '/register': json({}, 201) } }),
  },
]

describe('an upstream by its url alone that', () => {
  let broker: TestBroker
  let other: ScriptedServer
  let good: ScriptedServer
  let odd: ScriptedServer
  const servers: ScriptedServer[] = []

  beforeAll(async () => {
    other = await startScriptedServer(json({}))
    good = await startScriptedServer()
    good.script(byPath(scriptsOf(good.origin)))
    odd = await startScriptedServer()
    const client = { client_id: 'x', client_secret: 'y', client_secret_expires_at: 1e300 }
    odd.script(byPath(scriptsOf(odd.origin, { also: { '/register': json(client, 201) } })))
    for (const { scripts } of cases) {
      const server = await startScriptedServer()
      server.script(byPath(scripts(server.origin, other.origin)))
      servers.push(server)
    }
    broker = await startTestBroker({
      change({ upstreams }) {
        const more = servers.map(({ origin }, at) => [`bad-${at}`, { url: `${origin}/mcp` }])
        Object.assign(upstreams, Object.fromEntries(more), {
          good: { url: `${good.origin}/mcp` },
          odd: { url: `${odd.origin}/mcp` },
        })
      },
    })
  })
  afterAll(async () => {
    await broker.stop()
    await Promise.all([other, good, odd, ...servers].map((server) => server.close()))
  })

  it.each(cases.map((one, at) => ({ ...one, at })))(
    '$what is 502 for itself alone, and the log says where it failed',
    async ({ at, step, fault, code = 'upstream_misconfigured' }) => {
      const answer = await broker.resolveAs('ada', `bad-${at}`)
      expect(answer.status).toBe(502)
      expect(answer.body['code']).toBe(code)
      const line = broker.logged
        .map((entry) => JSON.parse(entry) as Record<string, unknown>)
        .find(
          ({ event, upstream }) =>
            event?.toString().endsWith('discovery_failed') === true && upstream === `bad-${at}`,
        )
      expect(line).toMatchObject({ step, fault })
      expect(other.connections()).toBe(0)
      expect(
        servers[at]?.requests.every(({ headers }) => headers.authorization === undefined),
      ).toBe(true)
    },
  )

  it('is as good as any is connected beside them', async () => {
    const answer = await broker.resolveAs('ada', 'good')
    expect(answer.body).toMatchObject({ code: 'connect_required', reason: 'not_connected' })
  })

  it('leads to a server that registers us until a time that is none is connected, and registers us once', async () => {
    for (const person of ['ada', 'linus']) {
      const answer = await broker.resolveAs(person, 'odd')
      expect(answer.body).toMatchObject({ code: 'connect_required', reason: 'not_connected' })
    }
    expect(odd.requests.filter(({ path }) => path === '/register')).toHaveLength(1)
  })

  it('failed is unavailable in lists, to people and to admins', async () => {
    await broker.resolveAs('ada', 'bad-0')
    const { body } = await broker.call('GET', '/api/v1/connections/bad-0', 'ada')
    expect(body).toMatchObject({ status: 'unavailable', reason: null })
    const { body: overview } = await broker.call('GET', '/api/v1/admin/upstreams', 'linus')
    expect(overview['upstreams']).toContainEqual(
      expect.objectContaining({ upstream: 'bad-0', health: 'failing' }),
    )
  })

  it('failed is not asked again by every call', async () => {
    const begunMs = performance.now()
    await broker.resolveAs('ada', 'bad-0')
    const before = servers[0]?.requests.length
    await Promise.all([broker.resolveAs('ada', 'bad-0'), broker.resolveAs('linus', 'bad-0')])
    // It is by the next one that comes after five seconds, which a slow machine may need for that.
    const wasQuick = performance.now() - begunMs < 5000
    if (wasQuick) expect(servers[0]?.requests).toHaveLength(before ?? 0)
  })
})
