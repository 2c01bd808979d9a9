import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { createActivityStore } from '../../src/storage/activity-store.ts'
import { Secret } from '../../src/core/secret.ts'
import { type Database, openDatabase } from '../../src/storage/database.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import {
  admin,
  adminToken,
  adaToken,
  bobToken,
  createHttpRoom,
  issuer,
  problemOf,
  readingKey,
  serviceKey,
} from '../support/http-room.ts'
import { recordAt } from './activity-log.ts'

type Item = Record<string, unknown> & { id: string; occurred_at: string; user_id: string | null }
type PageBody = { items: Item[]; next_cursor: string | null }

let testDatabase: TestDatabase
let database: Database
let app: ReturnType<typeof createHttpRoom>['app']
let room: ReturnType<typeof createHttpRoom>['room']

beforeAll(async () => {
  testDatabase = await createTestDatabase({ pool: 2 })
  database = testDatabase.database
  ;({ app, room } = createHttpRoom({ activity: createActivityStore(database) }))
})
afterAll(() => testDatabase.drop())
beforeEach(async () => {
  await database.sql`truncate activity`
})

const get = (path: string, token: string | undefined = adminToken) =>
  Promise.resolve(
    app.request(path, token === '' ? {} : { headers: { authorization: `Bearer ${token}` } }),
  )

async function pageOf(path: string, token?: string): Promise<PageBody> {
  const response = await get(path, token)
  expect(response.status).toBe(200)
  return (await response.json()) as PageBody
}

const noon = Date.parse('2026-11-21T12:00:00Z')
const at = (seconds: number) => new Date(noon + seconds * 1000)

describe('GET /api/v1/activity', () => {
  it('M-A5: gives every field of section 8, null where there is none', async () => {
    const requestId = 'f81d4fae-7dec-41d0-a765-00a0c91e6bf6'
    await recordAt(database, [
      { at: at(0), requestId, issuer, startedAt: new Date(noon - 12) },
      {
        at: at(1),
        requestId,
        userId: undefined,
        issuer: undefined,
        upstream: undefined,
        method: 'unknown',
        outcome: 'failure',
        reason: 'unknown_upstream',
        details: {},
      },
    ])
    const { items, next_cursor } = await pageOf('/api/v1/activity')
    expect(next_cursor).toBeNull()
    const [newest, oldest] = items
    expect(oldest).toEqual({
      id: oldest?.id,
      occurred_at: '2026-11-21T12:00:00.000Z',
      request_id: requestId,
      type: 'credential_broker',
      user_id: 'alice',
      issuer,
      actor: { kind: 'service', id: 'edge' },
      upstream: 'files',
      action: 'inject',
      method: 'connect',
      outcome: 'success',
      reason: null,
      duration_ms: 12,
      details: { identity: 'token' },
    })
    expect(newest).toMatchObject({
      user_id: null,
      issuer: null,
      upstream: null,
      outcome: 'failure',
      reason: 'unknown_upstream',
      details: { identity: null },
    })
    expect(Object.keys(newest ?? {})).toEqual(Object.keys(oldest ?? {}))
  })

  it('M-V2: gives 50 unless told otherwise, newest first, and a cursor as long as there is more', async () => {
    await recordAt(
      database,
      Array.from({ length: 130 }, (_, index) => ({
        at: at(Math.floor(index / 20)),
        userId: `user-${index}`,
      })),
    )
    const expected = Array.from({ length: 130 }, (_, index) => `user-${129 - index}`)
    const first = await pageOf('/api/v1/activity')
    expect(first.items.map(({ user_id }) => user_id)).toEqual(expected.slice(0, 50))
    const seen: (string | null)[] = []
    let query = '?limit=33'
    for (;;) {
      const { items, next_cursor } = await pageOf(`/api/v1/activity${query}`)
      seen.push(...items.map(({ user_id }) => user_id))
      if (next_cursor === null) break
      query = `?limit=33&cursor=${next_cursor}`
    }
    expect(seen).toEqual(expected)
    expect((await pageOf('/api/v1/activity?limit=1000')).items).toHaveLength(130)
  })

  it('M-V1: narrows by filters from the query', async () => {
    await recordAt(database, [
      { at: at(0), userId: 'alice', upstream: 'files' },
      { at: at(1), userId: 'bob', upstream: 'files', outcome: 'failure', reason: 'policy_denied' },
      { at: at(2), userId: 'bob', upstream: 'mail' },
      {
        at: at(3),
        userId: 'carol',
        upstream: 'files',
        type: 'administration',
        action: 'connection_removed',
      },
    ])
    const found = async (query: string) =>
      (await pageOf(`/api/v1/activity?${query}`)).items.map(
        ({ occurred_at }) => (Date.parse(occurred_at) - noon) / 1000,
      )
    expect(await found('user_id=bob')).toEqual([2, 1])
    expect(await found('user_id=alice,carol')).toEqual([3, 0])
    expect(await found('user_id=alice&user_id=bob&upstream=files')).toEqual([1, 0])
    expect(await found('outcome=failure')).toEqual([1])
    expect(await found('reason=policy_denied,not_connected')).toEqual([1])
    expect(await found('type=administration')).toEqual([3])
    expect(await found('since=2026-11-21T12:00:01Z&until=2026-11-21T12:00:03Z')).toEqual([2, 1])
    expect(await found('since=2026-11-22')).toEqual([])
    expect(await found('until=2026-11-22')).toEqual([3, 2, 1, 0])
    expect(
      await found(`issuer=${encodeURIComponent(issuer)}&actor_id=edge&method=connect`),
    ).toHaveLength(4)
  })

  it('M-V9: finds what happened in a request by the id that its caller chose', async () => {
    const requestId = randomUUID()
    await recordAt(database, [
      { at: at(0), requestId },
      { at: at(0), requestId, action: 'refresh' },
      { at: at(1) },
    ])
    for (const sent of [requestId, requestId.toUpperCase()]) {
      const { items } = await pageOf(`/api/v1/activity?request_id=${sent}`)
      expect(items.map(({ action }) => action)).toEqual(['refresh', 'inject'])
    }
  })

  it.each([
    ['colour=red', 'colour'],
    ['limit=0', 'limit'],
    ['limit=1001', 'limit'],
    ['limit=5&limit=5', 'limit'],
    ['outcome=maybe', 'outcome'],
    ['since=yesterday', 'since'],
    ['until=2026-02-30', 'until'],
    ['request_id=1', 'request_id'],
    ['user_id=%00', 'user_id'],
    ['cursor=eyJhIjoxfQ', 'cursor'],
  ])('refuses %s and names the parameter', async (query, field) => {
    for (const path of ['/api/v1/activity', '/api/v1/me/activity']) {
      const response = await get(`${path}?${query}`)
      expect(response.status).toBe(400)
      expect(await problemOf(response)).toMatchObject({ code: 'invalid_request', field })
    }
  })

  it('refuses a cursor of which one character was changed', async () => {
    await recordAt(database, [{ at: at(0) }, { at: at(1) }])
    const { next_cursor } = await pageOf('/api/v1/activity?limit=1')
    const cursor = next_cursor ?? ''
    for (let index = 0; index < cursor.length; index += 5) {
      const other = cursor[index] === 'A' ? 'B' : 'A'
      const changed = `${cursor.slice(0, index)}${other}${cursor.slice(index + 1)}`
      const response = await get(`/api/v1/activity?cursor=${changed}`)
      expect(await problemOf(response)).toMatchObject({ status: 400, field: 'cursor' })
    }
    expect((await pageOf(`/api/v1/activity?cursor=${cursor}`)).items).toHaveLength(1)
  })

  it('is for admins and for services that may read it', async () => {
    await recordAt(database, [{ at: at(0) }])
    for (const path of [
      '/api/v1/activity',
      '/api/v1/activity/01a1fdfa-46fa-7000-8000-0123456789ab',
    ]) {
      expect((await get(path, adaToken)).status).toBe(403)
      expect((await get(path, serviceKey)).status).toBe(403)
      expect((await get(path, '')).status).toBe(401)
      expect((await get(path, 'CNRY-expired')).status).toBe(401)
      expect((await get(`${path}?access_token=${adminToken}`, '')).status).toBe(401)
    }
    expect((await pageOf('/api/v1/activity', readingKey)).items).toHaveLength(1)
    const cookie = room.cookieOf(admin)
    expect((await app.request('/api/v1/activity', { headers: { cookie } })).status).toBe(200)
  })

  it('answers 503 storage_unavailable while the database is away', async () => {
    const gone = await openDatabase({ url: new Secret(testDatabase.url), pool: 1 })
    await gone.close()
    const away = createHttpRoom({ activity: createActivityStore(gone) }).app
    for (const path of [
      '/api/v1/activity',
      '/api/v1/me/activity',
      `/api/v1/activity/${randomUUID()}`,
    ]) {
      const response = await away.request(path, {
        headers: { authorization: `Bearer ${adminToken}` },
      })
      expect(response.headers.get('retry-after')).toMatch(/^\d+$/)
      expect(await problemOf(response)).toMatchObject({ status: 503, code: 'storage_unavailable' })
    }
  })
})

describe('GET /api/v1/activity/{id}', () => {
  it('gives the record that the list has', async () => {
    await recordAt(database, [{ at: at(0) }, { at: at(1) }])
    for (const item of (await pageOf('/api/v1/activity')).items) {
      for (const id of [item.id, item.id.toUpperCase()]) {
        const response = await get(`/api/v1/activity/${id}`, readingKey)
        expect(response.status).toBe(200)
        expect(await response.json()).toEqual(item)
      }
    }
  })

  it.each([
    '01a1fdfa-46fa-7000-8000-0123456789ab',
    'ffffffff-ffff-7fff-bfff-ffffffffffff',
    'f81d4fae-7dec-41d0-a765-00a0c91e6bf6',
    'abc',
    "'; DROP TABLE activity; --",
    '%00',
  ])('is 404 for %s', async (id) => {
    await recordAt(database, [{ at: at(0) }])
    const response = await get(`/api/v1/activity/${id === '%00' ? id : encodeURIComponent(id)}`)
    expect(await problemOf(response)).toMatchObject({ status: 404, code: 'not_found' })
  })
})

describe('GET /api/v1/me/activity', () => {
  beforeEach(async () => {
    await recordAt(database, [
      { at: at(0), userId: 'ada', issuer, upstream: 'files' },
      { at: at(1), userId: 'ada', issuer, upstream: 'mail' },
      { at: at(2), userId: 'bob', issuer },
      { at: at(3), userId: 'ada', issuer: 'https://other.example.com' },
      { at: at(4), userId: 'ad', issuer },
      { at: at(5), userId: 'adaa', issuer },
      { at: at(6), userId: undefined, issuer: undefined, actor: { kind: 'user', id: 'ada' } },
    ])
  })

  const upstreams = async (query: string, token?: string) =>
    (await pageOf(`/api/v1/me/activity${query}`, token)).items.map(({ upstream }) => upstream)

  it('gives my own records, with the same filters and pages', async () => {
    expect(await upstreams('', adaToken)).toEqual(['mail', 'files'])
    expect(await upstreams('?upstream=files', adaToken)).toEqual(['files'])
    const first = await pageOf('/api/v1/me/activity?limit=1', adaToken)
    expect(first.next_cursor).not.toBeNull()
    expect(await upstreams(`?limit=1&cursor=${first.next_cursor}`, adaToken)).toEqual(['files'])
  })

  it.each([
    ['user_id=bob', 0],
    ['user_id=bob,ad,adaa', 0],
    ['user_id=ada', 2],
    ['user_id=ada,bob', 2],
    ['issuer=https%3A%2F%2Fother.example.com', 0],
    [`issuer=${encodeURIComponent(issuer)},https%3A%2F%2Fother.example.com`, 2],
    ['user_id=ada&issuer=https%3A%2F%2Fother.example.com', 0],
  ])('finds nobody else, whatever is asked for: %s', async (query, count) => {
    const { items } = await pageOf(`/api/v1/me/activity?${query}`, adaToken)
    expect(items).toHaveLength(count)
    expect(items.every((item) => item.user_id === 'ada' && item['issuer'] === issuer)).toBe(true)
  })

  it("shows nothing of another person's behind a cursor of an admin's", async () => {
    const { next_cursor } = await pageOf('/api/v1/activity?limit=1')
    expect(await upstreams(`?cursor=${next_cursor}`, adaToken)).toEqual(['mail', 'files'])
  })

  it('is of a person: a service has none, an admin their own', async () => {
    expect((await get('/api/v1/me/activity', readingKey)).status).toBe(401)
    expect((await get('/api/v1/me/activity', '')).status).toBe(401)
    expect(await upstreams('', adminToken)).toEqual([])
    expect(await upstreams('', bobToken)).toEqual(['files'])
  })
})
