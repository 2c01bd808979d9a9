import { execFileSync, spawn, spawnSync } from 'node:child_process'
import {
  chmod,
  chown,
  lstat,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rm,
  stat,
  writeFile,
} from 'node:fs/promises'
import os from 'node:os'
import { dirname, join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it, onTestFinished, vi } from 'vitest'
import { claimDataDirectory } from '../../../src/storage/data-directory.ts'
import { openDatabase } from '../../../src/storage/database.ts'
import { findBinaries, linkLibraries } from '../../../src/storage/embedded/binaries.ts'
import {
  borrowEmbedded,
  findRunningEmbedded,
  startEmbedded,
} from '../../../src/storage/embedded/embedded-postgres.ts'
import { openStorage } from '../../../src/storage/open-storage.ts'
import type { StorageEvent } from '../../../src/storage/storage-log.ts'
import { type Child, isAlive, runModule } from '../../support/child-process.ts'
import { type CompiledSources, compileSources } from '../../support/compiled-sources.ts'
import { fillDataDirectory } from '../../support/data-directory.ts'

const isRoot = process.getuid?.() === 0
const log = { info() {}, warn() {} }

// Every test starts processes and databases: on a busy machine that takes its time.
vi.setConfig({ testTimeout: 180_000 })

let compiled: CompiledSources
beforeAll(async () => {
  compiled = await compileSources()
}, 120_000)
afterAll(() => compiled.remove())

async function temporaryDirectory(): Promise<string> {
  const directory = await mkdtemp(join(os.tmpdir(), 'onbehalf-embedded-'))
  onTestFinished(async () => {
    await gone(directory)
    await rm(directory, { recursive: true, force: true })
  })
  return directory
}

/** Below a directory of its own, with the files of a database in it, so that a start does not have to make them. */
async function filledDataDirectory(): Promise<string> {
  const dataDir = join(await temporaryDirectory(), 'data')
  await fillDataDirectory(dataDir)
  return dataDir
}

/**
 * A process that runs the embedded database and writes one number after the other into it, each printed when it is
 * stored: `stored 7`, or `failed CODE`. It ignores Ctrl-C.
 */
function startWriter(dataDir: string, options: Parameters<typeof runModule>[1] = {}): Child {
  const child = runModule(
    `
    import { claimDataDirectory } from '${compiled.moduleUrl('storage/data-directory.ts')}'
    import { startEmbedded } from '${compiled.moduleUrl('storage/embedded/embedded-postgres.ts')}'
    import { openDatabase } from '${compiled.moduleUrl('storage/database.ts')}'
    process.on('SIGINT', () => console.log('interrupted'))
    const say = (entry) => console.log('log', JSON.stringify(entry))
    try {
      const directory = await claimDataDirectory(${JSON.stringify(dataDir)})
      const embedded = await startEmbedded({ directory, log: { info: say, warn: say } })
      const database = await openDatabase({ url: embedded.url, pool: 2 })
      const { sql, run } = database
      await run(() => sql\`create table if not exists written (n int)\`)
      const [{ n: last }] = await run(() => sql\`select coalesce(max(n), 0) as n from written\`)
      console.log('ready', last)
      for (let n = last + 1; ; ) {
        try {
          await run(() => sql\`insert into written values (\${n})\`)
          console.log('stored', n)
          n += 1
        } catch (error) {
          console.log('failed', error.code)
          // It may have been stored all the same: the next one is another.
          n += 1
          await new Promise((resolve) => setTimeout(resolve, 20))
        }
      }
    } catch (error) {
      console.log('refused', error.code, error.message)
      process.exitCode = 1
    }`,
    options,
  )
  onTestFinished(() => child.kill())
  return child
}

async function serverPid(dataDir: string): Promise<number> {
  const text = await readFile(join(dataDir, 'postgres/postmaster.pid'), 'utf8').catch(() => '0')
  return Number(text.split('\n')[0])
}

/** Waits until no database in or below this directory runs any more. */
async function gone(directory: string): Promise<void> {
  while (processesOf(directory).length > 0) await new Promise((resolve) => setTimeout(resolve, 20))
}

/** The servers that were started in or below this directory, without their helpers. */
function processesOf(dataDir: string): string[] {
  const all = execFileSync('ps', ['-eo', 'stat=,pid=,args='], { encoding: 'utf8' })
  return all
    .split('\n')
    .filter((line) => line.includes(`-D ${dataDir}/`) && !line.trim().startsWith('Z'))
}

function watcherOf(pid: number): number {
  const all = execFileSync('ps', ['-eo', 'pid=,args='], { encoding: 'utf8' })
  const line = all.split('\n').find((text) => text.endsWith(`onbehalf-watcher ${pid}`))
  return Number(line?.trim().split(' ')[0])
}

function storedBy(child: Child): number[] {
  return child.lines
    .filter((line) => line.startsWith('stored '))
    .map((line) => Number(line.split(' ')[1]))
}

/** Which numbers are in the database of this directory. */
async function written(dataDir: string): Promise<Set<number>> {
  const embedded = await borrowEmbedded({ dataDir, log })
  const database = await openDatabase({ url: embedded.url, pool: 1 })
  const rows = await database.run(() => database.sql<{ n: number }[]>`select n from written`)
  await database.close()
  await embedded.stop()
  return new Set(rows.map(({ n }) => n))
}

describe('the embedded database', () => {
  it('starts in a directory that only we may enter, by a unix socket with a password, and again with the same rows', async () => {
    const dataDir = join(await temporaryDirectory(), 'data')
    for (const expected of [1, 2]) {
      const directory = await claimDataDirectory(dataDir)
      const embedded = await startEmbedded({ directory, log })
      const database = await openDatabase({ url: embedded.url, pool: 2 })
      const { sql, run } = database
      await run(() => sql`create table if not exists kept (at timestamptz default now())`)
      await run(() => sql`insert into kept default values`)
      expect(await run(() => sql`select from kept`)).toHaveLength(expected)
      expect(
        await run(
          () => sql`select name, setting from pg_settings
            where name in ('fsync', 'full_page_writes', 'listen_addresses', 'password_encryption', 'synchronous_commit')
            order by name`,
        ),
      ).toEqual([
        { name: 'fsync', setting: 'on' },
        { name: 'full_page_writes', setting: 'on' },
        { name: 'listen_addresses', setting: '' },
        { name: 'password_encryption', setting: 'scram-sha-256' },
        { name: 'synchronous_commit', setting: 'on' },
      ])
      await database.close()

      const wrong = embedded.url.reveal().replace(/:[^:@]+@/, ':wrong@')
      const { Secret } = await import('../../../src/core/secret.ts')
      await expect(openDatabase({ url: new Secret(wrong), pool: 1 })).rejects.toThrow('28P01')
      expect((await stat(join(dataDir, 'postgres-password'))).mode & 0o777).toBe(0o600)
      expect((await stat(join(dataDir, 'postgres'))).mode & 0o077).toBe(0)
      await embedded.stop()
      await gone(dataDir)
      await directory.release()
    }
  })

  it('may lie deeper than the address of a socket is long', async () => {
    const dataDir = join(await temporaryDirectory(), 'd'.repeat(110))
    const embedded = await borrowEmbedded({ dataDir, log })
    const beside = await findRunningEmbedded(dataDir)
    expect(beside?.reveal()).toBe(embedded.url.reveal())
    const database = await openDatabase({ url: embedded.url, pool: 1 })
    await database.close()
    const socketDirectory = new URL(embedded.url.reveal()).searchParams.get('host') ?? ''
    expect((await stat(socketDirectory)).mode & 0o777).toBe(0o700)
    await embedded.stop()
    await expect(stat(socketDirectory)).rejects.toThrow('ENOENT')
  })

  it('serves a command beside the broker that runs it, and is started for a command alone', async () => {
    const dataDir = await filledDataDirectory()
    expect(await findRunningEmbedded(dataDir)).toBeUndefined()
    const first = await borrowEmbedded({ dataDir, log })
    expect(first.borrowed).toBe(false)
    const second = await borrowEmbedded({ dataDir, log })
    expect(second.borrowed).toBe(true)
    await second.stop()
    const database = await openDatabase({ url: first.url, pool: 1 })
    await database.run(() => database.sql`select 1`)
    await database.close()
    await first.stop()
    expect(await findRunningEmbedded(dataDir)).toBeUndefined()
    await gone(dataDir)
  })

  it('is not taken from a command by the end of the one that started it', async () => {
    const dataDir = await filledDataDirectory()
    const first = await borrowEmbedded({ dataDir, log })
    const second = await borrowEmbedded({ dataDir, log })
    const database = await openDatabase({ url: second.url, pool: 1 })
    const stopped = first.stop()
    // Longer than a stop that waits for nobody: PostgreSQL ends open connections at once.
    const running = database.run(() => database.sql`select pg_sleep(1)`)
    await expect(running).resolves.toHaveLength(1)
    await database.close()
    await second.stop()
    await stopped
    expect(await findRunningEmbedded(dataDir)).toBeUndefined()
    await gone(dataDir)
  })

  it('is there for every one of several commands that come at the same moment', async () => {
    const dataDir = await filledDataDirectory()
    const use = async () => {
      const embedded = await borrowEmbedded({ dataDir, log })
      const database = await openDatabase({ url: embedded.url, pool: 1 })
      await database.run(() => database.sql`select 1`)
      await database.close()
      await embedded.stop()
    }
    await Promise.all(Array.from({ length: 4 }, use))
    expect(await findRunningEmbedded(dataDir)).toBeUndefined()
    await gone(dataDir)
  })

  it('has room for as many connections as the broker is told to open', async () => {
    const dataDir = await filledDataDirectory()
    const storage = await openStorage({ dataDir, url: undefined, pool: 80, retentionDays: 90, log })
    const { run, sql } = storage.calls
    const held = Array.from({ length: 80 }, () => run(() => sql`select pg_sleep(1)`))
    await expect(Promise.all(held)).resolves.toHaveLength(80)
    await storage.close()
    await gone(dataDir)
  })

  it('leaves nothing of an interrupted start that the next one could mistake for a database', async () => {
    const dataDir = await temporaryDirectory()
    await mkdir(join(dataDir, 'postgres.new/data'), { recursive: true })
    await writeFile(join(dataDir, 'postgres.new/data/PG_VERSION'), '18\n')
    const embedded = await borrowEmbedded({ dataDir, log })
    expect(await readdir(dataDir)).not.toContain('postgres.new')
    await embedded.stop()
  })

  it('starts although its old process id belongs to something else now', async () => {
    const dataDir = await filledDataDirectory()
    await (await borrowEmbedded({ dataDir, log })).stop()
    const cluster = join(dataDir, 'postgres')
    const { uid, gid } = await stat(cluster)
    const stranger = spawn('sleep', ['60'], isRoot ? { uid, gid } : {})
    onTestFinished(() => void stranger.kill())
    const note = join(cluster, 'postmaster.pid')
    await writeFile(note, `${stranger.pid}\n${cluster}\n1\n5432\n/nowhere\n\n  1 1\nready   \n`)
    await chown(note, uid, gid)
    const embedded = await borrowEmbedded({ dataDir, log })
    expect(stranger.exitCode).toBeNull()
    await embedded.stop()
  })

  it('refuses files of another version of PostgreSQL', async () => {
    const dataDir = await filledDataDirectory()
    await (await borrowEmbedded({ dataDir, log })).stop()
    await writeFile(join(dataDir, 'postgres/PG_VERSION'), '12\n')
    await expect(borrowEmbedded({ dataDir, log })).rejects.toMatchObject({
      name: 'OperatorError',
      code: 'embedded_failed',
      message: expect.stringMatching(/PostgreSQL 12.*brings \d+/) as string,
    })
  })
})

describe('kill -9', () => {
  it('of the broker loses no stored row and leaves no database behind', async () => {
    const dataDir = await filledDataDirectory()
    const child = startWriter(dataDir)
    await child.line(/^stored 100$/)
    await child.kill('SIGKILL')
    await gone(dataDir)
    const rows = await written(dataDir)
    expect(storedBy(child).filter((n) => !rows.has(n))).toEqual([])
  })

  it('of the broker may be followed by a start at once', async () => {
    const dataDir = await filledDataDirectory()
    const child = startWriter(dataDir)
    await child.line(/^stored 50$/)
    await child.kill('SIGKILL')
    const next = startWriter(dataDir)
    const last = Number((await next.line(/^ready /)).split(' ')[1])
    expect(last).toBeGreaterThanOrEqual(Math.max(...storedBy(child)))
    await next.line(/^stored /)
    expect(processesOf(dataDir)).toHaveLength(1)
  })

  it('of the database fails calls with storage_unavailable, and soon they work again with every stored row', async () => {
    const dataDir = await filledDataDirectory()
    const child = startWriter(dataDir)
    await child.line(/^stored 100$/)
    const pid = await serverPid(dataDir)
    process.kill(pid, 'SIGKILL')
    await child.line(/^failed /)
    await child.line(/database_restarted/)
    const stored = storedBy(child).length
    await expect.poll(() => storedBy(child).length, { timeout: 60_000 }).toBeGreaterThan(stored)
    expect(new Set(child.lines.filter((line) => line.startsWith('failed')))).toEqual(
      new Set(['failed storage_unavailable']),
    )
    expect(child.process.exitCode).toBeNull()
    await child.kill()
    const rows = await written(dataDir)
    expect(storedBy(child).filter((n) => !rows.has(n))).toEqual([])
  })

  it('of both at once loses no stored row', async () => {
    const dataDir = await filledDataDirectory()
    const child = startWriter(dataDir)
    await child.line(/^stored 100$/)
    const pid = await serverPid(dataDir)
    child.process.kill('SIGKILL')
    process.kill(pid, 'SIGKILL')
    await child.ended
    const rows = await written(dataDir)
    expect(storedBy(child).filter((n) => !rows.has(n))).toEqual([])
  })

  it('of the watcher brings another one', async () => {
    const dataDir = await filledDataDirectory()
    const child = startWriter(dataDir)
    await child.line(/^stored /)
    const pid = await serverPid(dataDir)
    const watcher = watcherOf(pid)
    process.kill(watcher, 'SIGKILL')
    await expect.poll(() => watcherOf(pid), { timeout: 60_000 }).toBeGreaterThan(0)
    expect(watcherOf(pid)).not.toBe(watcher)
  })

  it('of the broker leaves no database behind where only the watcher is there to end it', async () => {
    const dataDir = await filledDataDirectory()
    await (await borrowEmbedded({ dataDir, log })).stop()
    const { uid, gid } = await stat(join(dataDir, 'postgres'))
    // Without setpriv, as on macOS; what it would pass by is opened instead.
    for (let at = dataDir; at !== os.tmpdir(); at = dirname(at)) await chmod(at, 0o755)
    const child = runModule(`
      import { startServer } from '${compiled.moduleUrl('storage/embedded/server-process.ts')}'
      import { clusterPaths } from '${compiled.moduleUrl('storage/embedded/cluster.ts')}'
      import { findBinaries } from '${compiled.moduleUrl('storage/embedded/binaries.ts')}'
      const paths = clusterPaths(${JSON.stringify(dataDir)})
      await startServer({
        paths,
        binaries: await findBinaries(),
        socketDirectory: paths.run,
        overrides: {},
        user: {
          owner: undefined,
          capability: undefined,
          command: (program, args) => [program, [...args]],
          spawnOptions: ${isRoot ? JSON.stringify({ uid, gid }) : '{}'},
        },
      })
      console.log('started')
      setInterval(() => {}, 1000)`)
    onTestFinished(() => child.kill())
    await child.line(/^started$/)
    expect(processesOf(dataDir)).toHaveLength(1)
    await child.kill('SIGKILL')
    await gone(dataDir)
  })

  it.runIf(process.platform === 'linux')(
    'of the watcher and then the broker leaves no database behind: the system ends it',
    async () => {
      const dataDir = await filledDataDirectory()
      const child = startWriter(dataDir)
      await child.line(/^stored /)
      const watcher = watcherOf(await serverPid(dataDir))
      // Stopped first, so that it sees nothing of the end of its watcher.
      child.process.kill('SIGSTOP')
      process.kill(watcher, 'SIGKILL')
      await expect.poll(() => isAlive(watcher) && processState(watcher) !== 'Z').toBe(false)
      await child.kill('SIGKILL')
      await gone(dataDir)
    },
  )
})

function processState(pid: number): string {
  try {
    return execFileSync('ps', ['-o', 'stat=', '-p', `${pid}`], { encoding: 'utf8' }).slice(0, 1)
  } catch {
    return 'Z'
  }
}

describe('signals and second brokers', () => {
  it('Ctrl-C, which goes to the whole group, does not end the database before the broker does', async () => {
    const dataDir = await filledDataDirectory()
    const child = startWriter(dataDir, { detached: true })
    await child.line(/^stored /)
    process.kill(-(child.process.pid ?? 0), 'SIGINT')
    await child.line(/^interrupted$/)
    const stored = storedBy(child).length
    await expect
      .poll(() => storedBy(child).length, { timeout: 60_000 })
      .toBeGreaterThan(stored + 20)
    expect(child.lines.filter((line) => line.startsWith('failed'))).toEqual([])
  })

  it('a second broker on the same directory is refused', async () => {
    const dataDir = await filledDataDirectory()
    const first = startWriter(dataDir)
    await first.line(/^stored /)
    const second = startWriter(dataDir)
    expect(await second.line(/^refused /)).toContain('data_dir_in_use')
    expect(await second.ended).toBe(1)
    const stored = storedBy(first).length
    await expect.poll(() => storedBy(first).length, { timeout: 60_000 }).toBeGreaterThan(stored)
  })
})

describe('the programs', () => {
  it('that npm has not installed are refused with what to do', async () => {
    await expect(findBinaries('plan9-mips')).rejects.toMatchObject({
      name: 'OperatorError',
      code: 'embedded_unsupported',
      message: expect.stringMatching(/plan9-mips.*database\.url/) as string,
    })
  })

  it('get their links where the install script did not run, and twice does no harm', async () => {
    const directory = await temporaryDirectory()
    await mkdir(join(directory, 'native/lib'), { recursive: true })
    await writeFile(join(directory, 'native/lib/libx.so.1.2'), 'x')
    const links = [{ source: 'native/lib/libx.so.1.2', target: 'native/lib/libx.so.1' }]
    await writeFile(join(directory, 'native/pg-symlinks.json'), JSON.stringify(links))
    await Promise.all([linkLibraries(directory, 'p'), linkLibraries(directory, 'p')])
    await linkLibraries(directory, 'p')
    expect((await lstat(join(directory, 'native/lib/libx.so.1'))).isSymbolicLink()).toBe(true)
    expect(await readFile(join(directory, 'native/lib/libx.so.1'), 'utf8')).toBe('x')
  })
})

/** As another user, which takes a Node and an installation that everybody may read: not so below /root. */
const itForOthers = it.skipIf(
  !isRoot ||
    spawnSync(process.execPath, ['-e', 'fs.readdirSync("node_modules/postgres/src")'], {
      ...ordinaryUser(),
      cwd: join(import.meta.dirname, '../../..'),
    }).status !== 0,
)

describe.runIf(isRoot)('as root', () => {
  it('runs as another user, without a capability where it can reach its files', async () => {
    const dataDir = await temporaryDirectory()
    const directory = await claimDataDirectory(dataDir)
    const events: StorageEvent[] = []
    const say = (event: StorageEvent) => void events.push(event)
    const embedded = await startEmbedded({ directory, log: { info: say, warn: say } })
    const pid = await serverPid(dataDir)
    const status = await readFile(`/proc/${pid}/status`, 'utf8')
    expect(status).toMatch(/^Uid:\t(?!0\t)/m)
    expect(status).toMatch(/^Groups:\t\s*$/m)
    expect(status).toMatch(/^CapEff:\t0+$/m)
    expect(events.map(({ event }) => event)).toEqual(['database_started'])
    // Passed through, and not read, by the group of that user.
    expect((await stat(dataDir)).mode & 0o777).toBe(0o710)
    expect((await stat(join(dataDir, 'postgres-password'))).mode & 0o777).toBe(0o600)
    await embedded.stop()
    await directory.release()
  })

  it('lends the one capability that it takes to pass a directory of root alone, and says so', async () => {
    const closed = await temporaryDirectory()
    const child = startWriter(join(closed, 'below/data'))
    await child.line(/^stored /)
    expect((await stat(closed)).mode & 0o777).toBe(0o700)
    const status = await readFile(
      `/proc/${await serverPid(join(closed, 'below/data'))}/status`,
      'utf8',
    )
    expect(status).toMatch(/^Uid:\t(?!0\t)/m)
    expect(child.lines.join('\n')).toMatch(/database_has_capability","capability":"dac_/)
  })

  itForOthers('and then as an ordinary user it is refused with what to do', async () => {
    const dataDir = await temporaryDirectory()
    await (await borrowEmbedded({ dataDir, log })).stop()
    const { uid, gid } = ordinaryUser()
    const refusal = () => startWriter(dataDir, { uid, gid }).line(/^refused /)
    expect(await refusal()).toMatch(/data_dir_unusable.*\(EACCES\)/)
    await chown(dataDir, uid, gid)
    expect(await refusal()).toMatch(/data_dir_unusable.*\(EACCES\)/)
    await rm(join(dataDir, 'owner.json'))
    await chown(join(dataDir, 'postgres'), 0, 0)
    expect(await refusal()).toMatch(
      /embedded_no_access.*postgres belongs to the user with the id 0/,
    )
  })

  itForOthers('an ordinary user runs it itself', async () => {
    const dataDir = await temporaryDirectory()
    const { uid, gid } = ordinaryUser()
    await chown(dataDir, uid, gid)
    const child = startWriter(dataDir, { uid, gid })
    await child.line(/^stored 10$/)
    expect((await stat(join(dataDir, 'postgres'))).uid).toBe(uid)
    await child.kill('SIGKILL')
    await gone(dataDir)
  })

  itForOthers('a user id without a name is refused with what to do', async () => {
    const dataDir = await temporaryDirectory()
    await chown(dataDir, 54_321, 54_321)
    const child = startWriter(dataDir, { uid: 54_321, gid: 54_321 })
    expect(await child.line(/^refused /)).toMatch(/embedded_no_user.*54321.*database\.url/)
  })
})

function ordinaryUser(): { uid: number; gid: number } {
  const [uid, gid] = execFileSync('sh', ['-c', 'id -u nobody; id -g nobody'], { encoding: 'utf8' })
    .split('\n')
    .map(Number)
  return { uid: uid ?? 0, gid: gid ?? 0 }
}
