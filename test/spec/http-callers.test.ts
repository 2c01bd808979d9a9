import { describe, expect, it } from 'vitest'
import {
  ada,
  adaToken,
  admin,
  adminToken,
  bob,
  createHttpRoom,
  problemOf,
  readingKey,
  serviceKey,
} from '../support/http-room.ts'

const bearer = (token: string) => ({ authorization: `Bearer ${token}` })
const metadata =
  'resource_metadata="https://broker.example.com/.well-known/oauth-protected-resource"'

describe('A person at the API', () => {
  it('comes with an access token', async () => {
    const { app } = createHttpRoom()
    const response = await app.request('/api/v1/me', { headers: bearer(adaToken) })
    expect(await response.json()).toEqual({
      issuer: ada.issuer,
      user_id: 'ada',
      email: 'ada@example.com',
      admin: false,
    })
  })

  it('or with the cookie of a browser session; an absent e-mail is null', async () => {
    const { app, room } = createHttpRoom()
    const response = await app.request('/api/v1/me', { headers: { cookie: room.cookieOf(bob) } })
    expect(await response.json()).toEqual({
      issuer: bob.issuer,
      user_id: 'bob',
      email: null,
      admin: false,
    })
  })

  it('M-H8: without either is 401, challenged without error', async () => {
    const { app } = createHttpRoom()
    const response = await app.request('/api/v1/me')
    expect(response.status).toBe(401)
    const challenge = response.headers.get('www-authenticate')
    expect(challenge).toBe(`Bearer ${metadata}, scope="broker:use"`)
    expect(await problemOf(response)).toMatchObject({ code: 'unauthenticated' })
  })

  it.each([
    ['GET', '/api/v1/connections'],
    ['GET', '/api/v1/connections/files'],
    ['DELETE', '/api/v1/connections/files'],
    ['POST', '/api/v1/connections/files/connect'],
    ['GET', '/api/v1/me/activity'],
    ['GET', '/api/v1/activity'],
  ])('M-H8: %s %s without either is 401, and does nothing', async (method, path) => {
    const { app, room } = createHttpRoom()
    for (const headers of [{}, { 'x-onbehalf-csrf': '1' }, { cookie: 'onbehalf_session=x' }]) {
      const response = await app.request(path, { method, headers })
      expect(response.status).toBe(401)
      expect(response.headers.get('www-authenticate')).toMatch(/^Bearer resource_metadata=/)
    }
    expect([room.disconnected, room.linked, room.filters]).toEqual([[], [], []])
  })

  it('M-H8: a callback without a session completes nothing', async () => {
    const { app, room } = createHttpRoom()
    const response = await app.request('/callback/files?code=c&state=s', {
      headers: { authorization: `Bearer ${adaToken}` },
    })
    expect(response.headers.get('location') ?? '').not.toContain('connected=1')
    expect(room.completed).toEqual([])
  })

  it('H-G4: with a good token reaches what was asked for, once and as nobody else; elsewhere no token is asked for', async () => {
    const { app, room } = createHttpRoom()
    const path = '/api/v1/connections/files'
    const response = await app.request(path, { method: 'DELETE', headers: bearer(adaToken) })
    expect(response.status).toBe(204)
    expect(response.headers.has('www-authenticate')).toBe(false)
    expect(room.disconnected).toMatchObject([{ person: ada, upstream: 'files' }])
    const elsewhere = await app.request('/elsewhere')
    expect(elsewhere.status).toBe(404)
    expect(elsewhere.headers.has('www-authenticate')).toBe(false)
  })

  it('with a bad token is 401, challenged with invalid_token', async () => {
    const { app } = createHttpRoom()
    const response = await app.request('/api/v1/me', { headers: bearer('CNRY-expired') })
    expect(response.status).toBe(401)
    expect(response.headers.get('www-authenticate')).toBe(
      `Bearer ${metadata}, scope="broker:use", error="invalid_token"`,
    )
  })

  it('T13: with a bad token is not saved by a good cookie', async () => {
    const { app, room } = createHttpRoom()
    const headers = { ...bearer('CNRY-expired'), cookie: room.cookieOf(ada) }
    expect((await app.request('/api/v1/me', { headers })).status).toBe(401)
    const basic = { authorization: 'Basic YTpi', cookie: room.cookieOf(ada) }
    expect((await app.request('/api/v1/me', { headers: basic })).status).toBe(401)
  })

  it('with too little scope is 403 insufficient_scope, naming it', async () => {
    const { app } = createHttpRoom()
    const response = await app.request('/api/v1/me', { headers: bearer('CNRY-narrow') })
    expect(response.status).toBe(403)
    expect(response.headers.get('www-authenticate')).toBe(
      `Bearer ${metadata}, scope="broker:use", error="insufficient_scope"`,
    )
    expect(await problemOf(response)).toMatchObject({ code: 'insufficient_scope' })
  })

  it('whose identity provider cannot be asked is 503 with Retry-After, never 401 or 500', async () => {
    const { app } = createHttpRoom()
    const response = await app.request('/api/v1/me', { headers: bearer('CNRY-outage') })
    expect(response.status).toBe(503)
    expect(response.headers.get('retry-after')).toBe('7')
    expect(response.headers.has('www-authenticate')).toBe(false)
  })

  it('is no service, whose key is not even looked at as a token', async () => {
    const { app, room } = createHttpRoom()
    expect((await app.request('/api/v1/me', { headers: bearer(serviceKey) })).status).toBe(401)
    expect(room.seenTokens).toEqual([])
  })

  it('F-6: a token in the query is never read', async () => {
    const { app, room } = createHttpRoom()
    const cookie = room.cookieOf(ada)
    for (const name of ['access_token', 'token', 'access%5Ftoken']) {
      const path = `/api/v1/me?${name}=${adaToken}`
      expect((await app.request(path)).status).toBe(401)
      expect((await app.request(path, { headers: bearer(adaToken) })).status).toBe(400)
      expect((await app.request(path, { headers: { cookie } })).status).toBe(400)
    }
    expect((await app.request('/api/v1/me?x=1', { headers: bearer(adaToken) })).status).toBe(200)
    expect(room.seenTokens).toEqual([adaToken])
  })

  it('H-G2: is not looked at for a path that no route could have', async () => {
    const { app, room } = createHttpRoom()
    const path = `/api/v1/connections/${'x'.repeat(2048)}`
    expect((await app.request(path, { headers: bearer(adaToken) })).status).toBe(404)
    expect(room.seenTokens).toEqual([])
  })

  it('F-9: a write without a token is challenged before anything else of it is judged', async () => {
    const { app } = createHttpRoom()
    const path = '/api/v1/connections/nope/connect'
    const response = await app.request(path, { method: 'POST', body: '{"return_to":' })
    expect(response.status).toBe(401)
    expect(response.headers.get('www-authenticate')).toContain(metadata)
  })

  it('T17: is nobody that a forwarded header names', async () => {
    const { app } = createHttpRoom()
    const forwarded = [
      'X-Forwarded-User',
      'X_Forwarded_User',
      'X-User',
      'X-MCP-User',
      'Remote-User',
    ]
    const headers = {
      ...bearer(adaToken),
      ...Object.fromEntries(forwarded.map((name) => [name, 'bob'])),
    }
    const response = await app.request('/api/v1/me', { headers })
    expect(await response.json()).toMatchObject({ user_id: 'ada' })
  })
})

describe('A write by session cookie needs a CSRF proof', () => {
  const own = 'https://broker.example.com'

  async function disconnect(headers: Record<string, string>) {
    const { app, room } = createHttpRoom()
    const response = await app.request('/api/v1/connections/files', {
      method: 'DELETE',
      headers: { cookie: room.cookieOf(ada), ...headers },
    })
    return { status: response.status, done: room.disconnected.length }
  }

  it.each([
    ['our Origin', { origin: own }],
    ['Sec-Fetch-Site without Origin', { 'sec-fetch-site': 'same-origin' }],
    [
      'Sec-Fetch-Site besides the Origin of a page without referrer',
      { 'sec-fetch-site': 'same-origin', origin: 'null' },
    ],
  ])('%s and X-Onbehalf-CSRF will do', async (_name, headers) => {
    const result = await disconnect({ 'x-onbehalf-csrf': '1', ...headers })
    expect(result).toEqual({ status: 204, done: 1 })
  })

  it.each([
    ['nothing', {}],
    ['our Origin alone', { origin: own }],
    ['X-Onbehalf-CSRF alone', { 'x-onbehalf-csrf': '1' }],
    ['another value', { origin: own, 'x-onbehalf-csrf': 'true' }],
    ['another Origin', { origin: 'https://evil.example', 'x-onbehalf-csrf': '1' }],
    [
      'another Origin that says same-origin',
      { origin: 'https://evil.example', 'sec-fetch-site': 'same-origin', 'x-onbehalf-csrf': '1' },
    ],
    ['an opaque Origin', { origin: 'null', 'x-onbehalf-csrf': '1' }],
    ['a sibling site', { 'sec-fetch-site': 'same-site', 'x-onbehalf-csrf': '1' }],
    ['our origin as a prefix', { origin: `${own}.evil.example`, 'x-onbehalf-csrf': '1' }],
  ])('T19: %s is 403', async (_name, headers: Record<string, string>) => {
    expect(await disconnect(headers)).toEqual({ status: 403, done: 0 })
  })

  it('a bearer needs none', async () => {
    const { app, room } = createHttpRoom()
    const response = await app.request('/api/v1/connections/files', {
      method: 'DELETE',
      headers: { ...bearer(adaToken), cookie: room.cookieOf(bob) },
    })
    expect(response.status).toBe(204)
    expect(room.disconnected).toMatchObject([{ person: ada, upstream: 'files' }])
  })
})

describe('Who reads the activity log', () => {
  it('an admin by token or session, and a service that may', async () => {
    const { app, room } = createHttpRoom()
    const callers = [bearer(adminToken), { cookie: room.cookieOf(admin) }, bearer(readingKey)]
    for (const headers of callers) {
      expect((await app.request('/api/v1/activity', { headers })).status).toBe(200)
    }
  })

  it('nobody else: 403 for a person or a service that may not, 401 for nobody', async () => {
    const { app } = createHttpRoom()
    for (const headers of [bearer(adaToken), bearer(serviceKey)]) {
      const response = await app.request('/api/v1/activity', { headers })
      expect(response.status).toBe(403)
      expect(await problemOf(response)).toMatchObject({ code: 'forbidden' })
    }
    expect((await app.request('/api/v1/activity')).status).toBe(401)
  })
})
