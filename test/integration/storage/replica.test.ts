import { afterEach, describe, expect, it } from 'vitest'
import type { PersonId } from '../../../src/core/caller.ts'
import type { CutOff, ReplicaMemory } from '../../../src/core/ports/replicas.ts'
import { Secret } from '../../../src/core/secret.ts'
import { openDatabases } from '../../../src/storage/database.ts'
import { invalidation } from '../../../src/storage/invalidations.ts'
import { startNotifications } from '../../../src/storage/notifications.ts'
import { createReplica } from '../../../src/storage/replica.ts'
import { createTestDatabase, type TestDatabase } from '../../support/database.ts'
import { startTcpDoor } from '../../support/tcp-door.ts'

const undo: (() => Promise<unknown>)[] = []
afterEach(async () => {
  for (let last = undo.pop(); last !== undefined; last = undo.pop()) await last()
})

const deaf = { on: () => () => {}, onGap: () => () => {}, subjectOf: () => '' }
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

async function testDatabase(): Promise<TestDatabase> {
  const created = await createTestDatabase()
  undo.push(created.drop)
  return created
}

/** A process of a sort: its heartbeat, and a memory that writes down what it is told. */
async function start(url: string, freshForMs: number, more: { hears?: boolean } = {}) {
  const told: (string | undefined)[] = []
  const cutOffs: (readonly [PersonId, CutOff])[] = []
  let forgotAll = 0
  const memory: ReplicaMemory = {
    forget: (_person, upstream) => void told.push(upstream),
    end: (_person, upstream) => void told.push(upstream),
    forgetAll: () => {
      forgotAll += 1
    },
    cutOff: (person, cutOff) => void cutOffs.push([person, cutOff]),
  }
  const replica = createReplica({ freshForMs })
  const { calls } = await openDatabases({
    url: new Secret(url),
    pools: { calls: 4 },
    beat: replica.beat,
  })
  const notifications =
    more.hears === false ? undefined : startNotifications({ url: new Secret(url) })
  replica.keeps(memory)
  const stop = async () => {
    await replica.leave()
    await notifications?.stop()
    await calls.close()
  }
  undo.push(stop)
  return {
    replica,
    calls,
    told,
    cutOffs,
    timesForgotAll: () => forgotAll,
    join: () => replica.join({ calls, notices: notifications ?? deaf }),
    stop,
  }
}

type Process = Awaited<ReturnType<typeof start>>

async function joined(...options: Parameters<typeof start>): Promise<Process> {
  const process = await start(...options)
  await process.join()
  return process
}

function tell({ calls: { run, sql } }: Process, upstream: string | undefined) {
  const whom = { issuer: 'https://login.example.com', userId: 'ada', upstream }
  const told = invalidation(sql, whom, 'changed', { ended: true })
  return run(() => sql`WITH changed AS (SELECT 1), ${told} SELECT 1`)
}

async function replicasIn({ database: { run, sql } }: TestDatabase): Promise<number> {
  const [row] = await run(
    () => sql<[{ count: number }]>`SELECT count(*)::int AS count FROM replica`,
  )
  return row.count
}

describe('what a process may serve from memory', () => {
  it('is nothing before it has joined, nor after it has left', async () => {
    const { url } = await testDatabase()
    const process = await start(url, 10_000)
    expect(process.replica.isFresh()).toBe(false)
    await process.join()
    expect(process.replica.isFresh()).toBe(true)
    await process.replica.leave()
    expect(process.replica.isFresh()).toBe(false)
  })

  it('ends when the database does not answer, and begins again with its next answer', async () => {
    const { url } = await testDatabase()
    const door = await startTcpDoor(url)
    undo.push(door.stop)
    const process = await joined(door.url, 4000)
    expect(process.replica.wasAway(60_000)).toBe(false)
    door.stall()
    await expect.poll(() => process.replica.isFresh()).toBe(false)
    door.open()
    expect(process.replica.wasAway(0)).toBe(true)
    await expect.poll(() => process.replica.isFresh()).toBe(true)
    expect(process.replica.wasAway(60_000)).toBe(true)
    await expect.poll(() => process.replica.wasAway(50)).toBe(false)
  })

  it('hangs on the beat alone: a database that answers everything else does not count', async () => {
    const { url, database } = await testDatabase()
    const process = await joined(url, 2000)
    const locked = database.sql.begin(async (sql) => {
      await sql`LOCK TABLE replica IN EXCLUSIVE MODE`
      await expect.poll(() => process.replica.isFresh()).toBe(false)
      await process.calls.run(() => process.calls.sql`SELECT 1`)
      expect(process.replica.isFresh()).toBe(false)
    })
    await locked
    await expect.poll(() => process.replica.isFresh()).toBe(true)
  })

  it('ends with the time on the clock too, because the other one stands still while a machine sleeps', async () => {
    const { url } = await testDatabase()
    const { replica } = await joined(url, 10_000)
    const { now } = Date
    try {
      Date.now = () => now() + 11_000
      expect(replica.isFresh()).toBe(false)
      Date.now = () => now() - 60_000
      expect(replica.isFresh()).toBe(false)
    } finally {
      Date.now = now
    }
    expect(replica.isFresh()).toBe(true)
  })
})

describe('P12: what one replica removes', () => {
  it.each([
    ['at once, by notice', true],
    ['by the next beat, where a pooler lets no notice through', false],
  ])('the others have forgotten before it is answered: %s', async (_how, hears) => {
    const { url } = await testDatabase()
    const here = await joined(url, 5000, { hears })
    const others = [await joined(url, 5000, { hears }), await joined(url, 5000, { hears })]
    for (let round = 0; round < (hears ? 30 : 3); round += 1) {
      await tell(here, `upstream-${round}`)
      await here.replica.caughtUp()
      for (const { told } of others) expect(told).toHaveLength(round + 1)
    }
    expect(others[0]?.told).toEqual(others[1]?.told)
    expect(others[0]?.timesForgotAll()).toBe(1)
  })

  it('is heard of in one order by all, however many remove at once, and by none twice', async () => {
    const { url } = await testDatabase()
    const processes = [await joined(url, 5000), await joined(url, 5000)]
    const names = Array.from({ length: 120 }, (_, index) => `u${index}`)
    await Promise.all(
      names.map(async (name, index) => {
        const process = processes[index % 2]
        if (process === undefined) return
        await tell(process, name)
        await process.replica.caughtUp()
        for (const { told } of processes) {
          if (process.told !== told) expect(told).toContain(name)
        }
      }),
    )
    for (const process of processes) await expect.poll(() => process.told).toHaveLength(120)
    expect(processes[0]?.told).toEqual(processes[1]?.told)
    expect(processes[0]?.told.toSorted()).toEqual(names.toSorted())
  })

  it('waits for nobody where there is no other', async () => {
    const { url } = await testDatabase()
    const alone = await joined(url, 60_000)
    await tell(alone, 'files')
    await alone.replica.caughtUp()
  })

  it('waits for a replica that does not answer until that serves nothing from memory any more, and then no longer for it', async () => {
    const test = await testDatabase()
    const door = await startTcpDoor(test.url)
    undo.push(door.stop)
    const here = await joined(test.url, 5000)
    const cut = await joined(door.url, 5000)
    door.shut()
    await tell(here, 'files')
    expect(cut.replica.isFresh()).toBe(true)
    await here.replica.caughtUp()
    expect(cut.replica.isFresh()).toBe(false)
    expect(cut.told).toEqual([])
    expect(await replicasIn(test)).toBe(1)
    await tell(here, 'reports')
    await here.replica.caughtUp()

    // Given up, it comes back as one that knows nothing.
    expect(cut.timesForgotAll()).toBe(1)
    door.open()
    await expect.poll(() => cut.replica.isFresh()).toBe(true)
    expect(cut.timesForgotAll()).toBe(2)
    expect(await replicasIn(test)).toBe(2)
    await tell(here, 'graph')
    await here.replica.caughtUp()
    expect(cut.told).toEqual(['graph'])
  })

  it('is waited for, where nobody waited long enough to give it up', async () => {
    const { url } = await testDatabase()
    const door = await startTcpDoor(url)
    undo.push(door.stop)
    const here = await joined(url, 20_000)
    const cut = await joined(door.url, 20_000)
    door.shut()
    await tell(here, 'files')
    const everywhere = here.replica.caughtUp()
    await pause(300)
    door.open()
    await everywhere
    expect(cut.told).toEqual(['files'])
    expect(cut.timesForgotAll()).toBe(1)
  })

  it('a beat on its way is waited for before a replica is given up', async () => {
    const test = await testDatabase()
    const { sql } = test.database
    const here = await joined(test.url, 20_000)
    const other = '0192f0e0-0000-7000-8000-000000000001'
    await sql`
      INSERT INTO replica (id, started_at, heard_at, seen)
      SELECT ${other}, now(), now() - interval '1 hour', last FROM invalidation_counter`
    let answered = false
    await sql.begin(async (beat) => {
      await beat`UPDATE replica SET heard_at = now() WHERE id = ${other}`
      await tell(here, 'files')
      void here.replica.caughtUp().then(() => {
        answered = true
      })
      await pause(500)
      expect(answered).toBe(false)
    })
    await pause(500)
    // It was heard from just now: what it serves may be from before.
    expect(answered).toBe(false)
    await sql`UPDATE replica SET seen = (SELECT last FROM invalidation_counter) WHERE id = ${other}`
    await expect.poll(() => answered).toBe(true)
  })

  it('a replica that stops leaves nobody waiting', async () => {
    const { url } = await testDatabase()
    const here = await joined(url, 60_000)
    const other = await joined(url, 60_000)
    await other.replica.leave()
    await tell(here, 'files')
    await here.replica.caughtUp()
  })
})

describe('a person who was cut off', () => {
  it('is known to whoever joins later, and to the others with the word that they must forget', async () => {
    const { url, database } = await testDatabase()
    const cutAt = new Date('2026-11-21T12:34:56.789Z')
    await database.sql`
      INSERT INTO cut_off (issuer, user_id, cut_at) VALUES ('https://login.example.com', 'ada', ${cutAt})`
    const process = await joined(url, 5000)
    const ada = { issuer: 'https://login.example.com', userId: 'ada' }
    expect(process.cutOffs).toEqual([[ada, { cutAt, returned: false }]])
    await database.sql`UPDATE cut_off SET returned_at = now()`
    const other = await joined(url, 5000)
    await tell(other, undefined)
    await other.replica.caughtUp()
    expect(process.told).toEqual([undefined])
    expect(process.cutOffs.slice(1)).toEqual([[ada, { cutAt, returned: true }]])
  })
})
