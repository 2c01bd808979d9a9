import { describe, expect, it } from 'vitest'
import { BrokerError } from '../../src/core/errors.ts'
import {
  ada,
  adaToken,
  bobToken,
  createHttpRoom,
  credentialOfAda,
  problemOf,
} from '../support/http-room.ts'

const headers = { authorization: `Bearer ${adaToken}` }
type List = { connections: Record<string, unknown>[] }

describe('GET /api/v1/connections', () => {
  it('M-H2: lists what the person may use, sorted, every field there', async () => {
    const { app, room } = createHttpRoom()
    room.statuses.set('files', 'connected')
    const response = await app.request('/api/v1/connections', { headers })
    expect(response.status).toBe(200)
    const { connections } = (await response.json()) as List
    expect(connections.map((one) => one['upstream'])).toEqual([
      'calendar',
      'files',
      'ledger',
      'metrics',
    ])
    expect(connections[1]).toEqual({
      upstream: 'files',
      display_name: 'Files',
      mode: 'oauth_connect',
      status: 'connected',
      reason: null,
      scopes: ['files:read'],
      audience: null,
      method: 'connect',
      account: 'ada@files',
      expires_at: '2026-11-21T13:00:00.000Z',
      connected_at: '2026-11-20T08:00:00.000Z',
      last_used_at: null,
      connect_path: '/api/v1/connections/files/connect',
    })
    expect(connections[2]).toMatchObject({ mode: 'token_exchange', connect_path: null })
  })

  it('M-H4: shows an upstream of others to them alone', async () => {
    const { app } = createHttpRoom()
    const forBob = { authorization: `Bearer ${bobToken}` }
    const response = await app.request('/api/v1/connections', { headers: forBob })
    const { connections } = (await response.json()) as List
    expect(connections.map((one) => one['upstream'])).toContain('vault')
  })

  it('M-H1: holds no token', async () => {
    const { app } = createHttpRoom()
    const text = await (await app.request('/api/v1/connections', { headers })).text()
    expect(text).not.toMatch(/token"|refresh|CNRY/i)
    expect(text).not.toContain(credentialOfAda)
  })

  it('M-H3: is 503 with Retry-After while the database is away, and works again after', async () => {
    const { services } = createHttpRoom()
    let away = true
    const { app } = createHttpRoom({
      connections: {
        ...services.connections,
        async list() {
          if (away) throw new BrokerError('storage_unavailable', { retryAfterSeconds: 2 })
          return []
        },
      },
    })
    const response = await app.request('/api/v1/connections', { headers })
    expect(response.status).toBe(503)
    expect(response.headers.get('retry-after')).toBe('2')
    expect(await problemOf(response)).toMatchObject({ code: 'storage_unavailable' })
    away = false
    expect((await app.request('/api/v1/connections', { headers })).status).toBe(200)
  })

  it('gives one; 404 for none, 403 policy_denied for one of others', async () => {
    const { app } = createHttpRoom()
    const one = await app.request('/api/v1/connections/files', { headers })
    expect(await one.json()).toMatchObject({ upstream: 'files', status: 'not_connected' })
    const none = await app.request('/api/v1/connections/nope', { headers })
    expect(none.status).toBe(404)
    expect(await problemOf(none)).toMatchObject({ code: 'unknown_upstream' })
    const others = await app.request('/api/v1/connections/vault', { headers })
    expect(others.status).toBe(403)
    expect(await problemOf(others)).toMatchObject({ code: 'policy_denied' })
  })
})

describe('POST /api/v1/connections/{upstream}/connect', () => {
  function connect(upstream: string, body?: unknown) {
    const http = createHttpRoom()
    const sent = Promise.resolve(
      http.app.request(`/api/v1/connections/${upstream}/connect`, {
        method: 'POST',
        headers,
        ...(body === undefined
          ? {}
          : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
      }),
    )
    return sent.then((response) => ({ response, room: http.room }))
  }

  it.each([undefined, {}, '{}'])('gives a link for one use: 201', async (body) => {
    const { response, room } = await connect('files', body)
    expect(response.status).toBe(201)
    expect(await response.json()).toEqual({
      connect_url: 'https://broker.example.com/connect/CNRY-ticket',
      expires_at: '2026-11-21T12:10:00.000Z',
    })
    expect(room.linked).toEqual([{ person: ada, upstream: 'files', returnTo: undefined }])
  })

  it.each([
    '/',
    '/after?x=1#y',
    '/a/../b',
    `/${'x'.repeat(2047)}`,
    'https://app.example.com',
    'https://app.example.com/done?x=1',
    'https://broker.example.com/connections',
  ])('takes return_to %s', async (returnTo) => {
    const { response, room } = await connect('files', { return_to: returnTo })
    expect(response.status).toBe(201)
    expect(room.linked).toMatchObject([{ returnTo }])
  })

  it.each([
    '',
    'after',
    '//evil.example',
    '///evil.example',
    '/\\evil.example',
    '\\\\evil.example',
    '/..//evil.example',
    '/./\t/evil.example',
    '/a\r\nLocation: https://evil.example',
    '/a\u0000',
    '/a\u0085b',
    ' /a',
    'https:evil.example',
    'https:/evil.example',
    'https://evil.example',
    'https://app.example.com.evil.example',
    'https://app.example.com@evil.example',
    'https://app.example.com:8443/',
    'http://app.example.com/',
    'HTTPS://evil.example#https://app.example.com',
    'javascript:alert(1)',
    'data:text/html,x',
    '@evil.example',
    `/${'x'.repeat(2048)}`,
  ])('C12: refuses return_to %j: 400 naming it, without showing it', async (returnTo) => {
    const { response, room } = await connect('files', { return_to: returnTo })
    expect(response.status).toBe(400)
    const text = await response.text()
    expect(JSON.parse(text)).toMatchObject({ code: 'invalid_request', field: 'return_to' })
    expect(text).not.toContain('evil')
    expect(room.linked).toEqual([])
  })

  it.each([
    [{ return_to: 7 }, 'return_to'],
    [{ returnTo: '/a' }, 'returnTo'],
    ['{', 'body'],
    ['[]', 'body'],
  ])('refuses the body %j: 400 naming %s', async (body, field) => {
    const { response } = await connect('files', body)
    expect(response.status).toBe(400)
    expect(await problemOf(response)).toMatchObject({ code: 'invalid_request', field })
  })

  it('M-H5: 409 not_connectable for a mode without connect; 404 and 403 as elsewhere', async () => {
    const exchange = await connect('ledger', { return_to: '/' })
    expect(exchange.response.status).toBe(409)
    expect(await problemOf(exchange.response)).toMatchObject({ code: 'not_connectable' })
    expect((await connect('nope')).response.status).toBe(404)
    expect((await connect('vault')).response.status).toBe(403)
  })
})

describe('PUT /api/v1/connections/{upstream}/key', () => {
  const putTo =
    (app: ReturnType<typeof createHttpRoom>['app']) =>
    (upstream: string, body: unknown = { key: 'CNRY-key' }) =>
      app.request(`/api/v1/connections/${upstream}/key`, {
        method: 'PUT',
        headers,
        body: JSON.stringify(body),
      })

  it('stores the key of the caller: 204 without a body', async () => {
    const { app, room } = createHttpRoom()
    const response = await putTo(app)('metrics')
    expect(response.status).toBe(204)
    expect(await response.text()).toBe('')
    expect(room.keys).toEqual([{ person: ada, upstream: 'metrics', key: 'CNRY-key' }])
  })

  it('refuses what is no key, naming the field and not the text', async () => {
    const { app, room } = createHttpRoom()
    const put = putTo(app)
    for (const key of ['', 'CNRY key ', 'CNRY\nkey', 'CNRY-ü', 'CNRY'.repeat(2100), 7, null]) {
      const response = await put('metrics', { key })
      expect(response.status).toBe(400)
      const text = await response.text()
      expect(text).not.toContain('CNRY')
      expect(JSON.parse(text)).toMatchObject({ code: 'invalid_request', field: 'key' })
    }
    expect((await put('metrics', { key: 'CNRY', more: 1 })).status).toBe(400)
    expect((await put('metrics', {})).status).toBe(400)
    expect(room.keys).toEqual([])
  })

  it('409 for an upstream that takes none; 404 and 403 as elsewhere', async () => {
    const { app } = createHttpRoom()
    const put = putTo(app)
    const response = await put('files')
    expect(response.status).toBe(409)
    const text = await response.text()
    expect(JSON.parse(text)).toMatchObject({
      code: 'not_connectable',
      title: 'The upstream does not get its credentials this way',
      detail: 'This upstream takes no key.',
    })
    expect(text).not.toContain('CNRY')
    expect((await put('nope')).status).toBe(404)
    expect((await put('vault')).status).toBe(403)
  })
})

describe('DELETE /api/v1/connections/{upstream}', () => {
  it("M-H3: removes the caller's own: 204 without a body", async () => {
    const { app, room } = createHttpRoom()
    const response = await app.request('/api/v1/connections/files', { method: 'DELETE', headers })
    expect(response.status).toBe(204)
    expect(await response.text()).toBe('')
    expect(room.disconnected).toEqual([
      {
        person: ada,
        actor: { kind: 'user', id: 'ada' },
        upstream: 'files',
        requestId: response.headers.get('x-request-id'),
      },
    ])
  })

  it('M-H3: 404 for an unknown upstream, 403 for one of others; nothing is removed', async () => {
    const { app, room } = createHttpRoom()
    const remove = (path: string) => app.request(path, { method: 'DELETE', headers })
    expect((await remove('/api/v1/connections/nope')).status).toBe(404)
    expect((await remove('/api/v1/connections/vault')).status).toBe(403)
    expect(room.disconnected).toEqual([])
  })
})
