import { OpenAPIHono } from '@hono/zod-openapi'
import { describe, expect, it } from 'vitest'
import { isBrokerError } from '../../../src/core/errors.ts'
import { decodeActivityCursor, encodeActivityCursor } from '../../../src/http/activity-cursor.ts'
import { activityQuery, parseActivityQuery } from '../../../src/http/activity-query.ts'
import { parseQueryInstant } from '../../../src/http/query-instant.ts'

const parse = (query: string) => parseActivityQuery(new URLSearchParams(query))

function refusalOf(query: string): { field: string | undefined; text: string } {
  try {
    parse(query)
  } catch (error) {
    if (!isBrokerError(error, 'invalid_request')) throw error
    return { field: error.details.field, text: JSON.stringify(error.details) }
  }
  throw new Error(`was accepted: ${query}`)
}

const position = {
  occurredAt: '2026-11-21T12:00:00.123456Z',
  id: '01a1fdfa-46fa-7000-8000-0123456789ab',
}

describe('the query of the activity log', () => {
  it('M-V2: without parameters asks for the newest 50', () => {
    expect(parse('')).toEqual({ filter: {}, limit: 50, after: undefined })
  })

  it('M-V1: takes every filter', () => {
    const requestId = 'f81d4fae-7dec-41d0-a765-00a0c91e6bf6'
    const cursor = encodeActivityCursor(position)
    expect(
      parse(
        'type=credential_broker&user_id=alice&issuer=https%3A%2F%2Flogin.example.com&upstream=files&action=inject' +
          `&method=connect&outcome=success&reason=policy_denied&request_id=${requestId}&actor_id=edge` +
          `&since=2026-11-01&until=2026-11-21T12:00:00%2B02:00&limit=1000&cursor=${cursor}`,
      ),
    ).toEqual({
      filter: {
        type: ['credential_broker'],
        userId: ['alice'],
        issuer: ['https://login.example.com'],
        upstream: ['files'],
        action: ['inject'],
        method: ['connect'],
        outcome: ['success'],
        reason: ['policy_denied'],
        requestId: [requestId],
        actorId: ['edge'],
        since: new Date('2026-11-01T00:00:00Z'),
        until: new Date('2026-11-21T10:00:00Z'),
      },
      limit: 1000,
      after: position,
    })
  })

  it('M-V1: repeated or with commas means any of', () => {
    expect(
      parse('user_id=a,b&user_id=c&type=administration&outcome=failure,success').filter,
    ).toEqual({
      userId: ['a', 'b', 'c'],
      type: ['administration'],
      outcome: ['failure', 'success'],
    })
  })

  it.each([
    ['colour=red', 'colour'],
    ['userId=alice', 'userId'],
    ['toString=1', 'toString'],
    ['page-size=5', 'page-size'],
    ['actor.kind=service', 'actor.kind'],
    ['limit[]=5', 'limit[]'],
    ['__proto__=1', 'query'],
    ['constructor=1', 'constructor'],
    ['%3Cscript%3E=1', 'query'],
    ['=1', 'query'],
  ])('refuses a parameter that it does not know: %s', (query, field) => {
    expect(refusalOf(query).field).toBe(field)
  })

  it.each([
    ['type', 'connect'],
    ['type', 'administration,,'],
    ['type', ''],
    ['type', 'Credential_Broker'],
    ['user_id', ''],
    ['user_id', 'a,,b'],
    ['user_id', '%00'],
    ['user_id', 'a%0Ab'],
    ['user_id', 'x'.repeat(1025)],
    ['user_id', Array.from({ length: 101 }, () => 'x').join()],
    ['issuer', ''],
    ['upstream', 'Files'],
    ['upstream', "files'%20OR%201=1--"],
    ['upstream', 'x'.repeat(64)],
    ['action', 'delete'],
    ['method', 'oauth'],
    ['outcome', 'maybe'],
    ['outcome', 'success%20OR%20true'],
    ['reason', 'because'],
    ['reason', 'null'],
    ['request_id', 'abc'],
    ['request_id', 'f81d4fae7dec41d0a76500a0c91e6bf6'],
    ['actor_id', '%7F'],
    ['limit', '0'],
    ['limit', '1001'],
    ['limit', '-1'],
    ['limit', '050'],
    ['limit', '5.0'],
    ['limit', '1e2'],
    ['limit', '%2050'],
    ['limit', ''],
    ['limit', '10,20'],
    ['since', 'yesterday'],
    ['since', ''],
    ['until', '2026-02-30'],
    ['until', '1767225600'],
    ['cursor', ''],
    ['cursor', 'abc'],
  ])('refuses a bad value and names the parameter, never the value: %s=%s', (name, value) => {
    const { field, text } = refusalOf(`${name}=${value}`)
    expect(field).toBe(name)
    expect(text).toMatch(/"expectation":"[^"]/)
    const sent = decodeURIComponent(value)
    if (sent.length > 9) expect(text).not.toContain(sent)
  })

  it.each(['since', 'until', 'limit', 'cursor'])(
    'refuses a second %s, an equal one too',
    (name) => {
      const value = { since: '2026-01-01', until: '2026-01-01', limit: '5' }[name]
      const query = `${name}=${value ?? encodeActivityCursor(position)}`
      expect(() => parse(query)).not.toThrow()
      expect(refusalOf(`${query}&${query}`).field).toBe(name)
    },
  )

  it('keeps what looks like SQL as the text that it is', () => {
    const evil = "x' OR '1'='1"
    expect(parse(`user_id=${encodeURIComponent(evil)}`).filter).toEqual({ userId: [evil] })
  })

  it('stands in the OpenAPI document with its closed sets and its bounds', () => {
    const app = new OpenAPIHono()
    app.openAPIRegistry.registerPath({
      method: 'get',
      path: '/activity',
      request: { query: activityQuery },
      responses: { 200: { description: 'Records.' } },
    })
    const document = app.getOpenAPI31Document({
      openapi: '3.1.0',
      info: { title: 'test', version: '1' },
    })
    const parameters = document.paths?.['/activity']?.get?.parameters ?? []
    const byName = new Map(
      parameters.flatMap((parameter) => ('name' in parameter ? [[parameter.name, parameter]] : [])),
    )
    expect([...byName.keys()].toSorted()).toEqual([
      'action',
      'actor_id',
      'cursor',
      'issuer',
      'limit',
      'method',
      'outcome',
      'reason',
      'request_id',
      'since',
      'type',
      'until',
      'upstream',
      'user_id',
    ])
    expect(byName.get('outcome')).toMatchObject({
      required: false,
      schema: { type: 'array', items: { enum: ['success', 'failure'] } },
    })
    expect(byName.get('limit')).toMatchObject({
      required: false,
      schema: { type: 'integer', minimum: 1, maximum: 1000, default: 50 },
    })
    expect(byName.get('since')).toMatchObject({ required: false, schema: { type: 'string' } })
  })
})

describe('cursors', () => {
  it('lead back to the very microsecond', () => {
    expect(decodeActivityCursor(encodeActivityCursor(position))).toEqual(position)
  })

  it('are refused when any one character is another, is missing or is added', () => {
    const cursor = encodeActivityCursor(position)
    expect(cursor).toMatch(/^[\w-]+$/)
    for (let index = 0; index <= cursor.length; index++) {
      const [before, at, after] = [cursor.slice(0, index), cursor[index], cursor.slice(index + 1)]
      for (const other of ['', 'A', 'z', '_', '=', `${at}A`].filter(
        (text) => text !== (at ?? ''),
      )) {
        expect(decodeActivityCursor(`${before}${other}${after}`)).toBeUndefined()
      }
    }
  })

  it.each([
    ['an impossible date', { ...position, occurredAt: '2026-02-30T12:00:00.000000Z' }],
    ['an impossible time', { ...position, occurredAt: '2026-01-01T25:00:00.000000Z' }],
    ['no id', { ...position, id: '' }],
    ['SQL', { ...position, id: "'; DROP TABLE activity; --aaaaaaaaaaaa" }],
  ])('are refused with %s, also with the right checksum', (_name, forged) => {
    expect(decodeActivityCursor(encodeActivityCursor(forged))).toBeUndefined()
  })
})

describe('instants of a query (RFC 3339)', () => {
  it.each([
    ['2026-01-31', '2026-01-31T00:00:00.000Z'],
    ['2024-02-29', '2024-02-29T00:00:00.000Z'],
    ['2026-01-31T09:30:00Z', '2026-01-31T09:30:00.000Z'],
    ['2026-01-31t09:30:00z', '2026-01-31T09:30:00.000Z'],
    ['2026-01-31T09:30:00.5+02:00', '2026-01-31T07:30:00.500Z'],
    ['2026-01-31T23:30:00-23:59', '2026-02-01T23:29:00.000Z'],
    ['2026-01-31T09:30:00.123Z', '2026-01-31T09:30:00.123Z'],
    ['2026-01-31T09:30:00.123000000Z', '2026-01-31T09:30:00.123Z'],
    // Records have whole milliseconds: the first one not before this is of the next.
    ['2026-01-31T09:30:00.123000001Z', '2026-01-31T09:30:00.124Z'],
    ['2026-01-31T23:59:59.999999Z', '2026-02-01T00:00:00.000Z'],
  ])('%s is %s', (text, instant) => {
    expect(parseQueryInstant(text)?.toISOString()).toBe(instant)
  })

  it('keeps each millisecond of a second what it is', () => {
    for (let ms = 0; ms < 1000; ms++) {
      const text = `2026-01-31T09:30:00.${String(ms).padStart(3, '0')}Z`
      expect(parseQueryInstant(text)?.toISOString()).toBe(text)
    }
  })

  it.each([
    '2026-1-31',
    '2026-02-29',
    '2026-13-01',
    '2026-01-31T09:30Z',
    '2026-01-31T09:30:00',
    '2026-01-31 09:30:00Z',
    '2026-01-31T24:00:00Z',
    '2026-01-31T09:60:00Z',
    '2026-01-31T09:30:00+24:00',
    '2026-01-31T09:30:00+02:60',
    '2026-01-31T09:30:00 02:00',
    '2026-01-31T09:30:00.Z',
    '0000-01-01',
    '0001-01-01T00:00:00+00:01',
    '9999-12-31T23:59:59-00:01',
    '+2026-01-31',
    'now',
  ])('%s is none', (text) => {
    expect(parseQueryInstant(text)).toBeUndefined()
  })
})
