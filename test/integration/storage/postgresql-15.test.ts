import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { chown, mkdtemp, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Secret } from '../../../src/core/secret.ts'
import { readDatabaseAddress } from '../../../src/storage/database-address.ts'
import { type Database, openDatabase } from '../../../src/storage/database.ts'
import { maintain } from '../../../src/storage/maintenance.ts'
import { migrate, requireCurrentSchema } from '../../../src/storage/migrate.ts'
import { connectTo } from '../../support/postgres-client.ts'
import { findTestPort } from '../../support/test-port.ts'
import { untrustedCertificate } from '../../support/untrusted-certificate.ts'

const binaries = '/usr/lib/postgresql/15/bin'
const isThere = existsSync(join(binaries, 'postgres'))

/** A PostgreSQL 15 of the system, over TCP with TLS, for as long as the tests of this file run. */
async function startSystemPostgres() {
  const directory = await mkdtemp(join(os.tmpdir(), 'onbehalf-pg15-'))
  const user = ordinaryUser()
  if (user !== undefined) await chown(directory, user.uid, user.gid)
  const options = { ...user, cwd: directory, env: { LC_ALL: 'C', PATH: process.env['PATH'] } }
  const data = join(directory, 'data')
  const made = spawnSync(
    join(binaries, 'initdb'),
    ['-D', data, '-U', 'onbehalf', '--auth=trust', '--no-sync', '--encoding=UTF8'],
    options,
  )
  if (made.status !== 0) throw new Error(made.stderr.toString())
  const certificate = {
    'server.crt': untrustedCertificate.cert,
    'server.key': untrustedCertificate.key,
  }
  for (const [name, text] of Object.entries(certificate)) {
    await writeFile(join(data, name), text, { mode: 0o600 })
    if (user !== undefined) await chown(join(data, name), user.uid, user.gid)
  }
  const port = await findTestPort()
  const server = spawn(
    join(binaries, 'postgres'),
    [
      '-D',
      data,
      '-k',
      directory,
      '-p',
      `${port}`,
      '-c',
      'listen_addresses=127.0.0.1,::1',
      '-c',
      'ssl=on',
      '-c',
      'fsync=off',
    ],
    { ...options, stdio: 'ignore' },
  )
  return {
    port,
    directory,
    url: `postgres://onbehalf@127.0.0.1:${port}/postgres`,
    async stop() {
      server.kill('SIGINT')
      if (server.exitCode === null) await once(server, 'exit')
      await rm(directory, { recursive: true, force: true })
    },
  }
}

function ordinaryUser(): { uid: number; gid: number } | undefined {
  if (process.getuid?.() !== 0) return undefined
  const ids = spawnSync('sh', ['-c', 'id -u nobody; id -g nobody']).stdout.toString().split('\n')
  return { uid: Number(ids[0]), gid: Number(ids[1]) }
}

const hasIpv6 = Object.values(os.networkInterfaces()).some((addresses) =>
  addresses?.some(({ address }) => address === '::1'),
)

describe.runIf(isThere)('PostgreSQL 15, over TCP', () => {
  let server: Awaited<ReturnType<typeof startSystemPostgres>>
  beforeAll(async () => {
    server = await startSystemPostgres()
    const giveUpAt = Date.now() + 60_000
    while (!(await open(server.url).catch(() => undefined))) {
      if (Date.now() > giveUpAt) throw new Error('PostgreSQL 15 did not start')
    }
  })
  afterAll(() => server.stop())

  async function open(url: string): Promise<Record<string, unknown>> {
    const database = await openDatabase({ url: new Secret(url), pool: 1 })
    try {
      const [row] = await database.run(
        () => database.sql`
          select current_setting('server_version_num')::int / 10000 as version, ssl,
            host(inet_server_addr()) as address, current_setting('application_name') as name
          from pg_stat_ssl where pid = pg_backend_pid()`,
      )
      return row ?? {}
    } finally {
      await database.close()
    }
  }

  it('takes the migrations, twice, and the maintenance', async () => {
    const admin = connectTo(server.url)
    await admin`create database broker`
    await admin.end()
    const url = new Secret(server.url.replace(/postgres$/, 'broker'))
    expect(await migrate(url)).toBeGreaterThan(0)
    expect(await migrate(url)).toBe(0)
    const database: Database = await openDatabase({ url, pool: 2 })
    await requireCurrentSchema(database)
    const log = { info() {}, warn() {} }
    await maintain({ database, retentionDays: 90, log })
    await maintain({ database, retentionDays: 90, log })
    const weeks = await database.run(
      () => database.sql`select from pg_class where relname ~ '^activity_[0-9]{4}w[0-9]{2}$'`,
    )
    expect(weeks).toHaveLength(3)
    await database.close()
  })

  it('is reached by name, by address, by its socket, and behind others that do not answer', async () => {
    const { port, directory } = server
    const urls = [
      `postgres://onbehalf@localhost:${port}/postgres`,
      `postgresql://onbehalf@127.0.0.1:${port}/postgres`,
      `postgres://onbehalf@localhost/postgres?host=${encodeURIComponent(directory)}&port=${port}`,
      `postgres://onbehalf@${encodeURIComponent(directory)}:${port}/postgres`,
      `postgres://onbehalf@127.0.0.1:1,127.0.0.1:${port}/postgres`,
      `postgres://onbehalf@127.0.0.1:1,localhost:${port}/postgres?target_session_attrs=read-write`,
    ]
    for (const url of urls) expect(await open(url)).toMatchObject({ version: 15, name: 'onbehalf' })
    expect(await open(`${server.url}?application_name=mine`)).toMatchObject({ name: 'mine' })
  })

  it('is written to without waiting for more: Nagle costs a small batch some 50 ms', async () => {
    for (const hosts of [`127.0.0.1:${server.port}`, `127.0.0.1:1,127.0.0.1:${server.port}`]) {
      const address = readDatabaseAddress(
        new Secret(`postgres://onbehalf@${hosts}/postgres`),
        () => {},
      )
      const socket = await address.socket()
      if (socket.connecting || socket.pending) await once(socket, 'connect')
      // Node says it nowhere else.
      const option = Object.getOwnPropertySymbols(socket).find(
        (symbol) => symbol.description === 'kSetNoDelay',
      )
      expect(option && Reflect.get(socket, option)).toBe(true)
      socket.destroy()
    }
  })

  it.runIf(hasIpv6)('is reached by an IPv6 address', async () => {
    expect(await open(`postgres://onbehalf@[::1]:${server.port}/postgres`)).toMatchObject({
      address: '::1',
    })
  })

  it('is reached with TLS as sslmode says, and not by a name that its certificate does not prove', async () => {
    expect(await open(server.url)).toMatchObject({ ssl: false })
    expect(await open(`${server.url}?sslmode=disable`)).toMatchObject({ ssl: false })
    expect(await open(`${server.url}?sslmode=prefer`)).toMatchObject({ ssl: true })
    expect(await open(`${server.url}?sslmode=require`)).toMatchObject({ ssl: true })
    await expect(open(`${server.url}?sslmode=verify-full`)).rejects.toMatchObject({
      code: 'database_unreachable',
      message: expect.stringMatching(/SELF_SIGNED|UNABLE_TO_VERIFY/) as string,
    })
  })

  it('leaves no slot of a pool broken over TLS either', async () => {
    const killer = connectTo(server.url)
    const database = await openDatabase({
      url: new Secret(`${server.url}?sslmode=require`),
      pool: 5,
    })
    const failures: unknown[] = []
    const call = () =>
      database
        .run(() => database.sql`select pg_sleep(0.001)`)
        .catch((error: { cause?: { code?: string } }) => failures.push(error.cause?.code))
    for (let round = 0; round < 8; round += 1) {
      await Promise.all([1, 2, 3, 4, 5, 6].map(call))
      const busy = [call(), call()]
      await killer`select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'onbehalf'`
      await Promise.all(busy.map((done) => done.then(call)))
    }
    expect(failures.filter((code) => String(code).includes('TIMEOUT'))).toEqual([])
    await database.close()
    await killer.end()
  })
})

if (!isThere) {
  it.skip('PostgreSQL 15 (to run these, install the Debian package postgresql-15)', () => {})
}
