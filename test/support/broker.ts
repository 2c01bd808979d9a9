import { randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { findFreePort } from '../../src/demo/loopback-server.ts'
import { type Broker, type BrokerHooks, createBroker } from '../../src/index.ts'
import {
  startAuthorizationServer,
  startIdentityProvider,
  type TestAuthorizationServer,
  type TestIdentityProvider,
} from './authorization-server.ts'
import { createBrowser, followConnectLink, type ScriptedBrowser } from './browser.ts'
import { createTestDatabase, type TestDatabase } from './database.ts'
import { canaryPrefixes, createSecretScan, type SecretScan } from './secret-scan.ts'

/** An answer of the REST API. */
export type Answer = {
  readonly status: number
  readonly headers: Headers
  readonly body: Record<string, unknown>
  readonly text: string
}

/** A broker in this process on real parts: PostgreSQL, an identity provider, an authorization server. */
export type TestBroker = {
  readonly url: string
  readonly identityProvider: TestIdentityProvider
  /** Of the upstream `files` (`oauth_connect`). */
  readonly authorizationServer: TestAuthorizationServer
  readonly database: TestDatabase
  readonly broker: Broker
  readonly scan: SecretScan
  readonly serviceKey: string
  tokenOf(person: string): Promise<string>
  /** `POST /api/v1/resolve` as the service. */
  resolve(body: Record<string, unknown>, key?: string): Promise<Answer>
  /** For a person's access token. */
  resolveAs(person: string, upstream: string, more?: Record<string, unknown>): Promise<Answer>
  /** Any call with a person's bearer. */
  call(method: string, path: string, person?: string, body?: unknown): Promise<Answer>
  /** Connects `files` through a scripted browser of its own. */
  connect(person: string, account?: string, browser?: ScriptedBrowser): Promise<void>
  /** Rows of the activity table, oldest first, once the given number is there. */
  records(count: number): Promise<readonly ActivityRow[]>
  /** Sets columns of one connection. */
  age(person: string, upstream: string, set: { expiresInSeconds: number }): Promise<void>
  /** Another broker on the same database, keys and servers, as a replica or after a restart; its memory is empty. */
  startBeside(change?: (config: TestConfig) => void): Promise<TestBroker>
  /** Stops the broker; the one that was started first takes its servers and database with it. */
  stop(): Promise<void>
}

export type ActivityRow = {
  readonly user_id: string | null
  readonly upstream: string | null
  readonly type: string
  readonly actor_kind: string
  readonly actor_id: string
  readonly action: string
  readonly method: string
  readonly outcome: string
  readonly reason: string | null
  readonly request_id: string
}

export const filesUrl = 'http://127.0.0.1/files'
export const reportsTarget = 'http://127.0.0.1/reports'

/**
 * Upstreams: `files` (oauth_connect), `reports` (token_exchange) and `graph` (entra_obo), the last two at the identity provider.
 * `change` edits the configuration before it is used.
 */
export async function startTestBroker(
  options: {
    readonly change?: (config: TestConfig) => void
    readonly hooks?: BrokerHooks
    readonly accessTokenSeconds?: number
    readonly refreshReuse?: 'strict' | 'none'
    readonly storeSubjectToken?: boolean
  } = {},
): Promise<TestBroker> {
  const scan = createSecretScan()
  const port = await findFreePort()
  const url = `http://127.0.0.1:${port}`
  const database = await createTestDatabase()
  const dataDir = await mkdtemp(join(tmpdir(), 'onbehalf-test-'))
  const serviceKey = `${canaryPrefixes.clientSecret}service-${randomBytes(24).toString('hex')}`
  const encryptionKey = randomBytes(32).toString('base64')
  scan.register('service key', serviceKey)
  scan.register('encryption key', encryptionKey)
  const identityProvider = await startIdentityProvider({
    audience: url,
    targets: {
      [reportsTarget]: { scopes: ['reports:read'], accessTokenSeconds: 300, format: 'jwt' },
    },
    scan,
  })
  const authorizationServer = await startAuthorizationServer({
    redirectUris: [`${url}/callback/files`],
    accounts: ['ada-at-files', 'grace-at-files'],
    resources: [filesUrl],
    accessTokenSeconds: options.accessTokenSeconds ?? 3600,
    refreshReuse: options.refreshReuse ?? 'strict',
    scan,
  })
  const config: TestConfig = {
    public_url: url,
    listen: { port },
    data_dir: dataDir,
    database: { url: database.url },
    encryption: { keys: [{ id: 'k1', secret: encryptionKey }] },
    identity: {
      issuers: [{ issuer: identityProvider.issuer, algorithms: ['ES256'] }],
      login: {
        issuer: identityProvider.issuer,
        client_id: identityProvider.clientId,
        client_secret: identityProvider.clientSecret,
        scopes: ['openid', 'email', 'profile'],
        store_subject_token: options.storeSubjectToken ?? false,
      },
      admins: { roles: ['onbehalf-admin'], users: ['linus'] },
      services: [{ id: 'edge', key: serviceKey, upstreams: ['*'], may_assert_user: true }],
    },
    upstreams: {
      files: {
        url: filesUrl,
        kind: 'mcp',
        display_name: 'Files',
        credential: {
          mode: 'oauth_connect',
          issuer: authorizationServer.issuer,
          client_id: authorizationServer.clientId,
          client_secret: authorizationServer.clientSecret,
          scopes: ['files:read'],
        },
      },
      reports: {
        url: 'http://127.0.0.1/reports',
        kind: 'http',
        credential: {
          mode: 'token_exchange',
          token_endpoint: `${identityProvider.url}/token`,
          client_id: identityProvider.clientId,
          client_secret: identityProvider.clientSecret,
          resource: reportsTarget,
          scopes: ['reports:read'],
        },
      },
      graph: {
        url: 'http://127.0.0.1/graph',
        kind: 'http',
        credential: {
          mode: 'entra_obo',
          token_endpoint: `${identityProvider.url}/token`,
          client_id: identityProvider.clientId,
          client_secret: identityProvider.clientSecret,
          scopes: [`${reportsTarget}/.default`],
        },
      },
    },
  }
  options.change?.(config)

  const servers: Servers = { identityProvider, authorizationServer, database, scan, serviceKey }
  return openTestBroker(servers, config, options.hooks, async () => {
    await identityProvider.stop()
    await authorizationServer.stop()
    await database.drop()
    await rm(dataDir, { recursive: true, force: true })
  })
}

type Servers = Pick<
  TestBroker,
  'identityProvider' | 'authorizationServer' | 'database' | 'scan' | 'serviceKey'
>

async function openTestBroker(
  servers: Servers,
  config: TestConfig,
  hooks: BrokerHooks | undefined,
  stopServers: () => Promise<void>,
): Promise<TestBroker> {
  const { identityProvider, database, scan, serviceKey } = servers
  const broker = await createBroker(config, hooks)
  const url = await broker.listen()

  async function ask(path: string, init: RequestInit): Promise<Answer> {
    const answer = await fetch(`${url}${path}`, { redirect: 'manual', ...init })
    const text = await answer.text()
    const isJson = answer.headers.get('content-type')?.includes('json') === true
    const body = isJson ? (JSON.parse(text) as Record<string, unknown>) : {}
    return { status: answer.status, headers: answer.headers, body, text }
  }

  const testBroker: TestBroker = {
    ...servers,
    url,
    broker,
    async tokenOf(person) {
      const token = await identityProvider.issueAccessToken(person)
      scan.register('subject token', token)
      return token
    },
    resolve: (body, key = serviceKey) =>
      ask('/api/v1/resolve', {
        method: 'POST',
        headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
        body: JSON.stringify(body),
      }),
    async resolveAs(person, upstream, more = {}) {
      const subjectToken = await testBroker.tokenOf(person)
      return testBroker.resolve({ upstream, subject_token: subjectToken, ...more })
    },
    async call(method, path, person, body) {
      const headers: Record<string, string> = {}
      if (person !== undefined) {
        headers['authorization'] = `Bearer ${await testBroker.tokenOf(person)}`
      }
      if (body !== undefined) headers['content-type'] = 'application/json'
      return ask(path, {
        method,
        headers,
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      })
    },
    async connect(person, account = `${person}-at-files`, browser = createBrowser()) {
      const link = await testBroker.call('POST', '/api/v1/connections/files/connect', person, {})
      const { page } = await followConnectLink(browser, String(link.body['connect_url']), {
        person,
        account,
        decision: 'allow',
      })
      if (page.url.searchParams.get('connected') !== '1') {
        throw new Error(`not connected: ${page.url.pathname}${page.url.search}`)
      }
    },
    async records(count) {
      const giveUpAt = Date.now() + 5000
      for (;;) {
        const rows = await database.database.sql<ActivityRow[]>`
          SELECT user_id, upstream, type, actor_kind, actor_id, action, method, outcome, reason, request_id
          FROM activity ORDER BY occurred_at, id`
        if (rows.length >= count || Date.now() > giveUpAt) return rows
        await new Promise((resolve) => setTimeout(resolve, 50))
      }
    },
    async age(person, upstream, { expiresInSeconds }) {
      await database.database.sql`
        UPDATE credential SET expires_at = now() + make_interval(secs => ${expiresInSeconds}),
          obtained_at = now() - interval '1 hour'
        WHERE user_id = ${person} AND upstream = ${upstream}`
    },
    async startBeside(change) {
      const own = structuredClone(config)
      own.listen = { port: 0 }
      own.data_dir = await mkdtemp(join(tmpdir(), 'onbehalf-test-'))
      change?.(own)
      return openTestBroker(servers, own, hooks, () =>
        rm(own.data_dir, { recursive: true, force: true }),
      )
    },
    async stop() {
      await broker.stop()
      await stopServers()
    },
  }
  return testBroker
}

/** The file's shape, loosely: tests change any of it. */
// oxlint-disable-next-line typescript/no-explicit-any
export type TestConfig = any
