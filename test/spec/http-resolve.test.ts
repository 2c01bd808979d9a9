import { describe, expect, it } from 'vitest'
import { BrokerError, type ErrorDetails } from '../../src/core/errors.ts'
import {
  ada,
  adaToken,
  assertingKey,
  bobToken,
  createHttpRoom,
  credentialOfAda,
  issuer,
  narrowKey,
  problemOf,
  resolveWith,
  serviceKey,
} from '../support/http-room.ts'

const uuid = /^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/

describe('POST /api/v1/resolve: the credential', () => {
  it('gives the header to inject, its end and its fingerprint, never to be cached', async () => {
    const http = createHttpRoom()
    const response = await resolveWith(http, { upstream: 'files', subject_token: adaToken })
    expect(response.status).toBe(200)
    expect(response.headers.get('cache-control')).toBe('no-store')
    expect(response.headers.get('content-type')).toBe('application/json')
    expect(response.headers.get('x-request-id')).toMatch(uuid)
    expect(await response.json()).toEqual({
      header: 'Authorization',
      value: `Bearer ${credentialOfAda}`,
      expires_at: '2026-11-21T13:00:00.000Z',
      fingerprint: 'f1',
      max_age: 30,
    })
  })

  it('asks the resolver for exactly this person, upstream and service', async () => {
    const http = createHttpRoom()
    const requestId = '0194C0DE-0000-7000-8000-000000000001'
    await resolveWith(
      http,
      { upstream: 'files', subject_token: adaToken, rejected: 'old' },
      { headers: { 'x-request-id': requestId } },
    )
    const [asked] = http.room.asked
    expect(asked).toMatchObject({
      person: ada,
      actor: { kind: 'service', id: 'edge' },
      service: { id: 'edge' },
      upstream: { name: 'files' },
      rejected: 'old',
      requestId: requestId.toLowerCase(),
      startedAt: http.room.clock.now(),
    })
    expect(asked?.subjectToken?.reveal()).toBe(adaToken)
  })

  it('takes any text as `rejected`: what is no fingerprint of ours changes nothing', async () => {
    for (const rejected of ['', 'x'.repeat(1000), 'é']) {
      const http = createHttpRoom()
      const response = await resolveWith(http, {
        upstream: 'files',
        subject_token: adaToken,
        rejected,
      })
      expect(response.status).toBe(200)
      expect(http.room.asked[0]?.rejected).toBe(rejected)
    }
  })

  it('names the way to authenticate in every 401, also where a server refused the token of the person', async () => {
    const http = createHttpRoom()
    http.room.resolve = () => {
      throw new BrokerError('invalid_subject_token')
    }
    const response = await resolveWith(http, { upstream: 'files', subject_token: adaToken })
    expect(response.status).toBe(401)
    expect(response.headers.get('www-authenticate')).toMatch(
      /^Bearer resource_metadata="[^"]+", scope="broker:use", error="invalid_token"$/,
    )
    expect(await problemOf(response)).toMatchObject({ code: 'invalid_subject_token' })
  })

  it('waits for a resolver and an identity provider that take their time', async () => {
    const http = createHttpRoom()
    http.room.resolve = async () => ({
      header: 'X-Key',
      value: 'v',
      expiresAt: undefined,
      fingerprint: 'f2',
    })
    const response = await resolveWith(http, { upstream: 'files', subject_token: bobToken })
    expect(await response.json()).toMatchObject({ header: 'X-Key', expires_at: null })
    expect(http.room.asked[0]?.person.userId).toBe('bob')
  })

  it('never lets max_age reach past the end of the credential', async () => {
    const http = createHttpRoom()
    http.room.resolve = () => ({
      header: 'Authorization',
      value: 'v',
      expiresAt: new Date(http.room.clock.now().getTime() + 4900),
      fingerprint: 'f',
    })
    const near = await resolveWith(http, { upstream: 'files', subject_token: adaToken })
    expect(await near.json()).toMatchObject({ max_age: 4 })
    http.room.resolve = () => ({
      header: 'Authorization',
      value: 'v',
      expiresAt: http.room.clock.now(),
      fingerprint: 'f',
    })
    const over = await resolveWith(http, { upstream: 'files', subject_token: adaToken })
    expect(await over.json()).toMatchObject({ max_age: 0 })
  })

  it('says max_age 0 for a service without one', async () => {
    const http = createHttpRoom()
    const response = await resolveWith(
      http,
      { upstream: 'calendar', subject_token: adaToken },
      { key: narrowKey },
    )
    expect(await response.json()).toMatchObject({ max_age: 0 })
  })

  it('stands alone in the router: no search, and nothing runs around it', () => {
    const { app } = createHttpRoom()
    expect(app.router.match('POST', '/api/v1/resolve')[0]).toHaveLength(1)
  })

  it('takes only a UUID as the request id', async () => {
    const http = createHttpRoom()
    const body = { upstream: 'files', subject_token: adaToken }
    const sent = await resolveWith(http, body, { headers: { 'x-request-id': '{"level":50}' } })
    expect(sent.headers.get('x-request-id')).toMatch(uuid)
  })
})

describe('POST /api/v1/resolve: who calls', () => {
  const body = { upstream: 'files', subject_token: adaToken }

  it.each([
    ['no header', undefined, false],
    ['another scheme', `Basic ${serviceKey}`, false],
    ['the scheme alone', 'Bearer', false],
    ['two tokens', 'Bearer a b', true],
    ['an unknown key', 'Bearer nobody', true],
    ["a person's token", `Bearer ${adaToken}`, true],
  ])('F-5: refuses %s: 401 unauthenticated', async (_name, authorization, tokenSent) => {
    const { app, room } = createHttpRoom()
    const response = await app.request('/api/v1/resolve', {
      method: 'POST',
      headers: authorization === undefined ? {} : { authorization },
      body: JSON.stringify(body),
    })
    expect(response.status).toBe(401)
    const challenge = response.headers.get('www-authenticate') ?? ''
    expect(challenge).toContain(
      'resource_metadata="https://broker.example.com/.well-known/oauth-protected-resource"',
    )
    expect(challenge.includes('error="invalid_token"')).toBe(tokenSent)
    expect(await problemOf(response)).toMatchObject({ code: 'unauthenticated' })
    expect(room.asked).toEqual([])
    expect(room.refusals).toEqual([])
    expect(room.seenTokens).toEqual([])
  })

  it('F-5: takes the header in lower case and the scheme in any', async () => {
    const http = createHttpRoom()
    const response = await http.app.request('/api/v1/resolve', {
      method: 'POST',
      headers: { AUTHORIZATION: `bEaReR ${serviceKey}` },
      body: JSON.stringify(body),
    })
    expect(response.status).toBe(200)
  })

  it.each([`Bearer ${serviceKey}, Bearer nobody`, `Bearer nobody, Bearer ${serviceKey}`])(
    'T10: refuses two Authorization headers, in either order: 400',
    async (authorization) => {
      const http = createHttpRoom()
      const response = await resolveWith(http, body, { headers: { authorization } })
      expect(response.status).toBe(400)
      expect(await problemOf(response)).toMatchObject({
        code: 'invalid_request',
        field: 'Authorization',
      })
    },
  )

  it('F-6: refuses a key in the query, alone or besides the header; other queries are fine', async () => {
    const { app } = createHttpRoom()
    const send = (path: string, headers: Record<string, string>) =>
      app.request(path, { method: 'POST', headers, body: JSON.stringify(body) })
    const header = { authorization: `Bearer ${serviceKey}` }
    const inQuery = `/api/v1/resolve?access_token=${serviceKey}`
    expect((await send(inQuery, {})).status).toBe(401)
    const both = await send(inQuery, header)
    expect(both.status).toBe(400)
    expect(await problemOf(both)).toMatchObject({ code: 'invalid_request', field: 'access_token' })
    expect((await send('/api/v1/resolve?verbose=1', header)).status).toBe(200)
  })
})

describe('POST /api/v1/resolve: the body', () => {
  it.each([
    ['not JSON', '{"upstream":', 'body'],
    ['no object', '[]', 'body'],
    ['nothing', '', 'body'],
    ['no upstream', { subject_token: adaToken }, 'upstream'],
    ['an upstream of another type', { upstream: 7, subject_token: adaToken }, 'upstream'],
    ['a token of another type', { upstream: 'files', subject_token: {} }, 'subject_token'],
    ['an empty token', { upstream: 'files', subject_token: '' }, 'subject_token'],
    ['neither token nor user', { upstream: 'files' }, 'subject_token'],
    ['both', { upstream: 'files', subject_token: adaToken, user: { issuer, id: 'ada' } }, 'user'],
    ['half a user', { upstream: 'files', user: { issuer } }, 'user.id'],
    ['M-R6: an empty person', { upstream: 'files', user: { issuer, id: '' } }, 'user.id'],
    [
      'M-R6: a person of nobody',
      { upstream: 'files', user: { issuer: '', id: 'a' } },
      'user.issuer',
    ],
    ['a stranger in user', { upstream: 'files', user: { issuer, id: 'a', x: 1 } }, 'user.x'],
    [
      'a control character in the id',
      { upstream: 'files', user: { issuer, id: 'a\u0000b' } },
      'user.id',
    ],
    [
      'half a surrogate pair in the id',
      '{"upstream":"files","user":{"issuer":"https://login.example.com","id":"a\\ud800"}}',
      'user.id',
    ],
    [
      'a fingerprint that is no text',
      { upstream: 'files', subject_token: adaToken, rejected: 5 },
      'rejected',
    ],
    ['an unknown field', { upstream: 'files', subject_token: adaToken, cache: true }, 'cache'],
    ['a prototype', '{"upstream":"files","subject_token":"t","__proto__":{"a":1}}', 'body'],
  ])('refuses %s: 400 naming the field, leaving no record', async (_name, body, field) => {
    const http = createHttpRoom()
    const response = await resolveWith(http, body, { key: assertingKey })
    expect(response.status).toBe(400)
    expect(await problemOf(response)).toMatchObject({ code: 'invalid_request', field })
    expect(http.room.refusals).toEqual([])
    expect(http.room.asked).toEqual([])
  })

  it('refuses more than 64 KiB: 400, and takes as much', async () => {
    const http = createHttpRoom()
    const frame = JSON.stringify({ upstream: 'files', subject_token: '' }).length
    const fitting = { upstream: 'files', subject_token: 'x'.repeat(64 * 1024 - frame) }
    expect((await resolveWith(http, fitting)).status).toBe(401)
    const response = await resolveWith(http, {
      upstream: 'files',
      subject_token: `${fitting.subject_token}x`,
    })
    expect(response.status).toBe(400)
    expect(await problemOf(response)).toMatchObject({ code: 'invalid_request', field: 'body' })
  })

  it('shows nothing of a field that does not look like a name', async () => {
    const http = createHttpRoom()
    const hostile = '<script>alert(1)</script>'
    const response = await resolveWith(http, { upstream: 'files', [hostile]: 1 })
    const text = await response.text()
    expect(response.status).toBe(400)
    expect(text).not.toContain('script')
    expect(JSON.parse(text)).toMatchObject({ field: 'body' })
  })
})

describe('POST /api/v1/resolve: refusals before the resolver leave one record each', () => {
  it('M-R7: 404 unknown_upstream, whose name is not recorded', async () => {
    const http = createHttpRoom()
    const response = await resolveWith(http, { upstream: 'nope', subject_token: adaToken })
    expect(response.status).toBe(404)
    expect(await problemOf(response)).toMatchObject({ code: 'unknown_upstream' })
    expect(http.room.refusals).toMatchObject([
      {
        reason: 'unknown_upstream',
        upstream: undefined,
        person: undefined,
        actor: { kind: 'service', id: 'edge' },
        requestId: response.headers.get('x-request-id'),
      },
    ])
    // The person is not even looked at.
    expect(http.room.seenTokens).toEqual([])
  })

  it('P11: 403 upstream_not_allowed for a service that may use others', async () => {
    const http = createHttpRoom()
    const body = { upstream: 'files', subject_token: adaToken }
    const response = await resolveWith(http, body, { key: narrowKey })
    expect(response.status).toBe(403)
    expect(await problemOf(response)).toMatchObject({ code: 'upstream_not_allowed' })
    expect(http.room.refusals).toMatchObject([
      { reason: 'upstream_not_allowed', upstream: { name: 'files' }, person: undefined },
    ])
  })

  it.each([
    ['a bad one', 'CNRY-expired'],
    ['one that lacks a scope', 'CNRY-narrow'],
    ['a service key', serviceKey],
  ])('401 invalid_subject_token for %s', async (_name, token) => {
    const http = createHttpRoom()
    const response = await resolveWith(http, { upstream: 'files', subject_token: token })
    expect(response.status).toBe(401)
    expect(response.headers.get('www-authenticate')).toContain('error="invalid_token"')
    const text = await response.text()
    expect(JSON.parse(text)).toMatchObject({ code: 'invalid_subject_token' })
    expect(text).not.toContain(token)
    expect(http.room.refusals).toMatchObject([
      { reason: 'invalid_subject_token', upstream: { name: 'files' }, person: undefined },
    ])
    expect(http.room.asked).toEqual([])
  })

  it('503 issuer_unavailable with Retry-After when the identity provider cannot be asked', async () => {
    const http = createHttpRoom()
    const response = await resolveWith(http, { upstream: 'files', subject_token: 'CNRY-outage' })
    expect(response.status).toBe(503)
    expect(response.headers.get('retry-after')).toBe('7')
    expect(await problemOf(response)).toMatchObject({ code: 'issuer_unavailable' })
    expect(http.room.refusals).toMatchObject([{ reason: 'issuer_unavailable' }])
  })

  it('M-R7: 503 audit_unavailable before anything else is done, when no record can be taken', async () => {
    const http = createHttpRoom()
    http.room.admit = () => {
      throw new BrokerError('audit_unavailable')
    }
    const response = await resolveWith(http, { upstream: 'files', subject_token: adaToken })
    expect(response.status).toBe(503)
    expect(response.headers.get('retry-after')).toMatch(/^\d+$/)
    expect(await problemOf(response)).toMatchObject({ code: 'audit_unavailable' })
    expect(http.room.seenTokens).toEqual([])
    expect(http.room.asked).toEqual([])
  })
})

describe('POST /api/v1/resolve: an asserted person', () => {
  const body = { upstream: 'files', user: { issuer, id: 'carol' } }

  it('is taken from a service with may_assert_user', async () => {
    const http = createHttpRoom()
    const response = await resolveWith(http, body, { key: assertingKey })
    expect(response.status).toBe(200)
    expect(http.room.asked).toMatchObject([
      { person: { issuer, userId: 'carol', identity: 'asserted', admin: false, roles: [] } },
    ])
    expect(http.room.asked[0]?.subjectToken).toBeUndefined()
  })

  it('is refused from any other: 403 forbidden, with a record', async () => {
    const http = createHttpRoom()
    const response = await resolveWith(http, body)
    expect(response.status).toBe(403)
    expect(await problemOf(response)).toMatchObject({ code: 'forbidden', field: 'user' })
    expect(http.room.refusals).toMatchObject([{ reason: 'forbidden', person: undefined }])
    expect(http.room.asked).toEqual([])
  })

  it('of an issuer that is not configured: 400 naming user.issuer, without a record', async () => {
    const http = createHttpRoom()
    const stranger = { upstream: 'files', user: { issuer: 'https://evil.example', id: 'carol' } }
    const response = await resolveWith(http, stranger, { key: assertingKey })
    expect(response.status).toBe(400)
    const text = await response.text()
    expect(JSON.parse(text)).toMatchObject({ code: 'invalid_request', field: 'user.issuer' })
    expect(text).not.toContain('evil')
    expect(http.room.refusals).toEqual([])
  })
})

describe('POST /api/v1/resolve: what the resolver refuses', () => {
  it.each<[number, ConstructorParameters<typeof BrokerError>[0], ErrorDetails]>([
    [403, 'policy_denied', {}],
    [502, 'upstream_misconfigured', {}],
    [503, 'upstream_unavailable', { retryAfterSeconds: 900 }],
    [503, 'storage_unavailable', {}],
    [503, 'credential_corrupt', {}],
    [401, 'invalid_subject_token', {}],
  ])('%s %s, recorded by the resolver alone', async (status, code, details) => {
    const http = createHttpRoom()
    http.room.resolve = async () => {
      throw new BrokerError(code, details)
    }
    const response = await resolveWith(http, { upstream: 'files', subject_token: adaToken })
    expect(response.status).toBe(status)
    expect(response.headers.get('cache-control')).toBe('no-store')
    expect(await problemOf(response)).toMatchObject({ code, status })
    if (status === 503) expect(response.headers.get('retry-after')).toMatch(/^[1-9]\d*$/)
    else expect(response.headers.has('retry-after')).toBe(false)
    expect(http.room.refusals).toEqual([])
  })

  it('403 connect_required with the reason and where to connect', async () => {
    const http = createHttpRoom()
    const connectUrl = 'https://broker.example.com/connect/abc'
    http.room.resolve = () => {
      throw new BrokerError('connect_required', { reason: 'refresh_failed', connectUrl })
    }
    const response = await resolveWith(http, { upstream: 'files', subject_token: adaToken })
    expect(response.status).toBe(403)
    expect(await problemOf(response)).toMatchObject({
      code: 'connect_required',
      reason: 'refresh_failed',
      connect_url: connectUrl,
      request_id: response.headers.get('x-request-id'),
    })
  })

  it('P23: 500 internal_error without a word of what happened, logged by class and code', async () => {
    const http = createHttpRoom()
    http.room.resolve = async () => {
      throw Object.assign(new TypeError(`CNRY ${credentialOfAda} at 10.0.0.7:5432`), {
        code: 'ECONNREFUSED',
      })
    }
    const response = await resolveWith(http, { upstream: 'files', subject_token: adaToken })
    expect(response.status).toBe(500)
    const text = await response.text()
    expect(text).not.toMatch(/CNRY|10\.0\.0\.7|ECONNREFUSED|TypeError/)
    expect(JSON.parse(text)).toMatchObject({ code: 'internal_error' })
    expect(http.room.logged).toEqual([
      {
        event: 'request_failed',
        requestId: response.headers.get('x-request-id'),
        errorClass: 'TypeError',
        errorCode: 'ECONNREFUSED',
      },
    ])
  })
})

describe('POST /api/v1/resolve: methods', () => {
  it.each(['GET', 'HEAD', 'PUT', 'DELETE', 'PATCH', 'OPTIONS'])(
    'P24: %s is 405 with Allow',
    async (method) => {
      const { app } = createHttpRoom()
      const response = await app.request('/api/v1/resolve', { method })
      expect(response.status).toBe(405)
      expect(response.headers.get('allow')).toBe('POST')
    },
  )
})
