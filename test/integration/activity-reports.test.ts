import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import type { AuditRecord } from '../../src/core/audit-event.ts'
import { createActivityReports, reportSettings } from '../../src/storage/activity-reports.ts'
import { createActivityStore } from '../../src/storage/activity-store.ts'
import { Secret } from '../../src/core/secret.ts'
import { type Database, openDatabases } from '../../src/storage/database.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { connectTo } from '../support/postgres-client.ts'
import {
  adaToken,
  adminToken,
  createHttpRoom,
  issuer,
  problemOf,
  readingKey,
  serviceKey,
} from '../support/http-room.ts'
import { recordAt } from './activity-log.ts'

let testDatabase: TestDatabase
let database: Database
let reports: Database
let app: ReturnType<typeof createHttpRoom>['app']

beforeAll(async () => {
  testDatabase = await createTestDatabase({ pool: 2 })
  database = testDatabase.database
  ;({ reports } = await openDatabases({
    url: new Secret(testDatabase.url),
    pools: { reports: 2 },
    settings: { reports: reportSettings },
    countStatements: true,
  }))
  ;({ app } = createHttpRoom({
    activity: createActivityStore(database),
    activityReports: createActivityReports(reports),
  }))
})
afterAll(async () => {
  await reports.close()
  await testDatabase.drop()
})
beforeEach(async () => {
  await database.sql`truncate activity`
})

const noon = Date.parse('2026-11-21T12:00:00Z')
const at = (seconds: number) => new Date(noon + seconds * 1000)
const get = (path: string, token = adminToken) =>
  Promise.resolve(app.request(path, { headers: { authorization: `Bearer ${token}` } }))

describe('GET /api/v1/activity/summary', () => {
  const summary = async (query: string) => {
    const response = await get(`/api/v1/activity/summary?${query}`)
    expect(response.status).toBe(200)
    return ((await response.json()) as { items: Record<string, unknown>[] }).items
  }

  it('M-V4: counts the whole period, not one page of it', async () => {
    await recordAt(
      database,
      Array.from({ length: 1500 }, (_, index) => ({ at: at(index) })),
    )
    expect(await summary('since=2026-11-21&until=2026-11-22&bucket=1d')).toEqual([
      { bucket: '2026-11-21T00:00:00.000Z', count: 1500 },
    ])
    const minutes = await summary('since=2026-11-21T12:01:00Z&until=2026-11-21T12:03:00Z&bucket=1m')
    expect(minutes).toEqual([
      { bucket: '2026-11-21T12:01:00.000Z', count: 60 },
      { bucket: '2026-11-21T12:02:00.000Z', count: 60 },
    ])
  })

  it('tells the groups apart that are asked for, in buckets that begin at whole hours', async () => {
    await recordAt(database, [
      { at: at(-1), upstream: 'files' },
      { at: at(0), upstream: 'files' },
      { at: at(1), upstream: 'files', outcome: 'failure', reason: 'policy_denied' },
      { at: at(2), upstream: undefined },
      { at: at(3), upstream: 'mail' },
      { at: at(3600), upstream: 'mail' },
    ])
    const since = 'since=2026-11-21&until=2026-11-22'
    expect(await summary(`${since}&group_by=upstream,outcome`)).toEqual([
      { bucket: '2026-11-21T11:00:00.000Z', upstream: 'files', outcome: 'success', count: 1 },
      { bucket: '2026-11-21T12:00:00.000Z', upstream: 'files', outcome: 'failure', count: 1 },
      { bucket: '2026-11-21T12:00:00.000Z', upstream: 'files', outcome: 'success', count: 1 },
      { bucket: '2026-11-21T12:00:00.000Z', upstream: 'mail', outcome: 'success', count: 1 },
      { bucket: '2026-11-21T12:00:00.000Z', upstream: null, outcome: 'success', count: 1 },
      { bucket: '2026-11-21T13:00:00.000Z', upstream: 'mail', outcome: 'success', count: 1 },
    ])
    expect(
      await summary(`${since}&group_by=outcome&group_by=reason&upstream=files&bucket=1d`),
    ).toEqual([
      { bucket: '2026-11-21T00:00:00.000Z', outcome: 'failure', reason: 'policy_denied', count: 1 },
      { bucket: '2026-11-21T00:00:00.000Z', outcome: 'success', reason: null, count: 2 },
    ])
    expect(await summary(`${since}&user_id=nobody`)).toEqual([])
    expect(await summary(`${since}&reason=internal_error`)).toEqual([])
  })

  it('goes back as far as the bucket suggests when no beginning is named', async () => {
    const now = Date.now()
    const ago = [1, 3 * 3_600_000, 3 * 86_400_000, 60 * 86_400_000]
    await recordAt(database, ago.map((ms) => ({ at: new Date(now - ms) })).toReversed())
    const counted = async (query: string) =>
      (await summary(query)).reduce((sum, { count }) => sum + Number(count), 0)
    // The clock of this application stands still; the end is not named either, so that nothing new is left out.
    expect(await counted(`bucket=1d&since=${new Date(now - 90 * 86_400_000).toISOString()}`)).toBe(
      4,
    )
    expect(await counted(`until=${new Date(now).toISOString()}`)).toBe(3)
    expect(await counted(`bucket=1m&until=${new Date(now).toISOString()}`)).toBe(2)
    expect(await counted(`bucket=1d&until=${new Date(now).toISOString()}`)).toBe(4)
  })

  it.each([
    ['bucket=2h', 'bucket'],
    ['bucket=1h&bucket=1h', 'bucket'],
    ['group_by=request_id', 'group_by'],
    ['group_by=', 'group_by'],
    ['since=2026-11-22&until=2026-11-21', 'until'],
    ['since=2026-11-22&until=2026-11-22', 'until'],
    ['since=99999-01-01', 'since'],
    ['limit=5', 'limit'],
    ['cursor=x', 'cursor'],
    ['outcome=maybe', 'outcome'],
    ['group_by=upstream;drop table activity', 'group_by'],
  ])('M-V4: refuses %s and names the parameter', async (query, field) => {
    const response = await get(`/api/v1/activity/summary?${query}`)
    expect(await problemOf(response)).toMatchObject({ status: 400, code: 'invalid_request', field })
  })

  it('L12: refuses what would have too many counts, or take too long, and says what to do', async () => {
    const tooMany = createHttpRoom({
      activityReports: { ...createActivityReports(reports), summarize: async () => 'too_many' },
    }).app
    const refusal = await tooMany.request('/api/v1/activity/summary', {
      headers: { authorization: `Bearer ${adminToken}` },
    })
    expect(await problemOf(refusal)).toMatchObject({ status: 400, field: 'bucket' })

    await recordAt(database, [{ at: at(0) }, { at: at(61) }])
    const filter = { since: at(-10) }
    const summarize = (mostCounts: number) =>
      createActivityReports(reports).summarize({ filter, bucket: '1m', groupBy: [], mostCounts })
    expect(await summarize(1)).toBe('too_many')
    expect(await summarize(2)).toHaveLength(2)

    const { hurried } = await openDatabases({
      url: new Secret(testDatabase.url),
      pools: { hurried: 1 },
      settings: { hurried: { statement_timeout: '500' } },
    })
    const sql = connectTo(testDatabase.url, 1)
    await sql`begin`
    await sql`lock table activity in access exclusive mode`
    const late = createActivityReports(hurried).summarize({
      filter,
      bucket: '1m',
      groupBy: [],
      mostCounts: 10,
    })
    expect(await late).toBe('too_long')
    await sql.end()
    await hurried.close()
  })
})

const columns =
  'id,occurred_at,request_id,type,user_id,issuer,actor_kind,actor_id,upstream,action,method,outcome,reason,duration_ms,details'

describe('GET /api/v1/activity/export', () => {
  const exported = async (query: string) => {
    const response = await get(`/api/v1/activity/export?${query}`)
    expect(response.status).toBe(200)
    return { type: response.headers.get('content-type'), text: await response.text() }
  }
  const listed = async (query = '') => {
    const response = await get(`/api/v1/activity?limit=1000&${query}`)
    return ((await response.json()) as { items: Record<string, unknown>[] }).items
  }
  const variety: (Partial<AuditRecord> & { at: Date })[] = [
    { at: at(0) },
    { at: at(0.001), userId: undefined, issuer: undefined, upstream: undefined, details: {} },
    { at: at(1), outcome: 'failure', reason: 'policy_denied', startedAt: at(0.25) },
    { at: at(2), type: 'administration', action: 'connection_removed', details: {} },
    { at: at(3), userId: '中文 "quoted", é\\', details: { identity: 'asserted' } },
    { at: new Date(noon - 30 * 86_400_000), actor: { kind: 'user', id: 'alice' } },
    { at: new Date(noon - 400 * 86_400_000) },
  ]

  it('M-V6: as NDJSON is what the list gives, a record a line', async () => {
    await recordAt(database, variety)
    const { type, text } = await exported('')
    expect(type).toBe('application/x-ndjson')
    expect(text.endsWith('\n')).toBe(true)
    const lines = text.trimEnd().split('\n')
    expect(lines.map((line) => JSON.parse(line) as unknown)).toEqual(await listed())
    expect(lines.map((line) => Object.keys(JSON.parse(line) as object))).toEqual(
      (await listed()).map((item) => Object.keys(item)),
    )
    expect((await exported('format=ndjson')).text).toBe(text)
  })

  it('M-V6: as CSV has the fields in their order, and nothing but the head when nothing fits', async () => {
    const requestId = randomUUID()
    await recordAt(database, [{ at: at(0), requestId, startedAt: at(-0.5) }])
    const [item] = await listed()
    const { type, text } = await exported('format=csv')
    expect(type).toBe('text/csv; charset=utf-8; header=present')
    expect(text).toBe(
      `${columns}\r\n${String(item?.['id'])},2026-11-21T12:00:00.000Z,${requestId},credential_broker,alice,${issuer},service,edge,files,inject,connect,success,,500,"{""identity"": ""token""}"\r\n`,
    )
    expect((await exported('format=csv&user_id=nobody')).text).toBe(`${columns}\r\n`)
    expect((await exported('format=csv&reason=internal_error')).text).toBe(`${columns}\r\n`)
    expect((await exported('user_id=nobody')).text).toBe('')
  })

  it('L2: no cell of a CSV is a formula, and each record is one row whatever its ids are', async () => {
    const payloads = [
      '=1+1',
      '+1',
      '-1',
      '@SUM(A1)',
      '=cmd|" /C calc"!A0',
      '=HYPERLINK("https://evil","x")',
      "'=1",
      '",=1,"',
      'a"b',
      'a,b',
      ' =1',
      '==',
      '-',
      '"=1"',
      "=1','=2",
    ]
    await recordAt(
      database,
      payloads.map((userId, index) => ({
        at: at(-index),
        userId,
        actor: { kind: 'user' as const, id: userId },
      })),
    )
    // What the broker's own ids cannot hold, rows of another program may.
    for (const userId of ['\tx', '\rx', 'x\ry', 'x\ny', '=x\n"y"']) {
      await database.sql`
        insert into activity (id, occurred_at, request_id, type, user_id, actor_kind, actor_id, action, method, outcome, duration_ms)
        values (gen_random_uuid(), ${at(-100)}, gen_random_uuid(), 'administration', ${userId}, 'system', 'import', 'key_rewrap', 'unknown', 'success', 1)`
    }
    const rows = parseCsv((await exported('format=csv')).text)
    expect(rows).toHaveLength(1 + payloads.length + 5)
    expect(rows.every((row) => row.length === 15)).toBe(true)
    expect(
      rows
        .slice(1)
        .flat()
        .filter((cell) => /^[=+\-@\t\r]/.test(cell)),
    ).toEqual([])
    const disarmed = (text: string) => (/^[=+\-@\t\r]/.test(text) ? `'${text}` : text)
    expect(rows.slice(1, payloads.length + 1).map((row) => row[4])).toEqual(payloads.map(disarmed))
    expect(new Set(rows.slice(payloads.length + 1).map((row) => row[4]))).toEqual(
      new Set(['\tx', '\rx', 'x\ry', 'x\ny', '=x\n"y"'].map(disarmed)),
    )
  })

  it('keeps to every filter', async () => {
    await recordAt(database, variety)
    for (const filter of [
      'outcome=failure',
      'type=administration&action=connection_removed',
      'upstream=files&method=connect&user_id=alice',
      'reason=policy_denied,not_connected',
      'since=2026-11-21T12:00:01Z&until=2026-11-21T12:00:03Z',
      'until=2026-11-01',
      'actor_id=alice',
      `issuer=${encodeURIComponent(issuer)}`,
    ]) {
      const { text } = await exported(filter)
      const found = text.split('\n').filter((line) => line !== '')
      expect(found.map((line) => JSON.parse(line) as unknown)).toEqual(await listed(filter))
      expect(found.length).toBeGreaterThan(0)
    }
  })

  it('has each record once, over pieces and weeks, with many of one millisecond, while others come in', async () => {
    await database.sql`
      insert into activity (id, occurred_at, request_id, type, user_id, actor_kind, actor_id, action, method, outcome, duration_ms)
      select gen_random_uuid(), ${at(0)}::timestamptz - (n / 3000) * interval '5 days', gen_random_uuid(), 'credential_broker',
        'user-' || n, 'system', 'import', 'inject', 'connect', 'success', 0.25
      from generate_series(0, 12999) as n`
    const response = await get('/api/v1/activity/export')
    await recordAt(database, [{ at: at(100), userId: 'late' }])
    const text = await response.text()
    const users = text
      .trimEnd()
      .split('\n')
      .map((line) => (JSON.parse(line) as { user_id: string }).user_id)
    expect(users).toHaveLength(13_000)
    expect(new Set(users).size).toBe(13_000)
  })

  it('asks for more only when what it sent was taken, and stops when its reader leaves', async () => {
    await database.sql`
      insert into activity (id, occurred_at, request_id, type, user_id, actor_kind, actor_id, action, method, outcome, duration_ms)
      select gen_random_uuid(), ${at(0)}::timestamptz - n * interval '1 ms', gen_random_uuid(), 'credential_broker',
        'user-' || n, 'system', 'import', 'inject', 'connect', 'success', 0.25
      from generate_series(0, 39999) as n`
    const before = reports.statementCount()
    const response = await get('/api/v1/activity/export')
    const reader = response.body?.getReader()
    await reader?.read()
    await new Promise((resolve) => setTimeout(resolve, 100))
    const meanwhile = reports.statementCount() - before
    expect(meanwhile).toBeLessThanOrEqual(4)
    await reader?.cancel()
    const running = async () =>
      (
        await database.sql`
          select from pg_stat_activity
          where state = 'active' and query like '%string_agg%' and datname = current_database() and pid <> pg_backend_pid()`
      ).length
    await expect.poll(running).toBe(0)
    // Of eleven pieces; one of these cancels what was read ahead.
    expect(reports.statementCount() - before).toBeLessThanOrEqual(meanwhile + 2)
  })

  it.each([
    ['format=xml', 'format'],
    ['format=csv&format=csv', 'format'],
    ['format=', 'format'],
    ['limit=10', 'limit'],
    ['cursor=x', 'cursor'],
    ['until=yesterday', 'until'],
    ['colour=red', 'colour'],
  ])('M-V6: refuses %s and names the parameter', async (query, field) => {
    const response = await get(`/api/v1/activity/export?${query}`)
    expect(await problemOf(response)).toMatchObject({ status: 400, code: 'invalid_request', field })
  })
})

describe('summary and export', () => {
  it('L11: are for admins and for services that may read the log', async () => {
    for (const path of ['/api/v1/activity/summary', '/api/v1/activity/export']) {
      for (const token of [adaToken, serviceKey]) expect((await get(path, token)).status).toBe(403)
      expect((await app.request(path)).status).toBe(401)
      expect((await get(path, readingKey)).status).toBe(200)
    }
  })

  it('answer 503 while the database is away', async () => {
    const { gone } = await openDatabases({ url: new Secret(testDatabase.url), pools: { gone: 1 } })
    await gone.close()
    const away = createHttpRoom({ activityReports: createActivityReports(gone) }).app
    for (const path of ['summary', 'export', 'export?format=csv']) {
      const response = await away.request(`/api/v1/activity/${path}`, {
        headers: { authorization: `Bearer ${adminToken}` },
      })
      expect(await problemOf(response)).toMatchObject({ status: 503, code: 'storage_unavailable' })
    }
  })
})

/** RFC 4180. */
function parseCsv(text: string): string[][] {
  const rows: string[][] = []
  let row: string[] = []
  for (const [, quoted, plain, end] of text.matchAll(
    /(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r\n)/g,
  )) {
    row.push(quoted?.replaceAll('""', '"') ?? plain ?? '')
    if (end !== ',') {
      rows.push(row)
      row = []
    }
  }
  return rows
}
