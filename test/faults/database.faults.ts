import { describe, expect } from 'vitest'
import { at, isClaim, isCommit } from './support/moments.ts'
import { startPrivatePostgres } from './support/private-postgres.ts'
import { type Replica, sleep } from './support/replica.ts'
import { scenario } from './support/scenario.ts'
import { type Person, type Scene, some } from './support/scene.ts'

const away = ['200', '503 storage_unavailable', '503 upstream_unavailable'] as const
const outcomeUnknown = '403 connect_required refresh_outcome_unknown'

const shutAll = (scene: Scene) => scene.replicas.forEach((replica) => replica.wire.shut())
const openAll = (scene: Scene) => scene.replicas.forEach((replica) => replica.wire.open())

/** The database is gone for everybody at the moment when this replica's commit is on its way; the commit never arrives. */
function cutAtCommit(scene: Scene, replica: Replica): Promise<void> {
  return new Promise((resolve) => {
    replica.wire.hook((phase, text) => {
      if (phase !== 'sent' || !isCommit(text)) return 'forward'
      replica.wire.hook(undefined)
      shutAll(scene)
      resolve()
      return 'drop'
    })
  })
}

async function settleEverywhere(scene: Scene, person: Person): Promise<void> {
  for (const replica of scene.replicas) {
    expect((await person.untilSettled(replica)).status).toBe(200)
  }
}

describe('V12: PostgreSQL', () => {
  scenario('is away before the claim: nothing is sent', {}, async (scene) => {
    const person = await scene.person()
    const [first] = scene.replicas
    shutAll(scene)
    const refused = await person.storm(10, scene.replicas)
    for (const one of refused) expect(one.code).toBe('storage_unavailable')
    expect(scene.server.requests()).toBe(0)
    openAll(scene)
    expect((await person.untilSettled(first)).status).toBe(200)
    await settleEverywhere(scene, person)
    return scene.finish({ requests: 1, lost: 0, saw: away })
  })

  scenario('dies with the claim on its way', {}, async (scene) => {
    const person = await scene.person()
    const [first] = scene.replicas
    some(first).wire.hook((phase, text) => {
      if (phase !== 'answered' || !isClaim(text)) return 'forward'
      some(first).wire.hook(undefined)
      return 'drop'
    })
    await person.resolve(first)
    await settleEverywhere(scene, person)
    return scene.finish({ requests: 1, lost: 0, saw: away })
  })

  scenario(
    'is away when the answer comes, for 4 s: it is stored when it is back',
    {},
    async (scene) => {
      const person = await scene.person()
      const [first] = scene.replicas
      const cut = cutAtCommit(scene, some(first))
      const call = person.resolve(first)
      await cut
      await sleep(4000)
      openAll(scene)
      await call
      await settleEverywhere(scene, person)
      return scene.finish({ requests: 1, lost: 0, saw: away })
    },
  )

  scenario(
    'is away when the answer comes, for longer than a lease: whoever has it stores it before another takes over',
    {},
    async (scene) => {
      const person = await scene.person()
      const [first, second] = scene.replicas
      const cut = cutAtCommit(scene, some(first))
      const call = person.resolve(first)
      await cut
      await call
      await sleep(26_000)
      const others = person.untilSettled(second)
      openAll(scene)
      await others
      await settleEverywhere(scene, person)
      return scene.finish({ requests: 1, lost: 0, saw: away })
    },
  )

  scenario('loses the acknowledgement of a commit', {}, async (scene) => {
    const person = await scene.person()
    const [first] = scene.replicas
    some(first).wire.hook((phase, text) => {
      if (phase !== 'answered' || !isCommit(text)) return 'forward'
      some(first).wire.hook(undefined)
      return 'drop'
    })
    await person.resolve(first)
    await settleEverywhere(scene, person)
    return scene.finish({ requests: 1, lost: 0, saw: away })
  })

  for (const downMs of [0, 6000]) {
    scenario(
      `is away when the answer comes, and then the replica is killed; it is started ${downMs === 0 ? 'at once' : `${downMs / 1000} s later`}: its journal is replayed`,
      {},
      async (scene) => {
        const person = await scene.person()
        const [first, second] = scene.replicas
        const cut = cutAtCommit(scene, some(first))
        const call = person.resolve(first)
        await cut
        await some(first).kill()
        await call
        openAll(scene)
        const others = downMs === 0 ? undefined : person.untilSettled(second)
        await sleep(downMs)
        await some(first).start()
        await others
        await settleEverywhere(scene, person)
        return scene.finish({ requests: 1, lost: 0, saw: [...away, 'no answer'] })
      },
    )
  }

  scenario(
    'the same, and the replica never comes back within a lease (strict): one try, a clear reason',
    {},
    async (scene) => {
      const person = await scene.person()
      const [first, second] = scene.replicas
      const cut = cutAtCommit(scene, some(first))
      const call = person.resolve(first)
      await cut
      await some(first).kill()
      await call
      openAll(scene)
      expect((await person.untilSettled(second)).reason).toBe('refresh_outcome_unknown')
      return scene.finish({
        requests: 2,
        lost: 1,
        reuses: 1,
        saw: [...away, 'no answer', outcomeUnknown],
      })
    },
  )

  scenario(
    'is away: what is valid is served from memory for 10 s at most, then refused',
    {},
    async (scene) => {
      const person = await scene.person({ endsInSeconds: 3600 })
      for (const replica of scene.replicas) await person.resolve(replica)
      shutAll(scene)
      const shutAt = performance.now()
      const served = await person.storm(20, scene.replicas)
      for (const one of served) expect(one.status).toBe(200)
      await scene.until('memory is not used any more', async () => {
        const answers = await person.storm(2, scene.replicas)
        await sleep(100)
        return answers.every(({ code }) => code === 'storage_unavailable')
      })
      // 10 s after it was last heard from, which was before it went away.
      expect(performance.now() - shutAt).toBeLessThan(11_000)
      openAll(scene)
      await settleEverywhere(scene, person)
      return scene.finish({ requests: 0, lost: 0, saw: away })
    },
  )

  scenario(
    'stands still for one replica (half-open connections): the other serves',
    {},
    async (scene) => {
      const person = await scene.person()
      const [first, second] = scene.replicas
      some(first).wire.stall()
      const call = person.resolve(first)
      await sleep(500)
      expect((await person.untilSettled(second)).status).toBe(200)
      await call
      some(first).wire.open()
      await settleEverywhere(scene, person)
      return scene.finish({ requests: 1, lost: 0, saw: away })
    },
  )
})

/** Six people whose credentials live 6 s, so that renewals go on all the time. */
async function shortLived(scene: Scene): Promise<readonly Person[]> {
  return Promise.all(Array.from({ length: 6 }, () => scene.person({ livesSeconds: 6 })))
}

/** Nobody is lost, and everybody is served in the end. */
async function allAreServed(scene: Scene, people: readonly Person[]): Promise<void> {
  for (const person of people) {
    for (const replica of scene.replicas) {
      expect((await person.untilSettled(replica)).status).toBe(200)
    }
  }
}

describe('V14: while credentials of 6 s are renewed under load', () => {
  scenario('backends are killed every 100 ms for 10 s', { replicas: 3 }, async (scene) => {
    const people = await shortLived(scene)
    const { sql } = scene.database.database
    await scene.load(people, 24, async () => {
      for (let round = 0; round < 100; round += 1) {
        await sql`
          SELECT pg_terminate_backend(pid) FROM (
            SELECT pid FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name <> 'harness'
            ORDER BY random() LIMIT 1) AS one`.catch(() => {})
        await sleep(100)
      }
    })
    await allAreServed(scene, people)
    return scene.finish({ requests: [6, Number.POSITIVE_INFINITY], lost: 0, saw: away })
  })

  for (const [how, signal] of [
    ['is restarted', 'SIGINT'],
    ['is killed with SIGKILL and recovers', 'SIGKILL'],
  ] as const) {
    let postgres: Awaited<ReturnType<typeof startPrivatePostgres>>
    const database = async () => {
      postgres = await startPrivatePostgres()
      return postgres
    }
    scenario(`PostgreSQL ${how}, three times`, { replicas: 2, database }, async (scene) => {
      const people = await shortLived(scene)
      await scene.load(people, 16, async () => {
        for (let round = 0; round < 3; round += 1) {
          await sleep(2500)
          await postgres.signal(signal)
        }
        await sleep(4000)
      })
      await allAreServed(scene, people)
      return scene.finish({ requests: [6, Number.POSITIVE_INFINITY], lost: 0, saw: away })
    })
  }

  scenario(
    'the pool is exhausted: every connection waits for a lock for 3 s',
    { change: smallPool },
    async (scene) => {
      const people = await Promise.all(Array.from({ length: 20 }, () => scene.person()))
      const warm = await scene.person({ endsInSeconds: 3600 })
      for (const replica of scene.replicas) await warm.resolve(replica)
      const { sql } = scene.database.database
      const locked = sql.begin(async (transaction) => {
        await transaction`LOCK TABLE credential IN ACCESS EXCLUSIVE MODE`
        await sleep(3000)
      })
      await sleep(200)
      const calls = Promise.all(people.map((person) => person.storm(6, scene.replicas)))
      const served = await warm.storm(20, scene.replicas)
      for (const one of served) expect(one.status).toBe(200)
      await locked
      await calls
      await allAreServed(scene, people)
      return scene.finish({ requests: 20, lost: 0, saw: away })
    },
  )
})

function smallPool(config: Record<string, unknown>): void {
  config['database'] = { pool: 2 }
}

describe('V15: wakings', () => {
  scenario(
    'a pooler loses every notification: waiters find out by asking',
    { replicas: 3, latencyMs: 300 },
    async (scene) => {
      for (const replica of scene.replicas) replica.wire.loseNotifications()
      for (let round = 0; round < 5; round += 1) {
        const person = await scene.person()
        for (const one of await person.storm(150, scene.replicas)) expect(one.status).toBe(200)
      }
      return scene.finish({ requests: 5, lost: 0, saw: ['200'] })
    },
  )

  scenario(
    'the backend that listens is killed again and again',
    { replicas: 3, latencyMs: 300 },
    async (scene) => {
      const { sql } = scene.database.database
      const over = new AbortController()
      const killing = (async () => {
        while (!over.signal.aborted) {
          await sql`
          SELECT pg_terminate_backend(pid) FROM pg_stat_activity
          WHERE datname = current_database() AND query ILIKE 'listen%'`
          await sleep(150)
        }
      })()
      for (let round = 0; round < 5; round += 1) {
        const person = await scene.person()
        for (const one of await person.storm(150, scene.replicas)) expect(one.status).toBe(200)
      }
      over.abort()
      await killing
      return scene.finish({ requests: 5, lost: 0, saw: ['200'] })
    },
  )
})

describe('V12: one replica is cut off from PostgreSQL when the answer comes', () => {
  scenario('for 5 s: it is stored when it is back', {}, async (scene) => {
    const person = await scene.person()
    const [first, second] = scene.replicas
    const arrived = at(scene, some(first), 'the whole answer has arrived', async () => {
      some(first).wire.shut()
    })
    const call = person.resolve(first)
    await arrived
    const others = person.untilSettled(second)
    await sleep(5000)
    some(first).wire.open()
    await Promise.all([call, others])
    await settleEverywhere(scene, person)
    return scene.finish({ requests: 1, lost: 0, saw: away })
  })
})
