import { afterEach, describe, expect, it } from 'vitest'
import { BrokerError } from '../../../src/core/errors.ts'
import { Secret } from '../../../src/core/secret.ts'
import { type Database, openDatabase, openDatabases } from '../../../src/storage/database.ts'
import { encryptionKey } from '../../../src/storage/schema/index.ts'
import { createTestDatabase, type TestDatabase } from '../../support/database.ts'
import { connectTo } from '../../support/postgres-client.ts'
import { startTcpDoor } from '../../support/tcp-door.ts'

const undo: (() => Promise<unknown>)[] = []
afterEach(async () => {
  for (let last = undo.pop(); last !== undefined; last = undo.pop()) await last()
})

async function testDatabase(pool = 10): Promise<TestDatabase> {
  const created = await createTestDatabase({ pool })
  undo.push(created.drop)
  return created
}

async function open(url: string, pool = 2): Promise<Database> {
  const database = await openDatabase({ url: new Secret(url), pool })
  undo.push(database.close)
  return database
}

/** What a call ended with: nothing, or its code and the kind of its cause. */
async function outcomeOf(call: Promise<unknown>): Promise<string> {
  try {
    await call
    return 'fine'
  } catch (error) {
    if (!(error instanceof BrokerError)) throw error
    return `${error.code}: ${(error.cause as { code?: string }).code}`
  }
}

describe('values', () => {
  it('reads bigint as number, timestamptz as Date and bytea as Buffer, in drizzle and in raw statements', async () => {
    const { database } = await testDatabase()
    const at = new Date('2026-11-21T12:34:56.789Z')
    const rows = await database.run(
      () => database.sql`
        select ${at}::timestamptz as at, 9007199254740991::bigint as big, ${Buffer.from([0, 255])}::bytea as bytes,
          ${database.sql.json({ a: ['b'] })}::jsonb as json`,
    )
    expect(rows).toEqual([
      { at, big: 9_007_199_254_740_991, bytes: Buffer.from([0, 255]), json: { a: ['b'] } },
    ])
    await database.run(() =>
      database.db.insert(encryptionKey).values({ id: 'k1', check: Buffer.from([1, 2]) }),
    )
    expect(await database.run(() => database.db.select().from(encryptionKey))).toEqual([
      { id: 'k1', check: Buffer.from([1, 2]) },
    ])
  })

  it('binds and reads arrays of every type that is bound, with quotes, NULL and nothing in them', async () => {
    const { database } = await testDatabase()
    const { sql } = database
    const texts = ['a"b', 'c\\d', 'e,{f}', '', 'NULL', null, 'ü\n']
    const at = new Date(1_800_000_000_123)
    const id = '0192f0e0-0000-7000-8000-000000000001'
    const [row] = await database.run(
      () => sql`
        select ${sql.array(texts)}::text[] as texts, ${sql.array([])}::text[] as none,
          ${sql.array([at])}::timestamptz[] as times, ${sql.array([id])}::uuid[] as ids,
          ${sql.array([1.5, 2])}::float8[] as numbers, ${[7, 8]}::bigint[] as big,
          ${sql.array([Buffer.from([1])])}::bytea[] as bytes, array[[1,2],[3,4]] as nested`,
    )
    expect(row).toEqual({
      texts,
      none: [],
      times: [at],
      ids: [id],
      numbers: [1.5, 2],
      big: [7, 8],
      bytes: [Buffer.from([1])],
      nested: [
        [1, 2],
        [3, 4],
      ],
    })
  })
})

describe('a statement that fails', () => {
  it('is storage_unavailable, and nothing of its values is in the error', async () => {
    const { database } = await testDatabase()
    const key = { id: 'canary-key', check: Buffer.from('canary-check') }
    await database.run(() => database.db.insert(encryptionKey).values(key))
    const again = database.run(() => database.db.insert(encryptionKey).values(key))
    const error = await again.then(
      () => undefined,
      (reason: unknown) => reason,
    )
    expect(error).toBeInstanceOf(BrokerError)
    expect(error).toMatchObject({ code: 'storage_unavailable', cause: { code: '23505' } })
    const { inspect } = await import('node:util')
    const everything = inspect(error, { depth: 10, showHidden: true })
    expect(everything).toContain('23505')
    expect(everything).not.toContain('canary')
    expect(everything).not.toContain(Buffer.from('canary').toString('hex'))
  })

  it('keeps what PostgreSQL says about our own SQL, so that a mistake can be found', async () => {
    const { database } = await testDatabase()
    const call = database.run(() => database.sql`select nonsense from credential`)
    await expect(call).rejects.toMatchObject({
      cause: { code: '42703', message: expect.stringContaining('nonsense') as string },
    })
  })

  it('lets a BrokerError of the callback pass', async () => {
    const { database } = await testDatabase()
    const refusal = new BrokerError('not_found')
    await expect(database.run(() => Promise.reject(refusal))).rejects.toBe(refusal)
  })
})

describe('a connection that dies', () => {
  it('fails the call that was on it, and the next call works', async () => {
    const { database, url } = await testDatabase(1)
    const killer = connectTo(url)
    undo.push(() => killer.end())
    const call = outcomeOf(database.run(() => database.sql`select pg_sleep(60)`))
    await expect
      .poll(
        () => killer`
        select pg_terminate_backend(pid) from pg_stat_activity
        where query like 'select pg_sleep%' and datname = current_database()`,
      )
      .toHaveLength(1)
    expect(await call).toMatch(/^storage_unavailable: (57P01|CONNECTION_CLOSED|ECONNRESET)$/)
    expect(await outcomeOf(database.run(() => database.sql`select 1`))).toBe('fine')
  })

  it('leaves no slot of the pool broken, whenever it dies: idle, busy, or while callers try again at once', async () => {
    const { database, url } = await testDatabase(10)
    const killer = connectTo(url)
    undo.push(() => killer.end())
    const outcomes = new Set<string>()
    const call = async (triesLeft: number): Promise<void> => {
      const outcome = await outcomeOf(database.run(() => database.sql`select pg_sleep(0.001)`))
      outcomes.add(outcome)
      if (outcome !== 'fine' && triesLeft > 0) await call(triesLeft - 1)
    }
    const calls = (count: number) => Array.from({ length: count }, () => call(3))
    for (let round = 0; round < 12; round += 1) {
      await Promise.all(calls(20))
      const busy = calls(3)
      await killer`
        select pg_terminate_backend(pid) from pg_stat_activity
        where application_name = 'onbehalf' and datname = current_database()`
      await Promise.all(busy)
      const late: Promise<void>[] = []
      setImmediate(() => late.push(...calls(3)))
      await new Promise((resolve) => setTimeout(resolve, round % 5))
      await Promise.all(late)
    }
    // A slot whose driver state was torn says nothing more to the server and times out.
    expect([...outcomes].filter((outcome) => outcome.includes('TIMEOUT'))).toEqual([])
    expect(outcomes).toContain('fine')
    expect(outcomes.size).toBeGreaterThan(1)
    for (const outcome of await Promise.all(
      Array.from({ length: 10 }, () =>
        outcomeOf(database.run(() => database.sql`select pg_sleep(0.05)`)),
      ),
    )) {
      expect(outcome).toBe('fine')
    }
  })
})

describe('a database that goes away', () => {
  it('fails calls with storage_unavailable while it is away, and works again when it is back', async () => {
    const { url } = await testDatabase()
    const door = await startTcpDoor(url)
    undo.push(door.stop)
    const database = await open(door.url)
    expect(await outcomeOf(database.run(() => database.sql`select 1`))).toBe('fine')
    door.shut()
    for (let call = 0; call < 5; call += 1) {
      // At once, and not only when the patience with it is over.
      expect(await outcomeOf(database.run(() => database.sql`select 1`))).toMatch(
        /^storage_unavailable: (CONNECTION_CLOSED|ECONNRESET)$/,
      )
    }
    door.open()
    await expect.poll(() => outcomeOf(database.run(() => database.sql`select 1`))).toBe('fine')
  })
})

// Each of these waits for a limit of several seconds, so they wait together.
describe.concurrent('in the end', () => {
  it('a call that is never answered fails, and all works again after it', async (test) => {
    const { url, drop } = await createTestDatabase()
    test.onTestFinished(drop)
    const door = await startTcpDoor(url)
    test.onTestFinished(door.stop)
    const database = await openDatabase({ url: new Secret(door.url), pool: 2 })
    test.onTestFinished(database.close)
    test.expect(await outcomeOf(database.run(() => database.sql`select 1`))).toBe('fine')
    door.stall()
    test
      .expect(await outcomeOf(database.run(() => database.sql`select 1`)))
      .toMatch(/^storage_unavailable: /)
    door.shut()
    door.open()
    await test.expect
      .poll(() => outcomeOf(database.run(() => database.sql`select 1`)), { timeout: 15_000 })
      .toBe('fine')
  }, 60_000)

  it('a statement that takes too long is ended by the server', async ({ onTestFinished }) => {
    const { database, drop } = await createTestDatabase({ pool: 1 })
    onTestFinished(drop)
    expect(await outcomeOf(database.run(() => database.sql`select pg_sleep(30)`))).toBe(
      'storage_unavailable: 57014',
    )
  })

  it('an address that does not answer is said', async () => {
    // TEST-NET-1 of RFC 5737: nothing is ever there. Where the network says so at once, that is as good.
    const opened = openDatabase({ url: new Secret('postgres://u@192.0.2.1/db'), pool: 1 })
    await expect(opened).rejects.toMatchObject({ code: 'database_unreachable' })
  })
})

describe('opening', () => {
  const refusals: [string, string, RegExp][] = [
    ['nobody listens', 'postgres://u:canary@127.0.0.1:1/db', /127\.0\.0\.1:1: .*ECONNREFUSED/],
    ['none of several listens', 'postgres://u:canary@127.0.0.1:1,127.0.0.1:2/db', /ECONNREFUSED/],
    ['no socket is there', 'postgres://u:canary@localhost/db?host=/nonexistent', /ENOENT/],
  ]
  it.each(refusals)('says where and why when %s', async (_case, url, message) => {
    const error = await open(url).catch((reason: unknown) => reason)
    expect(error).toMatchObject({
      name: 'OperatorError',
      code: 'database_unreachable',
      message: expect.stringMatching(message) as string,
    })
    expect(String(error)).not.toContain('canary')
  })

  it.each([
    ['is of another kind', 'mysql://u:canary@localhost/db'],
    ['cannot be read', 'postgres://u:canary#@[::1/db'],
    ['has a password with a lone percent sign', 'postgres://u:canary%zz@localhost/db'],
    ['has one in one of several hosts', 'postgres://u:canary@a%zz,b/db'],
    ['has a port that there is not', 'postgres://u:canary@localhost/db?port=99999'],
    ['has one at one of several hosts', 'postgres://u:canary@a:99999,b/db'],
    [
      'has a parameter of libpq that is not supported',
      'postgres://u:canary@localhost/db?sslrootcert=x',
    ],
  ])('refuses a URL that %s, without printing it', async (_case, url) => {
    const error = await open(url).catch((reason: unknown) => reason)
    expect(error).toMatchObject({ name: 'OperatorError', code: 'database_url_invalid' })
    expect(String(error)).not.toContain('canary')
  })

  it('says that the database does not exist, or that the password is wrong', async () => {
    const { url } = await testDatabase()
    const missing = new URL(url)
    missing.pathname = '/nowhere'
    await expect(open(missing.href)).rejects.toThrow('SQLSTATE 3D000')
    const wrong = new URL(url)
    wrong.username = 'nobody'
    wrong.password = 'canary'
    await expect(open(wrong.href)).rejects.toThrow(/SQLSTATE (28P01|28000)/)
  })
})

describe('pools', () => {
  it('on one database do not wait for each other', async () => {
    const { url } = await testDatabase()
    const pools = await openDatabases({ url: new Secret(url), pools: { calls: 1, searches: 1 } })
    undo.push(pools.calls.close)
    const holder = connectTo(url)
    undo.push(() => holder.end())
    await holder`select pg_advisory_lock(1)`
    let isFound = false
    const search = pools.searches
      .run(() => pools.searches.sql`select pg_advisory_lock(1)`)
      .then(() => {
        isFound = true
      })
    await pools.calls.run(() => pools.calls.sql`select 1`)
    expect(isFound).toBe(false)
    await holder`select pg_advisory_unlock(1)`
    await search
  })

  it('count the statements that were sent, and not the heartbeats', async () => {
    const { database } = await testDatabase()
    const before = database.statementCount()
    await database.run(() => database.sql`select 1`)
    await database.run(() => database.db.select().from(encryptionKey))
    expect(database.statementCount()).toBe(before + 2)
  })

  it('are named for the administrator and never leave a connection behind', async () => {
    const { url } = await testDatabase()
    const database = await openDatabase({ url: new Secret(url), pool: 3 })
    await Promise.all([1, 2, 3].map(() => database.run(() => database.sql`select pg_sleep(0.01)`)))
    await database.close()
    const observer = connectTo(url)
    undo.push(() => observer.end())
    // The pool of the test database itself has not been used.
    await expect
      .poll(async () => {
        const [row] = await observer<{ open: number }[]>`
          select count(*)::int as open from pg_stat_activity
          where application_name = 'onbehalf' and datname = current_database()`
        return row?.open
      })
      .toBe(1)
  })
})
