import { randomBytes, randomUUID } from 'node:crypto'
import { mkdtemp, readFile, realpath, rm, writeFile } from 'node:fs/promises'
import net from 'node:net'
import os from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest'
import { endpoints, tokenExchangeGrant } from '../support/authorization-server.ts'
import { type BrokerServers, startBrokerServers } from '../support/broker-servers.ts'
import type { FileValues } from '../support/config-files.ts'
import { fillDataDirectory } from '../support/data-directory.ts'
import { createEmptyDatabase } from '../support/database.ts'
import { connectTo } from '../support/postgres-client.ts'
import {
  ensureBuilt,
  type Program,
  type ProgramEnd,
  processesNaming,
  startProgram,
} from '../support/program.ts'
import { scanDatabase } from '../support/secret-scan.ts'

// Every test starts processes, some a database with its recovery: on a busy machine that takes its time.
vi.setConfig({ testTimeout: 180_000 })
beforeAll(ensureBuilt, 120_000)

const undo: (() => unknown)[] = []
afterEach(async () => {
  for (let last = undo.pop(); last !== undefined; last = undo.pop()) await last()
})

async function workingDirectory(): Promise<string> {
  const directory = await realpath(await mkdtemp(join(os.tmpdir(), 'onbehalf-e2e-')))
  undo.push(() => rm(directory, { recursive: true, force: true, maxRetries: 5 }))
  return directory
}

/** A file that is accepted, on the embedded database below the working directory. */
function plainConfig(changes: FileValues = {}): FileValues {
  return {
    public_url: 'http://127.0.0.1:8080',
    listen: { port: 0 },
    data_dir: './data',
    encryption: { keys: [{ id: 'k1', secret: randomBytes(32).toString('base64') }] },
    identity: { issuers: [{ issuer: 'http://127.0.0.1:9' }] },
    ...changes,
  }
}

/** A directory with that configuration as its `onbehalf.yaml`. */
async function directoryWith(config: FileValues): Promise<string> {
  const directory = await workingDirectory()
  await writeFile(join(directory, 'onbehalf.yaml'), JSON.stringify(config))
  return directory
}

/** The same with the files of the embedded database, which a first start would make. */
async function filledDirectoryWith(config: FileValues): Promise<string> {
  const directory = await directoryWith(config)
  await fillDataDirectory(join(directory, 'data'))
  return directory
}

function start(argv: readonly string[], cwd: string, env: Record<string, string> = {}): Program {
  const program = startProgram(argv, { cwd, env })
  undo.push(async () => {
    program.kill('SIGKILL')
    await program.ended
    await expectNoDatabase(cwd)
  })
  return program
}

/** Runs a command to its end. */
function onbehalf(
  argv: readonly string[],
  cwd: string,
  env: Record<string, string> = {},
): Promise<ProgramEnd> {
  return start(argv, cwd, env).ended
}

/** The embedded database ends with whoever started it, however that ended. */
async function expectNoDatabase(directory: string): Promise<void> {
  const giveUpAt = Date.now() + 30_000
  for (;;) {
    const left = await processesNaming(directory)
    if (left.length === 0) return
    if (Date.now() > giveUpAt) expect(left).toEqual([])
    await sleep(50)
  }
}

const databasesIn = async (directory: string) =>
  (await processesNaming(directory)).filter(({ command }) => /postgres\S* -D /.test(command))

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {
    // It is gone already.
  }
}

/** Takes connections and says nothing. */
async function startSilentServer() {
  const sockets: net.Socket[] = []
  const server = net.createServer((socket) => {
    sockets.push(socket)
    socket.on('error', () => {})
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  undo.push(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  const { port } = server.address() as net.AddressInfo
  return { port, connections: () => sockets.length }
}

describe('onbehalf serve: its configuration', () => {
  it('says every problem at once and exits with 2', async () => {
    const directory = await directoryWith({ upstrems: {}, listen: { prt: 1 }, encryption: {} })
    const { code, stdout, stderr } = await onbehalf(['serve'], directory)
    expect(code).toBe(2)
    expect(stdout).toBe('')
    for (const problem of ['upstrems', 'upstreams', 'listen.prt', 'public_url', 'identity']) {
      expect(stderr).toContain(problem)
    }
  })

  it('takes --config before $ONBEHALF_CONFIG before onbehalf.yaml', async () => {
    const directory = await directoryWith({ in_the_default: 1 })
    await writeFile(join(directory, 'env.yaml'), 'in_the_environment: 1')
    await writeFile(join(directory, 'option.yaml'), 'in_the_option: 1')
    const env = { ONBEHALF_CONFIG: 'env.yaml' }
    const option = ['serve', '--config', 'option.yaml']
    const [byOption, byEnvironment, byDefault] = await Promise.all([
      onbehalf(option, directory, env),
      onbehalf(['serve'], directory, env),
      onbehalf(['serve'], directory),
    ])
    expect([byOption.code, byEnvironment.code, byDefault.code]).toEqual([2, 2, 2])
    expect(byOption.stderr).toContain('in_the_option')
    expect(byEnvironment.stderr).toContain('in_the_environment')
    expect(byDefault.stderr).toContain('in_the_default')
  })

  it('names the file that is not there and how to get one', async () => {
    const { code, stderr } = await onbehalf(['serve'], await workingDirectory())
    expect(code).toBe(2)
    expect(stderr).toMatch(/onbehalf\.yaml[^]*onbehalf init/)
  })

  it('config check asks nobody; serve says within 15 s that the database does not answer', async () => {
    const silent = await startSilentServer()
    const address = `127.0.0.1:${silent.port}`
    const directory = await directoryWith(
      plainConfig({
        database: { url: `postgres://broker:CNRY-database-password@${address}/broker` },
        identity: { issuers: [{ issuer: `http://${address}` }] },
        upstreams: {
          reports: {
            url: `http://${address}/reports`,
            kind: 'http',
            credential: {
              mode: 'token_exchange',
              token_endpoint: `http://${address}/token`,
              client_id: 'onbehalf',
            },
          },
        },
      }),
    )
    const checked = await onbehalf(['config', 'check'], directory)
    expect(checked).toMatchObject({ code: 0, stderr: '' })
    expect(checked.stdout).toContain('onbehalf.yaml is good')
    expect(silent.connections()).toBe(0)

    const serving = start(['serve'], directory)
    // How long the process takes to begin is its machine's business.
    while (silent.connections() === 0) await sleep(20)
    const served = await Promise.race([serving.ended, sleep(15_000, 'still running')])
    expect(served).toMatchObject({ code: 1 })
    expect(silent.connections()).toBeGreaterThan(0)
    expect(serving.stderr()).toContain(address)
    expect(serving.stderr() + serving.stdout()).not.toContain('CNRY')
  })

  it('a database that nobody serves is said, too, by every command that needs it', async () => {
    const url = 'postgres://broker:CNRY-database-password@127.0.0.1:9/broker'
    const directory = await directoryWith(plainConfig({ database: { url } }))
    for (const command of [['serve'], ['migrate'], ['keys', 'status']]) {
      const { code, stdout, stderr } = await onbehalf(command, directory)
      expect(code, command.join(' ')).toBe(1)
      expect(stderr, command.join(' ')).toContain('127.0.0.1:9')
      expect(stdout + stderr).not.toContain('CNRY')
    }
  })

  it('says that it is the rights, where the user of the database lacks them', async () => {
    const database = await createEmptyDatabase()
    undo.push(() => database.drop())
    const admin = connectTo(database.url)
    undo.push(() => admin.end())
    const role = `nobody_${randomBytes(4).toString('hex')}`
    await admin.unsafe(`create role ${role} login password 'CNRY-database-password'`)
    undo.push(() => admin.unsafe(`drop role ${role}`))
    const url = new URL(database.url)
    url.username = role
    url.password = 'CNRY-database-password'
    const directory = await directoryWith(plainConfig({ database: { url: url.href } }))
    const { code, stdout, stderr } = await onbehalf(['migrate'], directory)
    expect(code).toBe(1)
    expect(stderr).toMatch(/does not let the user of database\.url/)
    expect(stdout + stderr).not.toContain('CNRY')
  })

  it('refuses an older schema naming `onbehalf migrate`, which is repeatable, and then serves', async () => {
    const database = await createEmptyDatabase()
    undo.push(() => database.drop())
    const directory = await directoryWith(plainConfig({ database: { url: database.url } }))
    const refused = await onbehalf(['serve'], directory)
    expect(refused.code).toBe(1)
    expect(refused.stderr).toContain('onbehalf migrate')
    const both = await Promise.all([
      onbehalf(['migrate'], directory),
      onbehalf(['migrate'], directory),
    ])
    expect(both.map(({ code }) => code)).toEqual([0, 0])
    const again = await onbehalf(['migrate'], directory)
    expect(again).toMatchObject({ code: 0, stdout: 'The database is up to date.\n' })
    const serving = start(['serve'], directory)
    expect((await fetch(`${await serving.ready()}/readyz`)).status).toBe(200)
    serving.kill('SIGTERM')
    expect(await serving.ended).toMatchObject({ code: 0, stderr: '' })
  })
})

describe('onbehalf serve: on the embedded database', () => {
  it('needs no configuration of it, logs one JSON object a line, and its ready line has the real port', async () => {
    const directory = await directoryWith(plainConfig())
    const serving = start(['serve'], directory)
    const url = await serving.ready()
    expect(new URL(url).port).not.toBe('0')
    expect(await (await fetch(`${url}/healthz`)).json()).toEqual({ status: 'ok' })
    expect((await fetch(`${url}/readyz`)).status).toBe(200)
    serving.kill('SIGTERM')
    expect(await serving.ended).toMatchObject({ code: 0, stderr: '' })
    const events = serving.log().map(({ event }) => event)
    expect(events).toEqual(expect.arrayContaining(['database_started', 'ready', 'stopped']))
    expect(events.at(-1)).toBe('stopped')
    await expectNoDatabase(directory)
  })

  it('a second one on the same directory is refused and disturbs nothing', async () => {
    const directory = await filledDirectoryWith(plainConfig())
    const first = start(['serve'], directory)
    const url = await first.ready()
    const second = await onbehalfBeside(directory, ['serve'])
    expect(second.code).toBe(1)
    expect(second.stderr).toContain(`(process ${first.pid})`)
    expect(second.stderr).toContain(join(directory, 'data'))
    expect(second.stdout).toBe('')
    expect((await fetch(`${url}/readyz`)).status).toBe(200)
  })

  it('a port in use is said, and no database stays behind', async () => {
    const { port } = await startSilentServer()
    const directory = await filledDirectoryWith(plainConfig({ listen: { port } }))
    const { code, stderr } = await onbehalf(['serve'], directory)
    expect(code).toBe(1)
    expect(stderr).toMatch(new RegExp(`127\\.0\\.0\\.1 port ${port}.*another process`))
    await expectNoDatabase(directory)
    const metrics = { host: '127.0.0.1', port }
    const other = await filledDirectoryWith(plainConfig({ listen: { port: 0, metrics } }))
    expect(await onbehalf(['serve'], other)).toMatchObject({ code: 1 })
  })

  it('goes on when nobody reads its log any more', async () => {
    const directory = await filledDirectoryWith(plainConfig())
    const serving = start(['serve'], directory)
    const url = await serving.ready()
    serving.stopReading()
    for (const { pid } of await databasesIn(directory)) kill(pid)
    // It has something to say about that.
    while ((await databasesIn(directory)).length === 0) await sleep(20)
    await expect
      .poll(async () => (await fetch(`${url}/readyz`)).status, { timeout: 30_000 })
      .toBe(200)
    serving.kill('SIGTERM')
    expect(await serving.ended).toMatchObject({ code: 0, signal: null })
  })

  it('told to stop while it starts, it stops and takes its database with it', async () => {
    const directory = await directoryWith(plainConfig())
    const serving = start(['serve'], directory)
    await serving.logged('database_started')
    serving.kill('SIGTERM')
    expect(await serving.ended).toMatchObject({ code: 0, signal: null })
    await expectNoDatabase(directory)
  })

  it('keys status uses the database of the running server, else starts it for itself', async () => {
    const directory = await directoryWith(plainConfig())
    const expected = (rows: number) => ({
      code: 0,
      stderr: '',
      stdout: `${JSON.stringify({
        keys: [{ id: 'k1', rows, configured: true, seals: true, removable: false }],
      })}\n`,
    })
    const status = ['keys', 'status', '-o', 'json']
    const alone = await onbehalf(status, directory)
    expect({ ...alone, stdout: compact(alone.stdout) }).toMatchObject(expected(0))
    await expectNoDatabase(directory)
    const serving = start(['serve'], directory)
    const url = await serving.ready()
    const beside = await onbehalfBeside(directory, status)
    // A broker that has started has a key of its own, which signs the activity log.
    expect({ ...beside, stdout: compact(beside.stdout) }).toMatchObject(expected(1))
    expect((await fetch(`${url}/readyz`)).status).toBe(200)
  })
})

function compact(json: string): string {
  return `${JSON.stringify(JSON.parse(json))}\n`
}

/** A command beside a running server, whose database has to outlive it. */
function onbehalfBeside(cwd: string, argv: readonly string[]): Promise<ProgramEnd> {
  return startProgram(argv, { cwd }).ended
}

describe('onbehalf keys generate', () => {
  it('prints the base64 of 32 bytes in one line, and nothing else', async () => {
    const directory = await workingDirectory()
    const [one, other] = await Promise.all([
      onbehalf(['keys', 'generate'], directory),
      onbehalf(['keys', 'generate'], directory),
    ])
    expect(one).toMatchObject({ code: 0, stderr: '' })
    expect(one.stdout).toMatch(/^[\w+/]{43}=\n$/)
    expect(one.stdout).not.toBe(other.stdout)
  })
})

describe('onbehalf serve: with people and servers', () => {
  let servers: BrokerServers

  beforeAll(async () => {
    servers = await startBrokerServers()
  })
  afterAll(() => servers.stop())

  /** On the shared PostgreSQL, or on an embedded one of its own. */
  async function broker(database: 'external' | 'embedded', changes: FileValues = {}) {
    const { database: external, ...config } = servers.config
    const make = database === 'external' ? directoryWith : filledDirectoryWith
    const directory = await make({
      ...config,
      ...(database === 'external' ? { database: external } : {}),
      listen: { port: 0 },
      data_dir: './data',
      ...changes,
    })
    return { directory, start: () => start(['serve'], directory) }
  }

  async function resolve(url: string, person: string, requestId: string = randomUUID()) {
    const answer = await fetch(`${url}/api/v1/resolve`, {
      method: 'POST',
      headers: {
        authorization: `Bearer ${servers.serviceKey}`,
        'content-type': 'application/json',
        'x-request-id': requestId,
      },
      body: JSON.stringify({ upstream: 'reports', subject_token: await tokenOf(person) }),
    })
    const body = (await answer.json()) as Record<string, unknown>
    return { status: answer.status, headers: answer.headers, body }
  }

  async function tokenOf(person: string): Promise<string> {
    const token = await servers.identityProvider.issueAccessToken(person)
    servers.scan.register('subject token', token)
    return token
  }

  const exchanges = () =>
    servers.identityProvider.requests({ grantType: tokenExchangeGrant, outcome: 'issued' }).length

  async function untilExchangeIsAsked(before: number): Promise<void> {
    while (exchangesReceived() === before) await sleep(10)
  }

  const exchangesReceived = () =>
    servers.identityProvider
      .received(endpoints.token)
      .filter(({ body }) => body.includes('token-exchange')).length

  async function recordedIds(): Promise<readonly string[]> {
    const rows = await servers.database.database.sql<{ request_id: string }[]>`
      SELECT request_id FROM activity`
    return rows.map(({ request_id }) => request_id)
  }

  it.each(['SIGTERM', 'SIGINT'] as const)(
    '%s: takes no more calls, finishes the one in flight, stores its record and exits with 0',
    async (signal) => {
      await servers.database.database.sql`DELETE FROM credential`
      const serving = (await broker('external')).start()
      const url = await serving.ready()
      const before = exchangesReceived()
      servers.identityProvider.fail(endpoints.token, { kind: 'delay', ms: 700 }, 1)
      const requestId = randomUUID()
      const inFlight = resolve(url, 'ada', requestId)
      await untilExchangeIsAsked(before)
      serving.kill(signal)
      await serving.logged('stopping')
      await expect(fetch(`${url}/healthz`)).rejects.toThrow()
      expect(await inFlight).toMatchObject({ status: 200, body: { header: 'Authorization' } })
      expect(await serving.ended).toMatchObject({ code: 0, signal: null, stderr: '' })
      expect(await recordedIds()).toContain(requestId)
    },
  )

  it('SIGTERM: every call that was answered has its record, once', async () => {
    const serving = (await broker('external')).start()
    const url = await serving.ready()
    const answered: string[] = []
    const caller = async () => {
      for (;;) {
        const requestId = randomUUID()
        const answer = await resolve(url, 'ada', requestId).catch(() => undefined)
        if (answer === undefined) return
        expect(answer.status).toBe(200)
        answered.push(requestId)
        if (answered.length === 100) serving.kill('SIGTERM')
      }
    }
    await Promise.all([caller(), caller(), caller(), caller()])
    expect(await serving.ended).toMatchObject({ code: 0, stderr: '' })
    const recorded = await recordedIds()
    const counts = answered.map((id) => recorded.filter((one) => one === id).length)
    expect(new Set(counts)).toEqual(new Set([1]))
    expect(answered.length).toBeGreaterThanOrEqual(100)
  })

  it('kill -9: no database stays behind, and all that was stored is there after a restart', async () => {
    const { directory, start: startOne } = await broker('embedded')
    const serving = startOne()
    const url = await serving.ready()
    const stored = exchanges()
    expect((await resolve(url, 'ada')).status).toBe(200)
    expect((await resolve(url, 'grace')).status).toBe(200)
    expect(exchanges()).toBe(stored + 2)
    const records = await activity(url, 2)
    serving.kill('SIGKILL')
    await serving.ended
    await expectNoDatabase(directory)

    const again = startOne()
    const newUrl = await again.ready()
    expect(await activity(newUrl, 2)).toEqual(records)
    expect((await resolve(newUrl, 'ada')).status).toBe(200)
    expect((await resolve(newUrl, 'grace')).status).toBe(200)
    expect(exchanges()).toBe(stored + 2)
    again.kill('SIGTERM')
    expect(await again.ended).toMatchObject({ code: 0, stderr: '' })
  })

  /** The records that an admin sees, once there are so many. */
  async function activity(url: string, count: number): Promise<readonly unknown[]> {
    const headers = { authorization: `Bearer ${await tokenOf('linus')}` }
    const giveUpAt = Date.now() + 15_000
    for (;;) {
      const answer = await fetch(`${url}/api/v1/activity`, { headers })
      const { items } = (await answer.json()) as { items: unknown[] }
      if (items.length >= count || Date.now() > giveUpAt) return items
      await sleep(50)
    }
  }

  it('a database that dies during a call costs that call a 503, and the next one works', async () => {
    const { directory, start: startOne } = await broker('embedded')
    const serving = startOne()
    const url = await serving.ready()
    expect((await resolve(url, 'grace')).status).toBe(200)
    const before = exchangesReceived()
    servers.identityProvider.fail(endpoints.token, { kind: 'delay', ms: 300 }, 1)
    const answered = new AbortController()
    const inFlight = resolve(url, 'ada').finally(() => answered.abort())
    await untilExchangeIsAsked(before)
    // It is started anew within the call, so it is killed as often.
    const note = join(directory, 'data/postgres/postmaster.pid')
    while (!answered.signal.aborted) {
      const pid = Number.parseInt(await readFile(note, 'utf8').catch(() => ''), 10)
      if (pid > 0) kill(pid)
      await sleep(5)
    }
    const answer = await inFlight
    expect(answer.body).toMatchObject({ status: 503, code: 'storage_unavailable' })
    expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0)
    // It was killed more than once, and the log may speak of another time than the last.
    await serving.logged('database_restarted')
    await expect.poll(async () => (await resolve(url, 'ada')).status, { timeout: 60_000 }).toBe(200)
    expect((await fetch(`${url}/readyz`)).status).toBe(200)
    serving.kill('SIGTERM')
    expect(await serving.ended).toMatchObject({ code: 0, signal: null, stderr: '' })
  })

  it('says in its log why a set-up does not work: a wrong client secret, a token of nobody known', async () => {
    await servers.database.database.sql`DELETE FROM credential`
    const { reports, ...others } = servers.config.upstreams
    const credential = { ...reports.credential, client_secret: 'CNRY-CS-wrong' }
    const upstreams = { ...others, reports: { ...reports, credential } }
    const serving = (await broker('external', { upstreams })).start()
    const url = await serving.ready()
    expect((await resolve(url, 'ada')).body).toMatchObject({ code: 'upstream_misconfigured' })
    expect(await serving.logged('token_request_refused')).toMatchObject({
      level: 'warn',
      upstream: 'reports',
      grant: 'exchange',
      oauth_error: 'invalid_client',
      verdict: 'misconfigured',
    })
    const headers = { authorization: 'Bearer CNRY-AT-nobody' }
    expect((await fetch(`${url}/api/v1/connections`, { headers })).status).toBe(401)
    const refused = { level: 'warn', issuer: null, check: 'format' }
    expect(await serving.logged('token_refused')).toMatchObject(refused)
    serving.kill('SIGTERM')
    expect((await serving.ended).stdout).not.toContain('CNRY')
  })

  it('refuses keys that do not fit the rows, with their number, and exits with 2', async () => {
    await servers.database.database.sql`DELETE FROM credential`
    const serving = (await broker('external')).start()
    const url = await serving.ready()
    expect((await resolve(url, 'ada')).status).toBe(200)
    expect((await resolve(url, 'grace')).status).toBe(200)
    serving.kill('SIGTERM')
    await serving.ended

    const secret = randomBytes(32).toString('base64')
    const startWith = async (id: string) => {
      const { directory } = await broker('external', { encryption: { keys: [{ id, secret }] } })
      const refused = await onbehalf(['serve'], directory)
      // What a start says, the command that is there for it says too.
      const status = await onbehalf(['keys', 'status'], directory)
      expect(status).toMatchObject({ code: 1, stderr: refused.stderr })
      return refused
    }
    const missing = await startWith('k2')
    expect(missing.code).toBe(2)
    // Two credentials, and the key that signs the activity log.
    expect(missing.stderr).toMatch(/encryption\.keys: key id "k1" is missing, and 3 rows use it/)
    const wrong = await startWith('k1')
    expect(wrong.code).toBe(2)
    expect(wrong.stderr).toMatch(/encryption\.keys: key id "k1" has another secret/)
    expect(missing.stderr + wrong.stderr).not.toContain(secret)

    const both = { keys: [{ id: 'k2', secret }, ...servers.config.encryption.keys] }
    const rotated = await broker('external', { encryption: both })
    const status = await onbehalf(['keys', 'status', '-o', 'json'], rotated.directory)
    expect(JSON.parse(status.stdout)).toMatchObject({
      keys: [
        { id: 'k2', rows: 0, seals: true },
        { id: 'k1', configured: true, seals: false, removable: false },
      ],
    })
    // A start that was refused has left nothing: k2 is new, and so is another secret for it.
    expect(status.code).toBe(0)
  })

  it('no secret of these tests is in a table or in what the program wrote', async () => {
    const serving = (await broker('external')).start()
    const url = await serving.ready()
    await resolve(url, 'ada')
    await fetch(`${url}/api/v1/resolve?access_token=${await tokenOf('ada')}`, { method: 'POST' })
    serving.kill('SIGTERM')
    const { stdout, stderr } = await serving.ended
    expect(servers.scan.find('output', stdout + stderr)).toEqual([])
    const { findings } = await scanDatabase(servers.scan, servers.database.database.sql)
    expect(findings).toEqual([])
    expect(servers.scan.find('a control', `x ${servers.serviceKey} y`)).not.toEqual([])
  })
})
