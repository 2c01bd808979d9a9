import { readFile } from 'node:fs/promises'
import { describe, expect, it } from 'vitest'
import { BrokerError, type ErrorCode } from '../../src/core/errors.ts'
import { createProblems, problems } from '../../src/http/problem.ts'

const requestId = '0194c0de-0000-4000-8000-000000000001'
const codes = Object.keys(problems) as ErrorCode[]

function create() {
  const logged: unknown[] = []
  const translator = createProblems({
    publicUrl: 'https://broker.example.com',
    log: { error: (entry) => void logged.push(entry) },
    challenge: ({ error }) => `Bearer error="${error}"`,
  })
  return { translator, logged }
}

describe('RFC 9457: an error as it leaves', () => {
  it.each(codes)('%s has type, title, status, code and request_id', async (code) => {
    const { translator } = create()
    const response = translator.respond(new BrokerError(code), requestId)
    expect(response.headers.get('content-type')).toBe('application/problem+json')
    expect(response.headers.get('cache-control')).toBe('no-store')
    expect(response.headers.get('x-request-id')).toBe(requestId)
    const body: unknown = await response.json()
    expect(body).toEqual({
      type: `https://broker.example.com/docs#problem-${code}`,
      title: problems[code].title,
      status: response.status,
      code,
      request_id: requestId,
    })
  })

  it.each(codes.filter((code) => problems[code].status === 503))(
    '%s says when to ask again: whole seconds, 1 to 900',
    (code) => {
      const { translator } = create()
      const retryAfter = (seconds?: number) =>
        translator
          .respond(
            new BrokerError(code, seconds === undefined ? {} : { retryAfterSeconds: seconds }),
            requestId,
          )
          .headers.get('retry-after')
      expect(retryAfter()).toMatch(/^[1-9]\d?$/)
      expect(retryAfter(0)).toBe('1')
      expect(retryAfter(2.1)).toBe('3')
      expect(retryAfter(100_000)).toBe('900')
    },
  )

  it.each(codes.filter((code) => problems[code].status === 401))(
    'RFC 9110 §15.5.2: %s names a way to authenticate, that of the refusal before the general one',
    (code) => {
      const { translator } = create()
      const challengeOf = (challenge?: string) =>
        translator
          .respond(new BrokerError(code, challenge === undefined ? {} : { challenge }), requestId)
          .headers.get('www-authenticate')
      expect(challengeOf()).toMatch(/^Bearer error=/)
      expect(challengeOf('Bearer x="y"')).toBe('Bearer x="y"')
    },
  )

  it('carries what a client can act on, and only where there is something', async () => {
    const { translator } = create()
    const error = new BrokerError('connect_required', {
      reason: 'not_connected',
      connectUrl: 'https://broker.example.com/connect/x',
    })
    expect(translator.answer(error, requestId).problem).toMatchObject({
      reason: 'not_connected',
      connect_url: 'https://broker.example.com/connect/x',
    })
    const field = new BrokerError('invalid_request', { field: 'a.b', expectation: 'Be there.' })
    expect(translator.answer(field, requestId).problem).toMatchObject({
      field: 'a.b',
      detail: 'Be there.',
    })
  })

  it.each([
    [new Error('CNRY at 10.1.2.3'), 'Error', undefined],
    [Object.assign(new Error('CNRY'), { code: '57P01' }), 'Error', '57P01'],
    [Object.assign(new Error('CNRY'), { code: 'CNRY one\ntwo' }), 'Error', undefined],
    [Object.assign(new Error('x'), { name: 'CNRY <b>' }), 'Error', undefined],
    [new BrokerError('internal_error', { cause: new RangeError('CNRY') }), 'RangeError', undefined],
    ['CNRY', 'string', undefined],
  ])(
    'turns anything else into internal_error and keeps its words: %s',
    (error, errorClass, errorCode) => {
      const { translator, logged } = create()
      const { problem } = translator.answer(error, requestId)
      expect(problem).toMatchObject({ status: 500, code: 'internal_error' })
      expect(JSON.stringify(problem)).not.toContain('CNRY')
      expect(logged).toEqual([{ event: 'request_failed', requestId, errorClass, errorCode }])
    },
  )

  it('logs nothing of a refusal that it knows', () => {
    const { translator, logged } = create()
    translator.answer(new BrokerError('storage_unavailable', { cause: new Error('x') }), requestId)
    expect(logged).toEqual([])
  })
})

describe('docs/problems.md', () => {
  it('explains every code with its status, and no other', async () => {
    const text = await readFile(new URL('../../docs/problems.md', import.meta.url), 'utf8')
    const rows = [...text.matchAll(/^\| `(\w+)` \| (\d{3}) \|/gm)]
    const explained = rows.map(([, code, status]) => `${code} ${status}`)
    const known = codes.map((code) => `${code} ${problems[code].status}`)
    expect(explained.toSorted()).toEqual(known.toSorted())
  })
})
