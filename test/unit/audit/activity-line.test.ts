import { randomBytes, randomUUID } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { createActivityLineEncoder, idOfLine } from '../../../src/audit/activity-line.ts'
import {
  type AuditRecord,
  auditActions,
  auditMethods,
  auditOutcomes,
  auditReasons,
  auditTypes,
} from '../../../src/core/audit-event.ts'
import { activityColumns } from '../../../src/core/ports/activity-batches.ts'

const nowMs = Date.parse('2026-11-21T12:00:00.250Z')

const record: AuditRecord = {
  requestId: 'f81d4fae-7dec-41d0-a765-00a0c91e6bf6',
  startedAt: new Date(nowMs - 12),
  userId: 'alice',
  issuer: 'https://login.example.com',
  actor: { kind: 'service', id: 'edge' },
  upstream: 'files',
  action: 'inject',
  method: 'token_exchange',
  outcome: 'success',
  reason: undefined,
  details: { identity: 'token' },
}

/** The values of a line by column; an empty one is absent. */
function columnsOf(line: string): Record<string, string> {
  const values = line.split('\t')
  expect(values).toHaveLength(activityColumns.length)
  return Object.fromEntries(activityColumns.map((column, index) => [column, values[index] ?? '']))
}

describe('a record as text', () => {
  it('M-A5: holds every column of section 8', () => {
    const { id, ...columns } = columnsOf(createActivityLineEncoder()(record, nowMs))
    expect(id).toMatch(/^01a1fdfa-46fa-7000-[89ab][\da-f]{3}-[\da-f]{12}$/)
    expect(columns).toEqual({
      occurred_at: '2026-11-21T12:00:00.250Z',
      request_id: 'f81d4fae-7dec-41d0-a765-00a0c91e6bf6',
      type: 'credential_broker',
      user_id: 'alice',
      issuer: 'https://login.example.com',
      actor_kind: 'service',
      actor_id: 'edge',
      upstream: 'files',
      action: 'inject',
      method: 'token_exchange',
      outcome: 'success',
      reason: '',
      duration_ms: '12',
      details: '{"identity":"token"}',
    })
  })

  it('M-A3: says nothing where there is no person, upstream or detail', () => {
    const columns = columnsOf(
      createActivityLineEncoder()(
        {
          requestId: record.requestId,
          startedAt: record.startedAt,
          userId: undefined,
          issuer: undefined,
          actor: { kind: 'service', id: 'edge' },
          upstream: undefined,
          action: 'inject',
          method: 'unknown',
          outcome: 'failure',
          reason: 'unknown_upstream',
        },
        nowMs,
      ),
    )
    expect(columns).toMatchObject({
      user_id: '',
      issuer: '',
      upstream: '',
      reason: 'unknown_upstream',
      details: '{}',
    })
  })

  it('takes no time when the clock was set back meanwhile', () => {
    const encode = createActivityLineEncoder()
    const later = { ...record, startedAt: new Date(nowMs + 5000) }
    expect(columnsOf(encode(later, nowMs))).toMatchObject({ duration_ms: '0' })
  })
})

describe('ids of records (RFC 9562 §5.7)', () => {
  it('hold the time of the record to the millisecond', () => {
    const encode = createActivityLineEncoder()
    for (const ms of [0, 1, nowMs, nowMs - 40 * 365 * 86_400_000]) {
      const line = encode(record, ms)
      const hex = idOfLine(line).replaceAll('-', '')
      expect(Number.parseInt(hex.slice(0, 12), 16)).toBe(ms)
      expect(columnsOf(line)['occurred_at']).toBe(new Date(ms).toISOString())
    }
  })

  it('rise within a millisecond, so that records of one call stay in their order', () => {
    const encode = createActivityLineEncoder()
    const ids = Array.from({ length: 4096 }, () => idOfLine(encode(record, nowMs)))
    expect(ids.toSorted()).toEqual(ids)
  })

  it('never come twice, neither here nor in another process', () => {
    const encoders = [createActivityLineEncoder(), createActivityLineEncoder()]
    const ids = encoders.flatMap((encode) =>
      Array.from({ length: 10_000 }, () => idOfLine(encode(record, nowMs))),
    )
    expect(new Set(ids).size).toBe(ids.length)
  })
})

describe('M-A2, H-A2: what a record can carry', () => {
  const secret = 'eyJhbGciOiJFUzI1NiJ9.CANARY.c2ln'
  const closedFields: [string, (text: string) => unknown][] = [
    ['type', (text) => ({ ...record, type: text })],
    ['action', (text) => ({ ...record, action: text })],
    ['method', (text) => ({ ...record, method: text })],
    ['outcome', (text) => ({ ...record, outcome: text })],
    ['reason', (text) => ({ ...record, reason: text })],
    ['actor.kind', (text) => ({ ...record, actor: { kind: text, id: 'edge' } })],
    ['details.identity', (text) => ({ ...record, details: { identity: text } })],
  ]

  it.each(closedFields)('%s takes words of ours only', (field, withText) => {
    const encode = createActivityLineEncoder()
    for (const text of [secret, '', 'Success', 'success\t', '__proto__', 'constructor']) {
      const attempt = () => encode(withText(text) as AuditRecord, nowMs)
      expect(attempt).toThrow(new TypeError(`not a word of ours: ${field}`))
    }
  })

  it('has no column for anything else: 500 random records with fields of every kind', () => {
    const encode = createActivityLineEncoder()
    const pick = <Item>(items: readonly Item[]) =>
      items[randomBytes(2).readUInt16LE() % items.length] as Item
    for (let round = 0; round < 500; round++) {
      const foreign = `CANARY-${randomUUID()}`
      const columns = columnsOf(
        encode(
          {
            ...record,
            type: pick(auditTypes),
            action: pick(auditActions),
            method: pick(auditMethods),
            outcome: pick(auditOutcomes),
            reason: pick([...auditReasons, undefined]),
            [pick(['token', 'error', 'message', 'scope', 'id', 'occurredAt', 'headers'])]: foreign,
            actor: { kind: 'user', id: 'alice', [pick(['token', 'name'])]: foreign },
            details: { identity: 'token', [pick(['token', 'error_description'])]: foreign },
          },
          nowMs,
        ),
      )
      expect(JSON.stringify(columns)).not.toContain('CANARY')
    }
  })

  it.each([
    ['a tab', 'alice\tfailure'],
    ['a line feed', 'alice\n019aa67e-0000-7000-8000-000000000000\t2026-01-01T00:00:00Z'],
    ['a NUL', 'alice\u0000'],
    ['an escape sequence', '\u001b[2Jalice'],
    ['half a surrogate pair', 'alice\ud800'],
    ['a line separator', 'alice\u2028'],
    ['nothing', ''],
    ['5,000 characters', 'x'.repeat(5000)],
  ])('an id with %s stays one value, and one of its own', (_name, id) => {
    const encode = createActivityLineEncoder()
    const stored = (userId: string) =>
      columnsOf(encode({ ...record, userId }, nowMs))['user_id'] ?? ''
    const value = stored(id)
    expect(value).toMatch(/^\P{Cc}{1,470}$/u)
    expect(value).not.toMatch(/\p{Cs}/u)
    expect(value).toBe(stored(id))
    // Who differs only in what cannot be written is still somebody else.
    expect(value).not.toBe(stored(`${id}\u0001`))
    expect(value).not.toBe(stored(`${id}x`))
  })

  it.each(['用户-7', 'zoë@example.com', '😀', '\\N', '"', "'; DROP TABLE activity; --", ' '])(
    'an id such as %s stands as it is',
    (id) => {
      const columns = columnsOf(
        createActivityLineEncoder()(
          { ...record, userId: id, issuer: id, upstream: id, actor: { kind: 'user', id } },
          nowMs,
        ),
      )
      expect(columns).toMatchObject({ user_id: id, issuer: id, upstream: id, actor_id: id })
    },
  )
})
