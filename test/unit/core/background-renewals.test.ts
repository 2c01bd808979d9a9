import { describe, expect, it } from 'vitest'
import { createBackgroundRenewals, startsPerSecond } from '../../../src/core/background-renewals.ts'
import { BrokerError } from '../../../src/core/errors.ts'
import type { AheadTerms, DueRenewal, DueRenewals } from '../../../src/core/ports/due-renewals.ts'
import { createTokenEndpoints } from '../../../src/core/token-endpoints.ts'
import type { Upstream } from '../../../src/core/upstream.ts'
import { oauthUpstream } from '../../support/oauth-upstream.ts'
import { seededRandom } from '../../support/seeded-random.ts'
import { createSimulatedTime, type SimulatedTime } from '../../support/simulated-time.ts'

const issuer = 'https://login.example.com'
const refreshBeforeMs = 60_000

function upstreamAt(name: string, authorizationServer = `https://${name}.example.com`): Upstream {
  return { ...oauthUpstream({ issuer: authorizationServer }), name }
}

type Connection = {
  generation: number
  endsMs: number
  freeFromMs: number
  readonly upstream: string
}

/** What the database does for it, over simulated time: `src/storage/due-renewals.ts` is tested on a real one. */
function createWorld(time: SimulatedTime, lifetimeMs: number) {
  const connections = new Map<string, Connection>()
  /** Of connections by the second in which they are due. */
  const bySecond = new Map<number, Set<string>>()
  const secondOf = ({ endsMs }: Connection) => Math.floor((endsMs - refreshBeforeMs) / 1000)
  let oldest = Number.POSITIVE_INFINITY

  function index(userId: string, connection: Connection): void {
    const second = secondOf(connection)
    const there = bySecond.get(second) ?? new Set()
    there.add(userId)
    bySecond.set(second, there)
    oldest = Math.min(oldest, second)
  }

  const world = {
    connections,
    /** When each renewal began. */
    starts: [] as number[],
    missed: 0,
    taken: [] as (readonly AheadTerms[])[],
    postponed: [] as string[],
    connect(userId: string, endsMs: number, upstream = 'files') {
      const connection = { generation: 1, endsMs, freeFromMs: 0, upstream }
      connections.set(userId, connection)
      index(userId, connection)
    },
    renewed(userId: string) {
      const connection = connections.get(userId)
      if (connection === undefined) throw new Error('no such connection')
      if (time.nowMs() > connection.endsMs) world.missed += 1
      bySecond.get(secondOf(connection))?.delete(userId)
      connection.endsMs = time.nowMs() + lifetimeMs
      connection.generation += 1
      index(userId, connection)
    },
    due: {
      take(terms, withinSeconds) {
        world.taken.push(terms)
        const left = new Map(terms.map(({ upstream, limit }) => [upstream, limit]))
        const untilMs = time.nowMs() + withinSeconds * 1000
        const found: DueRenewal[] = []
        while (oldest * 1000 <= untilMs && (bySecond.get(oldest)?.size ?? 0) === 0) {
          bySecond.delete(oldest)
          oldest += 1
        }
        for (let second = oldest; second * 1000 <= untilMs; second += 1) {
          for (const userId of bySecond.get(second) ?? []) {
            const connection = connections.get(userId)
            if (connection === undefined || connection.freeFromMs > time.nowMs()) continue
            const room = left.get(connection.upstream) ?? 0
            if (room === 0) continue
            left.set(connection.upstream, room - 1)
            connection.freeFromMs = time.nowMs() + 30_000
            const dueInSeconds = (connection.endsMs - refreshBeforeMs - time.nowMs()) / 1000
            const { generation, upstream } = connection
            found.push({ issuer, userId, upstream, generation, dueInSeconds })
          }
        }
        return Promise.resolve(found)
      },
      postpone({ userId }, seconds) {
        world.postponed.push(userId)
        const connection = connections.get(userId)
        if (connection !== undefined) connection.freeFromMs = time.nowMs() + seconds * 1000
        return Promise.resolve()
      },
    } satisfies DueRenewals,
  }
  return world
}

type World = ReturnType<typeof createWorld>

function replicaOf(
  time: SimulatedTime,
  world: World,
  options: {
    readonly upstreams?: readonly Upstream[]
    readonly renew?: (renewal: DueRenewal) => Promise<void>
    readonly random?: () => number
  } = {},
) {
  const upstreams = options.upstreams ?? [upstreamAt('files')]
  const byName = new Map(upstreams.map((upstream) => [upstream.name, upstream]))
  return createBackgroundRenewals({
    upstreams: byName,
    tokenEndpoints: createTokenEndpoints({ upstreams: byName }),
    storesSubjectTokens: false,
    due: world.due,
    async renew(renewal) {
      // As `renewAhead` does: somebody else may have been quicker.
      if (world.connections.get(renewal.userId)?.generation !== renewal.generation) return
      world.starts.push(time.nowMs())
      if (options.renew !== undefined) {
        await options.renew(renewal)
        return
      }
      await time.wait(200)
      world.renewed(renewal.userId)
    },
    clock: time.clock,
    timer: time.timer,
    random: options.random ?? seededRandom(7),
  })
}

/** The most that began within any one second. */
function mostWithinASecond(starts: readonly number[]): number {
  let most = 0
  let from = 0
  for (const [at, start] of starts.entries()) {
    while ((starts[from] ?? start) <= start - 1000) from += 1
    most = Math.max(most, at - from + 1)
  }
  return most
}

describe('ahead of expiry, in simulated time', () => {
  it('100,000 connections under a ceiling of 50 refreshes a second: none ends unrenewed in two hours', async () => {
    const time = createSimulatedTime()
    const lifetimeMs = 3_600_000
    const world = createWorld(time, lifetimeMs)
    const random = seededRandom(100_000)
    // 90 % of what the ceiling allows, and not evenly: they were connected at random moments of 37 minutes.
    for (let at = 0; at < 100_000; at += 1) {
      world.connect(`person-${at}`, time.nowMs() + lifetimeMs - random() * 2_222_000)
    }
    const replica = replicaOf(time, world)
    replica.start()
    await time.pass(2 * lifetimeMs)
    expect(world.missed).toBe(0)
    const nowMs = time.nowMs()
    expect([...world.connections.values()].filter(({ endsMs }) => endsMs <= nowMs)).toEqual([])
    expect(world.starts.length).toBeGreaterThan(150_000)
    expect(mostWithinASecond(world.starts)).toBeLessThanOrEqual(startsPerSecond)
    await replica.stop()
  }, 60_000)

  it('V2: 2,500 credentials that end in the same second are a queue, and each is renewed once before its end', async () => {
    const time = createSimulatedTime()
    const world = createWorld(time, 3_600_000)
    const endsMs = time.nowMs() + 120_000
    for (let at = 0; at < 2500; at += 1) world.connect(`person-${at}`, endsMs)
    const replica = replicaOf(time, world)
    replica.start()
    await time.pass(59_000)
    expect(world.starts).toHaveLength(0)
    await time.pass(61_000)
    expect(world.missed).toBe(0)
    expect(world.starts).toHaveLength(2500)
    expect(mostWithinASecond(world.starts)).toBeLessThanOrEqual(startsPerSecond)
  })

  it('begins when a connection is due, not when it is looked for: at refresh_before, and within a second or so', async () => {
    const time = createSimulatedTime()
    const world = createWorld(time, 3_600_000)
    const dueMs = time.nowMs() + 100_000
    for (let at = 0; at < 10; at += 1) {
      world.connect(`person-${at}`, dueMs + refreshBeforeMs + at * 20_000)
    }
    replicaOf(time, world).start()
    await time.pass(400_000)
    const lateness = world.starts.map((start, at) => start - (dueMs + at * 20_000))
    expect(lateness).toHaveLength(10)
    expect(Math.min(...lateness)).toBeGreaterThanOrEqual(0)
    expect(Math.max(...lateness)).toBeLessThanOrEqual(1100)
  })

  it('several replicas share the work: each connection is renewed by one of them', async () => {
    const time = createSimulatedTime()
    const world = createWorld(time, 3_600_000)
    for (let at = 0; at < 300; at += 1) {
      world.connect(`person-${at}`, time.nowMs() + 90_000 + at * 100)
    }
    const replicas = [1, 2, 3].map((seed) => replicaOf(time, world, { random: seededRandom(seed) }))
    for (const replica of replicas) replica.start()
    await time.pass(120_000)
    expect(world.starts).toHaveLength(300)
    expect(world.missed).toBe(0)
  })

  it('what a replica took and did not get to is another’s, in time', async () => {
    const time = createSimulatedTime()
    const world = createWorld(time, 3_600_000)
    for (let at = 0; at < 50; at += 1) world.connect(`person-${at}`, time.nowMs() + 70_000)
    const first = replicaOf(time, world, { renew: () => new Promise(() => {}) })
    first.start()
    await time.pass(5000)
    // It was killed: nothing more of it happens.
    replicaOf(time, world, { random: seededRandom(2) }).start()
    await time.pass(65_000)
    expect(world.missed).toBe(0)
    expect([...world.connections.values()].map(({ generation }) => generation)).toEqual(
      Array.from({ length: 50 }, () => 2),
    )
  })
})

describe('one token endpoint and the others', () => {
  it('V5: one that hangs takes 20 at a time and keeps no other waiting', async () => {
    const time = createSimulatedTime()
    const world = createWorld(time, 3_600_000)
    let hanging = 0
    let mostHanging = 0
    for (let at = 0; at < 400; at += 1) {
      world.connect(`slow-${at}`, time.nowMs() + 70_000, 'slow')
      world.connect(`files-${at}`, time.nowMs() + 70_000, 'files')
    }
    replicaOf(time, world, {
      upstreams: [upstreamAt('slow'), upstreamAt('files')],
      async renew({ userId, upstream }) {
        if (upstream === 'slow') {
          hanging += 1
          mostHanging = Math.max(mostHanging, hanging)
          await time.wait(10_000)
          hanging -= 1
          throw new BrokerError('upstream_unavailable', { retryAfterSeconds: 1 })
        }
        await time.wait(200)
        world.renewed(userId)
      },
    }).start()
    await time.pass(70_000)
    const renewed = [...world.connections].filter(([, { generation }]) => generation === 2)
    expect(renewed.map(([userId]) => userId.split('-')[0])).toEqual(
      Array.from({ length: 400 }, () => 'files'),
    )
    expect(mostHanging).toBe(20)
    expect(world.postponed).toEqual([])
  })

  it('upstreams at one server share its budget', async () => {
    const time = createSimulatedTime()
    const world = createWorld(time, 3_600_000)
    const names = ['mail', 'files', 'calendar']
    for (let at = 0; at < 900; at += 1) {
      world.connect(`person-${at}`, time.nowMs() + 70_000, names[at % 3] ?? '')
    }
    replicaOf(time, world, {
      upstreams: names.map((name) => upstreamAt(name, 'https://as.example.com')),
    }).start()
    await time.pass(70_000)
    expect(world.missed).toBe(0)
    expect(world.starts).toHaveLength(900)
    expect(mostWithinASecond(world.starts)).toBeLessThanOrEqual(startsPerSecond)
  })

  it('asks the database for no more than fits before the next look', async () => {
    const time = createSimulatedTime()
    const world = createWorld(time, 3_600_000)
    for (let at = 0; at < 5000; at += 1) world.connect(`person-${at}`, time.nowMs() + 61_000)
    replicaOf(time, world).start()
    await time.pass(20_000)
    const limits = world.taken.flatMap((terms) => terms.map(({ limit }) => limit))
    expect(Math.max(...limits)).toBeLessThanOrEqual(startsPerSecond * 6.25)
  })
})

describe('what fails', () => {
  it.each([
    ['upstream_unavailable', 0],
    ['storage_unavailable', 0],
    ['audit_unavailable', 0],
    ['issuer_unavailable', 0],
    ['upstream_misconfigured', 1],
    ['invalid_subject_token', 1],
    ['connect_required', 1],
    ['credential_corrupt', 1],
  ] as const)('%s: left to the next use: %d', async (code, postponed) => {
    const time = createSimulatedTime()
    const world = createWorld(time, 3_600_000)
    world.connect('ada', time.nowMs() + 60_000)
    const replica = replicaOf(time, world, { renew: () => Promise.reject(new BrokerError(code)) })
    replica.start()
    await time.pass(10_000)
    expect(world.postponed).toHaveLength(postponed)
    expect(world.starts).toHaveLength(1)
    await time.pass(50_000)
    expect(world.starts).toHaveLength(postponed === 1 ? 1 : 2)
    await replica.stop()
  })

  it('a database that is away is asked again at the next look', async () => {
    const time = createSimulatedTime()
    const world = createWorld(time, 3_600_000)
    world.connect('ada', time.nowMs() + 70_000)
    let isAway = true
    const take = world.due.take.bind(world.due)
    world.due.take = (terms, within) =>
      isAway ? Promise.reject(new BrokerError('storage_unavailable')) : take(terms, within)
    replicaOf(time, world).start()
    await time.pass(20_000)
    isAway = false
    await time.pass(10_000)
    expect(world.starts).toHaveLength(1)
  })
})

describe('V21: stopping', () => {
  it('waits for what is under way and begins nothing more', async () => {
    const time = createSimulatedTime()
    const world = createWorld(time, 3_600_000)
    for (let at = 0; at < 500; at += 1) world.connect(`person-${at}`, time.nowMs() + 60_000)
    const replica = replicaOf(time, world)
    replica.start()
    await time.pass(3000)
    const begun = world.starts.length
    expect(begun).toBeGreaterThan(20)
    let isOver = false
    const stopped = replica.stop().then(() => {
      isOver = true
    })
    await time.pass(0)
    expect(isOver).toBe(false)
    await time.pass(1000)
    await stopped
    expect(world.starts).toHaveLength(begun)
    expect(
      [...world.connections.values()].filter(({ generation }) => generation === 2),
    ).toHaveLength(begun)
    await time.pass(60_000)
    expect(world.starts).toHaveLength(begun)
  })
})
