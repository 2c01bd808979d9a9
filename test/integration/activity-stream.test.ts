import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import {
  type ActivityFeed,
  createActivityFeed,
  type Following,
} from '../../src/core/activity-feed.ts'
import { BrokerError } from '../../src/core/errors.ts'
import type { ActivityRecord } from '../../src/core/ports/activity-store.ts'
import { activityEvents, type EventTimings } from '../../src/http/activity-events.ts'
import { createActivityFeedRecords } from '../../src/storage/activity-feed-records.ts'
import { createActivityStore } from '../../src/storage/activity-store.ts'
import type { Database } from '../../src/storage/database.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { connectTo } from '../support/postgres-client.ts'
import {
  adaToken,
  adminToken,
  createHttpRoom,
  problemOf,
  readingKey,
  serviceKey,
} from '../support/http-room.ts'
import { recordAt } from './activity-log.ts'

let testDatabase: TestDatabase
let database: Database
let feed: ActivityFeed
let app: ReturnType<typeof createHttpRoom>['app']

beforeAll(async () => {
  testDatabase = await createTestDatabase({ pool: 3 })
  database = testDatabase.database
})
afterAll(() => testDatabase.drop())
beforeEach(async () => {
  await database.sql`truncate activity, activity_batch`
  feed = createActivityFeed({
    records: createActivityFeedRecords(database),
    timer: {
      after(ms, run) {
        const timer = setTimeout(run, ms)
        return () => clearTimeout(timer)
      },
    },
    pollMs: 10,
  })
  ;({ app } = createHttpRoom({ activity: createActivityStore(database), activityFeed: feed }))
  return () => feed.stop()
})

const at = (seconds: number) => new Date(Date.now() + seconds * 1000)

type Event = { id: string; event: string; data: Record<string, unknown> }

/** Reads events as an EventSource does (HTML, "Interpreting an event stream"). */
async function open(query = '', headers: Record<string, string> = {}, token = adminToken) {
  const response = await app.request(`/api/v1/activity/stream${query}`, {
    headers: { authorization: `Bearer ${token}`, ...headers },
  })
  const reader = response.ok ? response.body?.getReader() : undefined
  let text = ''
  async function next(): Promise<Event | 'comment' | 'end'> {
    for (;;) {
      const end = text.indexOf('\n\n')
      if (end !== -1) {
        const lines = text.slice(0, end).split('\n')
        text = text.slice(end + 2)
        if (lines[0]?.startsWith(':')) return 'comment'
        const field = (name: string) =>
          lines.find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2) ?? ''
        return {
          id: field('id'),
          event: field('event'),
          data: JSON.parse(field('data')) as Record<string, unknown>,
        }
      }
      const piece = await reader?.read()
      if (piece === undefined || piece.done) return 'end'
      text += new TextDecoder().decode(piece.value as Uint8Array)
    }
  }
  if (response.ok) expect(await next()).toBe('comment')
  return {
    response,
    next,
    async users(count: number): Promise<unknown[]> {
      const seen: unknown[] = []
      while (seen.length < count) {
        const event = await next()
        if (typeof event === 'object') seen.push(event.data['user_id'])
        if (event === 'end') break
      }
      return seen
    },
    close: () => reader?.cancel(),
  }
}

async function ids(): Promise<Map<string | null, string>> {
  const { records } = await createActivityStore(database).page({}, 1000, undefined)
  return new Map(records.map(({ userId, id }) => [userId, id]))
}

describe('GET /api/v1/activity/stream', () => {
  it('M-V8: gives records as events, from now on, as the list has them', async () => {
    await recordAt(database, [{ at: at(0), userId: 'before' }])
    const stream = await open()
    expect(stream.response.status).toBe(200)
    expect(stream.response.headers.get('content-type')).toBe('text/event-stream')
    expect(stream.response.headers.get('cache-control')).toBe('no-store')
    await recordAt(database, [{ at: at(0), userId: 'after' }])
    const event = (await stream.next()) as Event
    expect(event.event).toBe('activity')
    expect(event.id).toBe(event.data['id'])
    const listed = await app.request('/api/v1/activity?user_id=after', {
      headers: { authorization: `Bearer ${adminToken}` },
    })
    expect(await listed.json()).toMatchObject({ items: [event.data] })
    await stream.close()
  })

  it('M-V8: keeps to its filters, each stream to its own', async () => {
    const failures = await open('?outcome=failure&upstream=files,mail')
    const everything = await open()
    const requestId = randomUUID()
    const ofRequest = await open(`?request_id=${requestId.toUpperCase()}`)
    await recordAt(database, [
      { at: at(0), userId: 'a' },
      { at: at(1), userId: 'b', outcome: 'failure', reason: 'policy_denied', upstream: 'other' },
      { at: at(2), userId: 'c', outcome: 'failure', reason: 'policy_denied', upstream: 'mail' },
      { at: at(3), userId: 'd', requestId },
    ])
    expect(await failures.users(1)).toEqual(['c'])
    expect(await everything.users(4)).toEqual(['a', 'b', 'c', 'd'])
    expect(await ofRequest.users(1)).toEqual(['d'])
    await Promise.all([failures.close(), everything.close(), ofRequest.close()])
  })

  it('goes on behind Last-Event-ID by arrival, whatever the clocks of the writers say, and then with what comes', async () => {
    await recordAt(database, [{ at: at(0), userId: 'one' }])
    await recordAt(database, [{ at: at(-1800), userId: 'an hour slow' }])
    await recordAt(
      database,
      Array.from({ length: 1200 }, (_, index) => ({ at: at(-5), userId: `many-${index}` })),
    )
    await recordAt(database, [{ at: at(-7200), userId: 'was away for long' }])
    const stream = await open('', { 'last-event-id': (await ids()).get('one') ?? '' })
    await recordAt(database, [{ at: at(0), userId: 'new' }])
    const seen = await stream.users(1204)
    const expected = [
      'one',
      'an hour slow',
      ...Array.from({ length: 1200 }, (_, index) => `many-${index}`),
      'was away for long',
      'new',
    ]
    // The last seconds may come again, all of it in order.
    expect(seen).toEqual(expected)
    await recordAt(database, [{ at: at(0), userId: 'newer' }])
    expect(await stream.users(1)).toEqual(['newer'])
    await stream.close()
  })

  it('leaves out no record whose transaction ended after that of a later one', async () => {
    const live = await open()
    const sql = connectTo(testDatabase.url, 1)
    // A batch that takes its place, its transaction and its number first, and is committed last.
    await sql`begin`
    await sql`insert into activity_batch (writer, first_seq, last_seq, min_occurred_at, max_occurred_at)
      values ('11111111-1111-4111-8111-111111111111', 1, 1, now(), now())`
    await sql`insert into activity (id, occurred_at, request_id, type, user_id, actor_kind, actor_id, action, method, outcome, duration_ms, writer, seq)
      values (gen_random_uuid(), now(), gen_random_uuid(), 'credential_broker', 'slow', 'system', 'x', 'inject', 'connect', 'success', 1,
        '11111111-1111-4111-8111-111111111111', 1)`
    await recordAt(database, [{ at: at(0), userId: 'quick' }])
    expect(await live.users(1)).toEqual(['quick'])
    const resumed = await open('', { 'last-event-id': (await ids()).get('quick') ?? '' })
    expect(await resumed.users(1)).toEqual(['quick'])
    await recordAt(database, [{ at: at(0), userId: 'quick too' }])
    expect(await live.users(1)).toEqual(['quick too'])
    await sql`commit`
    await sql.end()
    await recordAt(database, [{ at: at(0), userId: 'last' }])
    expect(new Set(await live.users(2))).toEqual(new Set(['slow', 'last']))
    expect(new Set(await resumed.users(3))).toEqual(new Set(['quick too', 'slow', 'last']))
    const later = await open('', { 'last-event-id': (await ids()).get('last') ?? '' })
    expect(await later.users(4)).toContain('slow')
    await Promise.all([live.close(), resumed.close(), later.close()])
  })

  it.each([
    ['is unknown', '01a1fdfa-46fa-7000-8000-0123456789ab'],
    ['is of another kind', 'f81d4fae-7dec-41d0-a765-00a0c91e6bf6'],
    ['is none', '1'],
    ['is SQL', "' or true --"],
  ])('refuses a Last-Event-ID that %s', async (_name, id) => {
    const { response } = await open('', { 'last-event-id': id })
    expect(await problemOf(response)).toMatchObject({ status: 400, field: 'Last-Event-ID' })
  })

  it('refuses a Last-Event-ID of more than an hour ago', async () => {
    await recordAt(database, [{ at: at(0), userId: 'old' }])
    const id = (await ids()).get('old') ?? ''
    await database.sql`update activity_batch set arrived_at = now() - interval '59 minutes'`
    const stream = await open('', { 'last-event-id': id })
    expect(await stream.users(1)).toEqual(['old'])
    await stream.close()
    await database.sql`update activity_batch set arrived_at = now() - interval '61 minutes'`
    const { response } = await open('', { 'last-event-id': id })
    expect(await problemOf(response)).toMatchObject({ status: 400, field: 'Last-Event-ID' })
  })

  it.each([
    ['?limit=5', 'limit'],
    ['?outcome=maybe', 'outcome'],
    ['?colour=red', 'colour'],
  ])('refuses %s and names the parameter', async (query, field) => {
    expect(await problemOf((await open(query)).response)).toMatchObject({ status: 400, field })
  })

  it('L11: is for admins and for services that may read the log', async () => {
    expect((await open('', {}, adaToken)).response.status).toBe(403)
    expect((await open('', {}, serviceKey)).response.status).toBe(403)
    expect((await app.request('/api/v1/activity/stream')).status).toBe(401)
    const stream = await open('', {}, readingKey)
    expect(stream.response.status).toBe(200)
    await stream.close()
    const head = await app.request('/api/v1/activity/stream', {
      method: 'HEAD',
      headers: { authorization: `Bearer ${adminToken}` },
    })
    expect(head.status).toBe(405)
  })

  it('asks the database nothing while nobody follows, and once for all who do', async () => {
    const streams = await Promise.all(Array.from({ length: 20 }, () => open()))
    await recordAt(database, [{ at: at(0), userId: 'a' }])
    for (const stream of streams) expect(await stream.users(1)).toEqual(['a'])
    const [before, beforeMs] = [database.statementCount(), performance.now()]
    await recordAt(database, [{ at: at(0), userId: 'b' }])
    for (const stream of streams) expect(await stream.users(1)).toEqual(['b'])
    const asked = database.statementCount() - before
    // Twenty that asked for themselves, every 10 ms, would be at two a millisecond.
    expect(asked).toBeLessThan(200 + (performance.now() - beforeMs) / 2)
    for (const stream of streams) await stream.close()
    const askedMeanwhile = async () => {
      const quiet = database.statementCount()
      await new Promise((resolve) => setTimeout(resolve, 100))
      return database.statementCount() - quiet
    }
    await expect.poll(askedMeanwhile).toBe(0)
  })

  it('ends for a reader that does not keep up, before what waits for it fills the memory', async () => {
    const following = await feed.follow(undefined)
    const records = Array.from({ length: 20_500 }, (_, index) => ({
      at: at(0),
      userId: `u${index}`,
    }))
    await recordAt(database, records)
    const other = await open()
    await expect.poll(async () => (await following?.next(1)) === undefined).toBe(true)
    await recordAt(database, [{ at: at(0), userId: 'next' }])
    expect(await other.users(1)).toEqual(['next'])
    await other.close()
  })

  it('ends when the broker stops', async () => {
    const stream = await open()
    feed.stop()
    expect(await stream.next()).toBe('end')
    expect(await (await open()).next()).toBe('end')
  })
})

describe('events', () => {
  const timings: EventTimings = { commentMs: 60, recheckMs: 20, unprovenMs: 1500 }
  function silent(): Following & { ended: boolean } {
    const following = {
      ended: false,
      async next(ms: number): Promise<readonly ActivityRecord[] | undefined> {
        await new Promise((resolve) => setTimeout(resolve, ms))
        return following.ended ? undefined : []
      },
      end() {
        following.ended = true
      },
    }
    return following
  }
  async function textOf(stillMayCall: () => Promise<unknown>): Promise<string> {
    const following = silent()
    const events = activityEvents({ following, filter: {}, stillMayCall, timings })
    const text = await new Response(events).text()
    expect(following.ended).toBe(true)
    return text
  }
  const count = (text: string) => text.split('\n\n').length - 1

  it('hold a comment every so often where there is nothing else', async () => {
    let calls = 0
    const text = await textOf(async () => {
      calls += 1
      if (calls > 12) throw new BrokerError('unauthenticated')
    })
    expect(text).toMatch(/^(?::[^\n]*\n\n)+$/)
    expect(count(text)).toBeGreaterThanOrEqual(3)
  })

  it.each(['unauthenticated', 'forbidden', 'insufficient_scope'] as const)(
    'end when the caller is %s',
    async (code) => {
      const text = await textOf(async () => {
        throw new BrokerError(code)
      })
      expect(count(text)).toBe(1)
    },
  )

  it('go on while the identity provider is away for a moment, not for long', async () => {
    let calls = 0
    const text = await textOf(async () => {
      calls += 1
      throw new BrokerError('issuer_unavailable')
    })
    expect(calls).toBeGreaterThan(3)
    expect(count(text)).toBeGreaterThanOrEqual(2)
  })
})
