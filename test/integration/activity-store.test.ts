import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import type { AuditRecord } from '../../src/core/audit-event.ts'
import type {
  ActivityFilter,
  ActivityPosition,
  ActivityRecord,
  ActivityStore,
} from '../../src/core/ports/activity-store.ts'
import { Secret } from '../../src/core/secret.ts'
import { createActivityStore, pageSettings } from '../../src/storage/activity-store.ts'
import { type Database, openDatabases } from '../../src/storage/database.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { allRecords, auditRecord, issuer, recordAt } from './activity-log.ts'

let testDatabase: TestDatabase
let database: Database
let store: ActivityStore

beforeAll(async () => {
  testDatabase = await createTestDatabase({ pool: 2 })
  database = testDatabase.database
  store = createActivityStore(database)
})
afterAll(() => testDatabase.drop())
beforeEach(async () => {
  await database.sql`truncate activity`
})

const noon = Date.parse('2026-11-21T12:00:00Z')
const at = (seconds: number) => new Date(noon + seconds * 1000)
const users = (records: readonly ActivityRecord[]) => records.map(({ userId }) => userId)

/** Goes through the log page by page; `between` runs after each. */
async function walk(
  filter: ActivityFilter,
  limit: number,
  between: (page: number) => Promise<void> = async () => {},
): Promise<ActivityRecord[]> {
  const seen: ActivityRecord[] = []
  let after: ActivityPosition | undefined
  for (let page = 0; ; page++) {
    const { records, next } = await store.page(filter, limit, after)
    seen.push(...records)
    if (next === undefined) return seen
    expect(records).toHaveLength(limit)
    await between(page)
    after = next
  }
}

describe('M-V1: filters', () => {
  const requestId = 'f81d4fae-7dec-41d0-a765-00a0c91e6bf6'
  /** Each differs from the first in one thing, and is found by it. */
  const variants: Record<string, { of: Partial<AuditRecord>; filter: ActivityFilter }> = {
    type: { of: { type: 'administration' }, filter: { type: ['administration'] } },
    userId: { of: { userId: 'bob' }, filter: { userId: ['bob'] } },
    issuer: { of: { issuer: 'https://other' }, filter: { issuer: ['https://other'] } },
    upstream: { of: { upstream: 'mail' }, filter: { upstream: ['mail'] } },
    action: { of: { action: 'refresh' }, filter: { action: ['refresh'] } },
    method: { of: { method: 'entra_obo' }, filter: { method: ['entra_obo'] } },
    outcome: { of: { outcome: 'failure' }, filter: { outcome: ['failure'] } },
    reason: { of: { reason: 'policy_denied' }, filter: { reason: ['policy_denied'] } },
    requestId: { of: { requestId }, filter: { requestId: [requestId] } },
    actorId: { of: { actor: { kind: 'user', id: 'carol' } }, filter: { actorId: ['carol'] } },
  }
  const keys = Object.keys(variants)
  const of = (key: string) => variants[key] ?? { of: {}, filter: {} }

  beforeEach(async () => {
    await recordAt(database, [
      { at: at(0) },
      ...keys.map((key, index) => ({ at: at(index + 1), ...of(key).of })),
    ])
  })

  it.each(keys)('%s narrows to the records that have it', async (key) => {
    const { records } = await store.page(of(key).filter, 50, undefined)
    expect(records.map(({ occurredAt }) => occurredAt)).toEqual([at(keys.indexOf(key) + 1)])
  })

  const pairs = keys.flatMap((one, index) =>
    keys.slice(index + 1).map((two) => [one, two] as const),
  )

  it.each(pairs)('%s and %s together mean both', async (one, two) => {
    const both = { ...of(one).filter, ...of(two).filter }
    expect((await store.page(both, 50, undefined)).records).toEqual([])
    await recordAt(database, [{ at: at(100), ...of(one).of, ...of(two).of }])
    const { records } = await store.page(both, 50, undefined)
    expect(records.map(({ occurredAt }) => occurredAt)).toEqual([at(100)])
  })

  it('several values of one filter mean any of them', async () => {
    const { records } = await store.page(
      { upstream: ['mail', 'files', 'nothing'], userId: ['bob', 'alice'] },
      50,
      undefined,
    )
    expect(records).toHaveLength(keys.length + 1)
  })

  it('since is included, until is not', async () => {
    const find = async (filter: ActivityFilter) =>
      (await store.page(filter, 50, undefined)).records.map(({ occurredAt }) => occurredAt)
    expect(await find({ since: at(9) })).toEqual([at(10), at(9)])
    expect(await find({ until: at(2) })).toEqual([at(1), at(0)])
    expect(await find({ since: at(3), until: at(4) })).toEqual([at(3)])
    expect(await find({ since: at(3), until: at(3) })).toEqual([])
    expect(await find({ since: new Date(at(3).getTime() + 1), until: at(4) })).toEqual([])
  })

  it('what looks like SQL finds nothing and breaks nothing', async () => {
    for (const evil of [
      "' OR '1'='1",
      "'; DROP TABLE activity; --",
      'alice%',
      '_lice',
      '$1',
      '{alice}',
      "alice' UNION SELECT * FROM activity --",
      '\\',
      '"',
    ]) {
      for (const filter of [
        { userId: [evil] },
        { issuer: [evil, evil] },
        { upstream: [evil] },
        { actorId: [evil] },
      ]) {
        expect((await store.page(filter, 50, undefined)).records).toEqual([])
      }
    }
    expect((await store.page({}, 50, undefined)).records).toHaveLength(keys.length + 1)
  })

  it('keeps apart people of whom one is the beginning of the other, and of two issuers', async () => {
    await recordAt(database, [
      { at: at(50), userId: 'alicea' },
      { at: at(51), userId: 'alic' },
      { at: at(52), userId: 'alice', issuer: `${issuer}/` },
    ])
    const { records } = await store.page({ userId: ['alice'], issuer: [issuer] }, 50, undefined)
    expect(records.every((record) => record.userId === 'alice' && record.issuer === issuer)).toBe(
      true,
    )
    expect(records).toHaveLength(keys.length - 1)
  })
})

describe('M-V2: pages', () => {
  it('go from the newest to the oldest, each record once, with many of one millisecond', async () => {
    await recordAt(
      database,
      Array.from({ length: 300 }, (_, index) => ({
        at: at(Math.floor(index / 60)),
        userId: `user-${index}`,
      })),
    )
    const expected = Array.from({ length: 300 }, (_, index) => `user-${299 - index}`)
    for (const limit of [1, 7, 60, 100, 299, 300, 1000]) {
      expect(users(await walk({}, limit))).toEqual(expected)
    }
  })

  it('end without a position when the last one is full', async () => {
    await recordAt(database, [{ at: at(0) }, { at: at(1) }])
    expect(await store.page({}, 2, undefined)).toMatchObject({ next: undefined })
    const { next } = await store.page({}, 1, undefined)
    expect(await store.page({}, 1, next)).toMatchObject({
      records: [{ occurredAt: at(0) }],
      next: undefined,
    })
  })

  it('of an empty log are empty', async () => {
    expect(await store.page({}, 50, undefined)).toEqual({ records: [], next: undefined })
  })

  it('neither leave out nor repeat what was there while newer records arrive, of the same millisecond too', async () => {
    const before = Array.from({ length: 100 }, (_, index) => ({
      at: at(Math.floor(index / 40)),
      userId: `old-${index}`,
    }))
    await recordAt(database, before)
    const seen = await walk({}, 9, async (page) => {
      // One that sorts before every page already read, and some among those still to come.
      await recordAt(database, [
        { at: at(100 + page), userId: `new-${page}` },
        { at: at(1), userId: `among-${page}` },
      ])
    })
    const found = users(seen)
    expect(new Set(found).size).toBe(found.length)
    expect(found.filter((user) => user?.startsWith('old-'))).toEqual(
      before.map(({ userId }) => userId).toReversed(),
    )
  })

  it('are exact to the microsecond, for rows that another program wrote', async () => {
    await database.sql`
      insert into activity (id, occurred_at, request_id, type, user_id, actor_kind, actor_id, action, method, outcome, duration_ms)
      select gen_random_uuid(), ${at(0)}::timestamptz + n * interval '1 microsecond', gen_random_uuid(), 'credential_broker',
        'user-' || n, 'system', 'import', 'inject', 'connect', 'success', 0.25
      from generate_series(0, 2500) as n`
    const expected = Array.from({ length: 2501 }, (_, index) => `user-${2500 - index}`)
    expect(users(await walk({}, 100))).toEqual(expected)
  })

  it('keep to the filter behind a position', async () => {
    await recordAt(
      database,
      Array.from({ length: 60 }, (_, index) => ({
        at: at(index),
        userId: index % 3 === 0 ? 'bob' : 'alice',
      })),
    )
    const seen = await walk({ userId: ['bob'], since: at(10), until: at(50) }, 4)
    expect(seen.map(({ occurredAt }) => occurredAt)).toEqual(
      [48, 45, 42, 39, 36, 33, 30, 27, 24, 21, 18, 15, 12].map(at),
    )
  })
})

describe('one record', () => {
  it('M-A5: comes back as it was recorded', async () => {
    const given = auditRecord({ startedAt: at(-3), outcome: 'failure', reason: 'policy_denied' })
    await recordAt(database, [{ at: at(0), ...given }])
    const [listed] = await allRecords(store)
    expect(await store.find(listed?.id ?? '')).toEqual({
      id: listed?.id,
      occurredAt: at(0),
      requestId: given.requestId,
      type: 'credential_broker',
      userId: 'alice',
      issuer,
      actor: { kind: 'service', id: 'edge' },
      upstream: 'files',
      action: 'inject',
      method: 'connect',
      outcome: 'failure',
      reason: 'policy_denied',
      durationMs: 3000,
      details: { identity: 'token' },
    })
  })

  it('is found under an id of another kind, too', async () => {
    const id = randomUUID()
    await database.sql`
      insert into activity (id, occurred_at, request_id, type, actor_kind, actor_id, action, method, outcome, duration_ms)
      values (${id}, '2025-02-03T04:05:06Z', ${id}, 'administration', 'system', 'import', 'key_rewrap', 'unknown', 'success', 1)`
    expect(await store.find(id)).toMatchObject({ id, userId: null, details: {} })
  })

  it.each([
    ['nobody has', '01a1fdfa-46fa-7000-8000-0123456789ab'],
    ['is of the year 10889', 'ffffffff-ffff-7fff-bfff-ffffffffffff'],
    ['is of 1970', '00000000-0000-7000-8000-000000000000'],
    ['is nil', '00000000-0000-0000-0000-000000000000'],
  ])('is not there under an id that %s', async (_name, id) => {
    await recordAt(database, [{ at: at(0) }])
    expect(await store.find(id)).toBeUndefined()
  })
})

describe('last uses of a person', () => {
  it('are those that the writer has noted, of this person alone', async () => {
    await database.sql`
      insert into last_use (issuer, user_id, upstream, last_used_at) values
        (${issuer}, 'alice', 'files', ${at(10)}), (${issuer}, 'alice', 'mail', ${at(5)}),
        (${issuer}, 'bob', 'files', ${at(40)}), ('https://other', 'alice', 'files', ${at(41)})`
    expect(await store.lastUses({ issuer, userId: 'alice' })).toEqual(
      new Map([
        ['files', at(10)],
        ['mail', at(5)],
      ]),
    )
    expect(await store.lastUses({ issuer, userId: 'nobody' })).toEqual(new Map())
  })
})

describe('plans on a log of 13 weeks', () => {
  type Plan = {
    'Node Type': string
    'Relation Name'?: string
    'Actual Rows': number
    'Actual Loops': number
    Plans?: Plan[]
  }

  let weeks: TestDatabase
  let pages: Database
  let bigStore: ActivityStore
  let sent: { strings: readonly string[]; args: unknown[] }[]

  beforeAll(async () => {
    weeks = await createTestDatabase({ pool: 1 })
    const big = weeks.database
    for (let week = 0; week < 13; week++) {
      await big.sql.unsafe(`
        create table test_week_${week} partition of activity
        for values from ('${weekStart(week).toISOString()}') to ('${weekStart(week + 1).toISOString()}')`)
    }
    await big.sql`
      insert into activity (id, occurred_at, request_id, type, user_id, issuer, actor_kind, actor_id, upstream, action,
        method, outcome, duration_ms)
      select gen_random_uuid(), ${weekStart(0)}::timestamptz + n * interval '3 minutes', gen_random_uuid(),
        'credential_broker', 'user-' || n % 500, ${issuer}, 'service', 'edge', 'upstream-' || n % 7, 'inject', 'connect',
        case when n % 20 = 0 then 'failure' else 'success' end, 1
      from generate_series(0, 43000) as n`
    await big.sql`analyze activity`
    ;({ pages } = await openDatabases({
      url: new Secret(weeks.url),
      pools: { pages: 1 },
      settings: { pages: pageSettings },
    }))
    bigStore = createActivityStore({
      ...pages,
      run(statement) {
        const query = statement()
        sent.push(query as unknown as (typeof sent)[number])
        return pages.run(() => query)
      },
    })
  }, 60_000)
  afterAll(async () => {
    await pages.close()
    await weeks.drop()
  })
  beforeEach(() => {
    sent = []
  })

  function weekStart(week: number): Date {
    return new Date(Date.parse('2020-01-06T00:00:00Z') + week * 7 * 86_400_000)
  }

  /** The parts of the plan that read a partition with records, for what the store sent last. */
  async function readsOf(question: Promise<unknown>): Promise<Plan[]> {
    await question
    const { strings, args } = sent.at(-1) ?? { strings: [], args: [] }
    const [row] = await pages.sql.unsafe<{ 'QUERY PLAN': { Plan: Plan }[] }[]>(
      `explain (analyze, format json) ${strings.join('')}`,
      args as string[],
    )
    const parts: Plan[] = []
    const visit = (plan: Plan) => {
      const isRead = plan['Actual Loops'] > 0 && plan['Relation Name']?.startsWith('test_week_')
      if (isRead === true) parts.push(plan)
      for (const part of plan.Plans ?? []) visit(part)
    }
    for (const { Plan: plan } of row?.['QUERY PLAN'] ?? []) visit(plan)
    expect(parts.length).toBeGreaterThan(0)
    return parts
  }

  const partitionsOf = (parts: readonly Plan[]) =>
    [...new Set(parts.map((part) => Number(part['Relation Name']?.slice(10))))].toSorted(
      (x, y) => x - y,
    )
  const deep = {
    occurredAt: '2020-01-30T12:00:00.000000Z',
    id: '01a1fdfa-46fa-7000-8000-0123456789ab',
  }

  it.each<[string, ActivityFilter, ActivityPosition | undefined]>([
    ['everybody', {}, undefined],
    ['everybody, far behind', {}, deep],
    ['one person', { userId: ['user-7'], issuer: [issuer] }, undefined],
    ['one person, far behind', { userId: ['user-7'], issuer: [issuer] }, deep],
    ['the failures of an upstream', { upstream: ['upstream-3'], outcome: ['failure'] }, undefined],
  ])(
    'a page of %s comes from indexes and reads no more than it shows',
    async (_name, filter, after) => {
      const parts = await readsOf(bigStore.page(filter, 50, after))
      for (const part of parts) expect(part['Node Type']).toMatch(/^Index/)
      // One row of each partition is looked at to find out which is next.
      expect(
        parts.reduce((rows, part) => rows + part['Actual Rows'] * part['Actual Loops'], 0),
      ).toBeLessThanOrEqual(51 + 13)
    },
  )

  it('leaves partitions out that are newer than the position, or outside of since and until', async () => {
    expect(partitionsOf(await readsOf(bigStore.page({}, 50, deep)))).toEqual([0, 1, 2, 3])
    const fortnight = { since: weekStart(5), until: weekStart(7) }
    const theirs = { ...fortnight, userId: ['user-7'] }
    expect(partitionsOf(await readsOf(bigStore.page(theirs, 50, undefined)))).toEqual([5, 6])
  })

  it('looks for a record in the weeks around the time of its id', async () => {
    const ms = weekStart(9).getTime() + 3 * 86_400_000
    const hex = ms.toString(16).padStart(12, '0')
    const id = `${hex.slice(0, 8)}-${hex.slice(8)}-7000-8000-0123456789ab`
    expect(partitionsOf(await readsOf(bigStore.find(id)))).toEqual([9])
  })

  it('finds a combination that no record has without a look at the log', async () => {
    expect(
      await bigStore.page({ upstream: ['upstream-3'], method: ['user_key'] }, 50, undefined),
    ).toEqual({ records: [], next: undefined })
    expect(sent).toHaveLength(1)
    expect(sent[0]?.strings.join('')).not.toMatch(/FROM activity\s/)
  })

  it('finds three records of 43,000 by what a third of all records have with them', async () => {
    await recordAt(weeks.database, [
      {
        at: weekStart(2),
        upstream: 'upstream-3',
        method: 'connect',
        reason: 'credential_corrupt',
        outcome: 'failure',
      },
      {
        at: weekStart(7),
        upstream: 'upstream-3',
        method: 'connect',
        reason: 'credential_corrupt',
        outcome: 'failure',
      },
      {
        at: weekStart(7),
        upstream: 'upstream-4',
        method: 'connect',
        reason: 'credential_corrupt',
        outcome: 'failure',
      },
    ])
    const filter: ActivityFilter = { reason: ['credential_corrupt'], method: ['connect'] }
    const parts = await readsOf(bigStore.page(filter, 50, undefined))
    expect(parts.reduce((rows, part) => rows + part['Actual Rows'] * part['Actual Loops'], 0)).toBe(
      3,
    )
    expect(
      (await bigStore.page({ ...filter, upstream: ['upstream-3'] }, 50, undefined)).records,
    ).toHaveLength(2)
  })

  it('prepares few statements, however many questions are asked', async () => {
    for (let round = 0; round < 20; round++) {
      const filter = {
        userId: [`user-${round}`],
        upstream: round % 2 === 0 ? ['upstream-1'] : undefined,
      }
      await bigStore.page(filter, 50, round % 3 === 0 ? deep : undefined)
      await bigStore.page(
        { ...filter, userId: undefined, since: weekStart(round % 13) },
        50,
        undefined,
      )
    }
    expect(new Set(sent.map(({ strings }) => strings.join(''))).size).toBeLessThanOrEqual(5)
  })
})
