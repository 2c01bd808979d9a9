import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Broker, type BrokerTimings, openBroker } from '../../src/broker.ts'
import type { BrokerHooks } from '../../src/index.ts'
import { createLog } from '../../src/log.ts'
import {
  type BrokerServers,
  type BrokerServersOptions,
  startBrokerServers,
  type TestConfig,
} from './broker-servers.ts'
import { createBrowser, followConnectLink, type ScriptedBrowser } from './browser.ts'
import { configOf } from './config-files.ts'
import { scanDatabase, type SecretFinding } from './secret-scan.ts'

export { filesUrl, reportsTarget, type TestConfig } from './broker-servers.ts'

/** An answer of the REST API. */
export type Answer = {
  readonly status: number
  readonly headers: Headers
  readonly body: Record<string, unknown>
  readonly text: string
}

/** A broker in this process on real parts: PostgreSQL, an identity provider, an authorization server. */
export type TestBroker = Servers & {
  readonly url: string
  readonly broker: Broker
  readonly dataDir: string
  /** Every line that it logged so far. */
  readonly logged: readonly string[]
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
  /** Makes one credential older. `ahead`: it may be renewed in the background, which would otherwise be quicker than some tests. */
  age(
    person: string,
    upstream: string,
    set: { expiresInSeconds: number; ahead?: boolean },
  ): Promise<void>
  /** Another broker on the same database, keys and servers, as a replica or after a restart; its memory is empty. */
  startBeside(change?: (config: TestConfig) => void | Promise<void>): Promise<TestBroker>
  /**
   * Stops the broker; the one that was started first takes its servers and database with it. Before that it looks for every
   * secret that its tests used in the log, the answers that passed here, /metrics, /openapi.json and every table, and throws
   * when it finds one: no test needs to ask for that.
   */
  readonly stop: () => Promise<void>
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

/** A broker on `startBrokerServers`; `change` edits the configuration before it is used. */
export async function startTestBroker(
  options: BrokerServersOptions & {
    readonly hooks?: BrokerHooks
    readonly timings?: BrokerTimings
  } = {},
): Promise<TestBroker> {
  const { config, stop, ...servers } = await startBrokerServers(options)
  const { hooks = {}, timings = {} } = options
  return openTestBroker(servers, config, { hooks, timings }, stop, true)
}

type Servers = Omit<BrokerServers, 'config' | 'stop'>

async function openTestBroker(
  servers: Servers,
  config: TestConfig,
  own: { readonly hooks: BrokerHooks; readonly timings: BrokerTimings },
  stopServers: () => Promise<void>,
  ownsDatabase: boolean,
): Promise<TestBroker> {
  const { identityProvider, database, scan, serviceKey } = servers
  const logged: string[] = []
  const leaks: SecretFinding[] = []
  const log = createLog((line) => logged.push(line))
  const broker = await openBroker(await configOf(config), own.hooks, log, own.timings)
  const url = await broker.listen()

  async function ask(path: string, init: RequestInit): Promise<Answer> {
    const answer = await fetch(`${url}${path}`, { redirect: 'manual', ...init })
    const text = await answer.text()
    const isJson = answer.headers.get('content-type')?.includes('json') === true
    const body = isJson ? (JSON.parse(text) as Record<string, unknown>) : {}
    // The one answer that has to hold a credential.
    const isCredential = path === '/api/v1/resolve' && answer.status === 200
    const heard = `${JSON.stringify([...answer.headers])} ${isCredential ? '' : text}`
    leaks.push(...scan.find(`${answer.status} of ${path.split('?')[0]}`, heard))
    return { status: answer.status, headers: answer.headers, body, text }
  }

  const testBroker: TestBroker = {
    ...servers,
    url,
    broker,
    dataDir: config.data_dir,
    logged,
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
      const giveUpAt = Date.now() + 30_000
      for (;;) {
        const rows = await database.database.sql<ActivityRow[]>`
          SELECT user_id, upstream, type, actor_kind, actor_id, action, method, outcome, reason, request_id
          FROM activity ORDER BY occurred_at, id`
        if (rows.length >= count || Date.now() > giveUpAt) return rows
        await new Promise((resolve) => setTimeout(resolve, 50))
      }
    },
    async age(person, upstream, { expiresInSeconds, ahead = false }) {
      await database.database.sql`
        UPDATE credential SET expires_at = now() + make_interval(secs => ${expiresInSeconds}),
          obtained_at = now() - interval '1 hour',
          ahead_after = CASE WHEN ${ahead} THEN NULL ELSE now() + interval '1 hour' END
        WHERE user_id = ${person} AND upstream = ${upstream}`
    },
    async startBeside(change) {
      const beside = structuredClone(config)
      beside.listen = { port: 0 }
      beside.data_dir = await mkdtemp(join(tmpdir(), 'onbehalf-test-'))
      await change?.(beside)
      const removeDirectory = () => rm(beside.data_dir, { recursive: true, force: true })
      return openTestBroker(servers, beside, own, removeDirectory, false)
    },
    async stop() {
      for (const path of ['/metrics', '/openapi.json']) {
        const answer = await broker.app.fetch(new Request(`${url}${path}`))
        leaks.push(...scan.find(path, await answer.text()))
      }
      await broker.stop()
      leaks.push(...scan.find('the log', logged.join('')))
      if (ownsDatabase) leaks.push(...(await scanDatabase(scan, database.database.sql)).findings)
      await stopServers()
      const found = leaks.map(({ where, kind, form }) => `${kind} (${form}) in ${where}`)
      if (found.length > 0) throw new Error(`secrets were found:\n${found.join('\n')}`)
    },
  }
  return testBroker
}
