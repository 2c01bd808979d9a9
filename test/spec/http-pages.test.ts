import { describe, expect, it } from 'vitest'
import { BrokerError } from '../../src/core/errors.ts'
import { Secret } from '../../src/core/secret.ts'
import {
  ada,
  adaToken,
  admin,
  createHttpRoom,
  type HttpRoom,
  person,
  problemOf,
  upstream,
} from '../support/http-room.ts'

const own = 'https://broker.example.com'
const html = { accept: 'text/html,application/xhtml+xml;q=0.9,*/*;q=0.8' }

/** A browser that is signed in as `of`. */
function browserOf({ app, room }: HttpRoom, of = ada) {
  const cookie = room.cookieOf(of)
  return {
    get: async (path: string) => app.request(path, { headers: { ...html, cookie } }),
    post: async (
      path: string,
      form: Record<string, string> = { csrf_token: room.csrfOf(of) },
      headers: Record<string, string> = { origin: own },
    ) =>
      app.request(path, {
        method: 'POST',
        headers: {
          ...html,
          cookie: `${cookie}; __Host-onbehalf_browser=${'b'.repeat(43)}`,
          'content-type': 'application/x-www-form-urlencoded',
          ...headers,
        },
        body: new URLSearchParams(form).toString(),
      }),
  }
}

describe('A page opened without a session', () => {
  it.each(['/connections', '/connections?upstream=files&connected=1', '/connect/abc', '/activity'])(
    '%s redirects to the identity provider at once and comes back',
    async (path) => {
      const { app, room } = createHttpRoom()
      const response = await app.request(path, { headers: html })
      expect(response.status).toBe(303)
      expect(response.headers.get('location')).toMatch(/^https:\/\/login\.example\.com\/authorize/)
      expect(response.headers.get('cache-control')).toBe('no-store')
      const cookie = response.headers.get('set-cookie') ?? ''
      expect(cookie).toMatch(
        /^__Host-onbehalf_browser=[\w-]{43}; Max-Age=3600; Path=\/; HttpOnly; Secure; SameSite=Lax$/,
      )
      const browser = /=([\w-]+)/.exec(cookie)?.[1]
      expect(room.signIns).toEqual([{ returnTo: path, browser, claims: undefined }])
    },
  )

  it('comes back to a path of ours, whatever the request line said', async () => {
    const { app, room } = createHttpRoom()
    await app.request('http://evil.example//evil.example/connections', { headers: html })
    await app.request('http://evil.example/connections', { headers: html })
    expect(room.signIns.map(({ returnTo }) => returnTo)).toEqual(['/connections'])
  })

  it('begins no sign-in for HEAD', async () => {
    const { app, room } = createHttpRoom()
    expect((await app.request('/connections', { method: 'HEAD' })).status).toBe(401)
    expect(room.signIns).toEqual([])
  })

  it('takes no bearer instead', async () => {
    const { app } = createHttpRoom()
    const headers = { authorization: `Bearer ${adaToken}` }
    expect((await app.request('/connections', { headers })).status).toBe(303)
  })

  it('keeps the value of a browser that has one, so that several flows can be open', async () => {
    const { app, room } = createHttpRoom()
    const browser = 'x'.repeat(43)
    const cookie = `__Host-onbehalf_browser=${browser}`
    await app.request('/connections', { headers: { ...html, cookie } })
    await app.request('/connections', {
      headers: { ...html, cookie: '__Host-onbehalf_browser=short' },
    })
    expect(room.signIns[0]?.browser).toBe(browser)
    expect(room.signIns[1]?.browser).toMatch(/^[\w-]{43}$/)
    expect(room.signIns[1]?.browser).not.toBe('short')
  })

  it('without identity.login is a clear problem, as a page and as JSON', async () => {
    const { app } = createHttpRoom({ signIn: undefined })
    for (const path of ['/connections', '/connect/x', '/activity', '/login', '/callback/files']) {
      const page = await app.request(path, { headers: html })
      expect(page.status).toBe(404)
      expect(await page.text()).toContain('identity.login')
      const json = await app.request(path)
      expect(await problemOf(json)).toMatchObject({ code: 'not_found', field: 'identity.login' })
    }
  })
})

describe('Sign-in', () => {
  it('/login goes to the identity provider and remembers where to come back', async () => {
    const { app, room } = createHttpRoom()
    const response = await app.request('/login?return_to=/activity')
    expect(response.status).toBe(303)
    expect(room.signIns).toMatchObject([{ returnTo: '/activity' }])
  })

  it.each(['//evil.example', 'https://app.example.com/', '/\\evil.example', ''])(
    '/login refuses return_to %j',
    async (returnTo) => {
      const { app, room } = createHttpRoom()
      const response = await app.request(`/login?return_to=${encodeURIComponent(returnTo)}`)
      expect(response.status).toBe(400)
      expect(await problemOf(response)).toMatchObject({ field: 'return_to' })
      expect(room.signIns).toEqual([])
    },
  )

  it('comes back to a session: HttpOnly, Lax, for this host alone, as long as configured', async () => {
    const { app, room } = createHttpRoom()
    const before = room.cookieOf(person('before'))
    const response = await app.request('/login/callback?code=c&state=s', {
      headers: { cookie: `${before}; __Host-onbehalf_browser=${'b'.repeat(43)}` },
    })
    expect(response.status).toBe(303)
    expect(response.headers.get('location')).toBe('/connections')
    expect(response.headers.get('set-cookie')).toBe(
      '__Host-onbehalf_session=session-ada; Max-Age=43200; Path=/; HttpOnly; Secure; SameSite=Lax',
    )
    // Whoever was signed in before is out.
    expect((await app.request('/api/v1/me', { headers: { cookie: before } })).status).toBe(401)
  })

  it('on loopback without TLS uses cookies that such a browser takes', async () => {
    const { app } = createHttpRoom({ publicUrl: 'http://127.0.0.1:8080' })
    const response = await app.request('/login/callback?code=c&state=s', {
      headers: { cookie: `onbehalf_browser=${'b'.repeat(43)}` },
    })
    expect(response.headers.get('set-cookie')).toBe(
      'onbehalf_session=session-ada; Max-Age=43200; Path=/; HttpOnly; SameSite=Lax',
    )
  })

  it.each([
    ['without the browser that began it', '/login/callback?code=c&state=s', '', 401],
    ['with a repeated parameter', '/login/callback?code=c&state=s&state=t', 'b'.repeat(43), 400],
  ])('is refused %s', async (_name, path, browser, status) => {
    const { app, room } = createHttpRoom()
    const headers = browser === '' ? {} : { cookie: `__Host-onbehalf_browser=${browser}` }
    const response = await app.request(path, { headers })
    expect(response.status).toBe(status)
    expect(response.headers.has('set-cookie')).toBe(false)
    expect(room.sessions.size).toBe(0)
  })

  it('shows a browser where to begin again, whatever ended the sign-in', async () => {
    const { app } = createHttpRoom()
    const response = await app.request('/login/callback?code=c&state=s&state=t', {
      headers: { accept: 'text/html', cookie: `__Host-onbehalf_browser=${'b'.repeat(43)}` },
    })
    expect(response.status).toBe(400)
    expect(await response.text()).toContain('href="/login">')
  })

  it.each(['HEAD', 'POST'])('does nothing on %s', async (method) => {
    const { app, room } = createHttpRoom()
    const headers = { cookie: `__Host-onbehalf_browser=${'b'.repeat(43)}` }
    for (const path of ['/login/callback?code=c&state=s', '/login']) {
      expect((await app.request(path, { method, headers })).status).toBe(405)
    }
    expect(room.sessions.size).toBe(0)
    expect(room.signIns).toEqual([])
  })
})

describe('POST /logout', () => {
  it('ends the session: by the form, and by JSON', async () => {
    const http = createHttpRoom()
    const form = await browserOf(http).post('/logout')
    expect(form.status).toBe(303)
    expect(form.headers.get('location')).toBe('/signed-out')
    expect(form.headers.get('set-cookie')).toMatch(/^__Host-onbehalf_session=; Max-Age=0; .*Secure/)
    expect(http.room.sessions.size).toBe(0)
    const json = await http.app.request('/logout', {
      method: 'POST',
      headers: { cookie: http.room.cookieOf(ada), origin: own, 'x-onbehalf-csrf': '1' },
    })
    expect(json.status).toBe(204)
    expect(http.room.sessions.size).toBe(0)
  })

  it('needs the CSRF proof', async () => {
    const http = createHttpRoom()
    const browser = browserOf(http)
    expect((await browser.post('/logout', { csrf_token: 'x' })).status).toBe(403)
    expect((await browser.post('/logout', {})).status).toBe(403)
    const elsewhere = await browser.post('/logout', undefined, { origin: 'https://evil.example' })
    expect(elsewhere.status).toBe(403)
    expect(http.room.sessions.size).toBe(1)
  })

  it('M-L1: removes no cookie that it was not shown, as when another site posts: Lax keeps it back', async () => {
    const http = createHttpRoom()
    http.room.cookieOf(ada)
    for (const headers of [{ origin: 'https://evil.example' }, { 'x-onbehalf-csrf': '1' }]) {
      const response = await http.app.request('/logout', { method: 'POST', headers })
      expect(response.status).toBeLessThan(400)
      expect(response.headers.get('set-cookie')).toBeNull()
    }
    expect(http.room.sessions.size).toBe(1)
    const cookie = '__Host-onbehalf_session=session-that-ended'
    const ended = await http.app.request('/logout', { method: 'POST', headers: { cookie } })
    expect(ended.headers.get('set-cookie')).toMatch(/^__Host-onbehalf_session=; Max-Age=0;/)
  })

  it('says so on a page that asks nobody to sign in', async () => {
    const { app } = createHttpRoom()
    const response = await app.request('/signed-out')
    expect(response.status).toBe(200)
    expect(await response.text()).toContain('You are signed out')
  })
})

describe('/connections', () => {
  it('names the person and says in words how each connection is', async () => {
    const http = createHttpRoom()
    http.room.statuses.set('files', 'reconnect_required')
    const response = await browserOf(http).get('/connections')
    expect(response.status).toBe(200)
    const text = await response.text()
    expect(text).toContain('ada@example.com')
    expect(text).toContain('Needs you again')
    expect(text).toContain('Works through your sign-in')
    expect(text).toContain('action="/connections/files/connect"')
    expect(text).toContain('action="/connections/files/disconnect"')
    expect(text).not.toContain('action="/connections/calendar/disconnect"')
    expect(text).not.toContain('Vault')
    expect(text).not.toContain('href="/activity"')
  })

  it.each(['not_connected', 'expired'] as const)(
    'asks nobody to connect an exchange that is %s',
    async (status) => {
      const http = createHttpRoom()
      http.room.statuses.set('ledger', status)
      const text = await (await browserOf(http).get('/connections')).text()
      const card = text.split('<li class="card">').find((part) => part.includes('Ledger'))
      expect(card).toContain('<span class="status not_connected">Ready</span>')
      expect(card).toContain('Works through your sign-in')
      expect(card).not.toMatch(/Ended|Not connected|Please connect again/)
    },
  )

  it('escapes what the configuration calls an upstream', async () => {
    const text = await (await browserOf(createHttpRoom()).get('/connections')).text()
    expect(text).toContain('&lt;b&gt;Calendar&lt;/b&gt; &amp; Co')
    expect(text).not.toContain('<b>Calendar')
  })

  it.each([
    ['upstream=files&connected=1', 'is connected.'],
    ['upstream=files&disconnected=1', 'is disconnected'],
    ['upstream=files&error=access_denied', 'Access was not granted.'],
    ['upstream=files&error=server_error', 'Its server had a fault.'],
    ['error=made_up', 'Its server did not allow it.'],
  ])('M-H6, M-H7: says what happened: %s', async (query, words) => {
    const text = await (await browserOf(createHttpRoom()).get(`/connections?${query}`)).text()
    expect(text).toContain(words)
  })

  it('says nothing for an upstream that is unknown or of others', async () => {
    const browser = browserOf(createHttpRoom())
    for (const name of ['nope', 'vault']) {
      const text = await (await browser.get(`/connections?upstream=${name}&connected=1`)).text()
      expect(text).not.toContain('is connected.')
    }
  })

  it('its buttons connect and disconnect', async () => {
    const http = createHttpRoom()
    const browser = browserOf(http)
    const connect = await browser.post('/connections/files/connect')
    expect(connect.status).toBe(303)
    expect(connect.headers.get('location')).toBe(`${own}/connect/CNRY-ticket`)
    expect(http.room.linked).toMatchObject([{ person: ada, upstream: 'files' }])
    const disconnect = await browser.post('/connections/files/disconnect')
    expect(disconnect.status).toBe(303)
    expect(disconnect.headers.get('location')).toBe('/connections?upstream=files&disconnected=1')
    expect(http.room.disconnected).toMatchObject([{ person: ada, upstream: 'files' }])
  })

  it('an upstream that takes a key has a form for it, and what is pasted may bring blanks along', async () => {
    const http = createHttpRoom()
    const browser = browserOf(http)
    const page = await (await browser.get('/connections')).text()
    expect(page).toContain('action="/connections/metrics/key"')
    expect(page).toMatch(/<input type="password" name="key"[^>]*autocomplete="off"/)
    const good = { csrf_token: http.room.csrfOf(ada), key: ' CNRY-key\r\n' }
    const stored = await browser.post('/connections/metrics/key', good)
    expect(stored.status).toBe(303)
    expect(stored.headers.get('location')).toBe('/connections?upstream=metrics&connected=1')
    expect(http.room.keys).toEqual([{ person: ada, upstream: 'metrics', key: 'CNRY-key' }])
    expect((await browser.post('/connections/metrics/key', { key: 'CNRY' })).status).toBe(403)
    const refused = await browser.post('/connections/metrics/key', { ...good, key: 'CNRY ü' })
    expect(refused.status).toBe(400)
    expect(await refused.text()).not.toContain('CNRY')
    expect((await browser.post('/connections/files/key', good)).status).toBe(409)
    expect(http.room.keys).toHaveLength(1)
  })

  it('its buttons need the token of the form, our origin, and a session', async () => {
    const http = createHttpRoom()
    const browser = browserOf(http)
    const good = { csrf_token: http.room.csrfOf(ada) }
    const path = '/connections/files/disconnect'
    const statuses = [
      (await browser.post(path, {})).status,
      (await browser.post(path, { csrf_token: http.room.csrfOf(admin) })).status,
      (await browser.post(path, good, {})).status,
      (await browser.post(path, good, { origin: 'https://evil.example' })).status,
      // The proof of JSON is none for a form.
      (await browser.post(path, {}, { origin: own, 'x-onbehalf-csrf': '1' })).status,
      (await http.app.request(path, { method: 'POST', headers: { origin: own } })).status,
    ]
    expect(statuses).toEqual([403, 403, 403, 403, 403, 401])
    expect(http.room.disconnected).toEqual([])
  })
})

describe('/connect/{ticket}', () => {
  it('names the person, the upstream, its authorization server and the scopes, and is one form', async () => {
    const http = createHttpRoom()
    const response = await browserOf(http).get('/connect/CNRY-ticket')
    expect(response.status).toBe(200)
    const text = await response.text()
    for (const shown of [
      'ada@example.com',
      'Files',
      'as.example.com',
      'files:read',
      'files:write',
    ]) {
      expect(text).toContain(shown)
    }
    expect(text.match(/<form/g)).toHaveLength(1)
    expect(text).toContain('<form method="post" action="/connect/CNRY-ticket"')
    expect(text.match(/type="submit"/g)).toHaveLength(1)
    expect(text).toContain(`name="csrf_token" value="${http.room.csrfOf(ada)}"`)
  })

  it('goes to the authorization server on POST alone: 303', async () => {
    const http = createHttpRoom()
    const response = await browserOf(http).post('/connect/CNRY-ticket')
    expect(response.status).toBe(303)
    expect(response.headers.get('location')).toBe('https://as.example.com/authorize?state=s')
    expect(response.headers.get('set-cookie')).toMatch(/^__Host-onbehalf_browser=b{43};/)
  })

  it('C2: needs the token of the form', async () => {
    const http = createHttpRoom()
    let confirmed = 0
    http.room.confirm = () => {
      confirmed += 1
      return { kind: 'authorize', url: new URL('https://as.example.com/') }
    }
    expect((await browserOf(http).post('/connect/x', {})).status).toBe(403)
    expect((await browserOf(http).post('/connect/x', undefined, {})).status).toBe(403)
    expect(confirmed).toBe(0)
  })

  it("C2: refuses somebody else's link with 403 and names who is signed in", async () => {
    const http = createHttpRoom()
    http.room.view = () => {
      throw new BrokerError('connect_wrong_person')
    }
    const response = await browserOf(http).get('/connect/x')
    expect(response.status).toBe(403)
    const text = await response.text()
    expect(text).toContain('This link is for somebody else')
    expect(text).toContain('ada@example.com')
    expect(text).toContain('action="/logout"')
  })

  it('says of a used link that the person is connected, and leads to /connections', async () => {
    const http = createHttpRoom()
    http.room.view = () => ({ kind: 'already_connected', upstream: upstream('files') })
    const text = await (await browserOf(http).get('/connect/x')).text()
    expect(text).toContain('Files is connected')
    expect(text).toContain('href="/connections"')
    // Pressed twice: the second press finds the link used.
    http.room.confirm = () => {
      throw new BrokerError('connect_link_invalid')
    }
    const pressed = await browserOf(http).post('/connect/x')
    expect(pressed.status).toBe(200)
    expect(await pressed.text()).toContain('Files is connected')
  })

  it('says of an ended or unknown link what it is', async () => {
    const http = createHttpRoom()
    const refuse = () => {
      throw new BrokerError('connect_link_invalid')
    }
    Object.assign(http.room, { view: refuse, confirm: refuse })
    for (const response of [
      await browserOf(http).get('/connect/x'),
      await browserOf(http).post('/connect/x'),
    ]) {
      expect(response.status).toBe(400)
      expect(await response.text()).toContain('does not work any more')
    }
  })

  it('signs the person in again with the challenge of the directory, kept on our side', async () => {
    const http = createHttpRoom()
    http.room.view = () => ({ kind: 'sign_in_again', upstream: upstream('files') })
    http.room.confirm = () => ({
      kind: 'sign_in',
      claims: new Secret('{"CNRY":1}'),
      returnTo: '/connections?upstream=files&connected=1',
    })
    const page = await (await browserOf(http).get('/connect/x')).text()
    expect(page).toContain('You sign in once more')
    expect(page).not.toContain('CNRY')
    const response = await browserOf(http).post('/connect/x')
    expect(response.status).toBe(303)
    expect(response.headers.get('location')).toMatch(/^https:\/\/login\.example\.com\//)
    expect(http.room.signIns).toEqual([
      {
        returnTo: '/connections?upstream=files&connected=1',
        browser: 'b'.repeat(43),
        claims: '{"CNRY":1}',
      },
    ])
  })

  it('does nothing on HEAD', async () => {
    const http = createHttpRoom()
    const response = await http.app.request('/connect/x', {
      method: 'HEAD',
      headers: { cookie: http.room.cookieOf(ada) },
    })
    expect(response.status).toBe(200)
    expect(http.room.signIns).toEqual([])
  })
})

describe('/callback/{upstream}', () => {
  const path = '/callback/files?code=CNRY-code&state=s'

  async function callback(
    http: HttpRoom,
    options: { path?: string; method?: string; cookie?: string } = {},
  ) {
    return http.app.request(options.path ?? path, {
      method: options.method ?? 'GET',
      headers: {
        ...html,
        cookie:
          options.cookie ?? `${http.room.cookieOf(ada)}; __Host-onbehalf_browser=${'b'.repeat(43)}`,
      },
    })
  }

  it('completes for this person and browser and goes on: 303', async () => {
    const http = createHttpRoom()
    const response = await callback(http)
    expect(response.status).toBe(303)
    expect(response.headers.get('location')).toBe('/connections?upstream=files&connected=1')
    expect(response.headers.get('referrer-policy')).toBe('no-referrer')
    expect(http.room.completed).toEqual([
      { params: 'code=CNRY-code&state=s', browser: 'b'.repeat(43), person: ada },
    ])
  })

  it.each(['HEAD', 'POST', 'PUT'])('C15: changes nothing on %s: 405', async (method) => {
    const http = createHttpRoom()
    expect((await callback(http, { method })).status).toBe(405)
    expect(http.room.completed).toEqual([])
  })

  it.each(['code=a&code=b&state=s', 'code=a&state=s&state=s', 'code=a&state=s&x=1&x=1'])(
    'C15: refuses a repeated parameter: %s',
    async (query) => {
      const http = createHttpRoom()
      expect((await callback(http, { path: `/callback/files?${query}` })).status).toBe(400)
      expect(http.room.completed).toEqual([])
    },
  )

  it('C3: needs the session: nobody else can finish it, nor use it up', async () => {
    const http = createHttpRoom()
    const cookie = `__Host-onbehalf_browser=${'b'.repeat(43)}`
    const response = await callback(http, { cookie })
    expect(response.status).toBe(401)
    const text = await response.text()
    expect(text).toContain('href="/login"')
    expect(text).not.toContain('CNRY')
    expect(http.room.completed).toEqual([])
    expect(http.room.signIns).toEqual([])
  })

  it('404 for an unknown upstream, 403 for one of others', async () => {
    const http = createHttpRoom()
    expect((await callback(http, { path: '/callback/nope?code=c&state=s' })).status).toBe(404)
    expect((await callback(http, { path: '/callback/vault?code=c&state=s' })).status).toBe(403)
    expect(http.room.completed).toEqual([])
  })

  it('answers a program with a problem and a browser with a page', async () => {
    const http = createHttpRoom()
    http.room.complete = () => {
      throw new BrokerError('connect_link_invalid')
    }
    const page = await callback(http)
    expect(page.status).toBe(400)
    expect(page.headers.get('content-type')).toContain('text/html')
    const program = await http.app.request(path, { headers: { cookie: http.room.cookieOf(ada) } })
    expect(await problemOf(program)).toMatchObject({ code: 'connect_link_invalid' })
  })
})

describe('/activity', () => {
  const record = {
    id: '0194c0de-0000-7000-8000-00000000000a',
    occurredAt: new Date('2026-11-21T11:00:00.123Z'),
    requestId: '0194c0de-0000-4000-8000-00000000000b',
    type: 'credential_broker',
    userId: '<i>ada</i>',
    issuer: 'https://login.example.com',
    actor: { kind: 'service', id: 'edge' },
    upstream: 'files',
    action: 'inject',
    method: 'connect',
    outcome: 'success',
    reason: null,
    durationMs: 1.25,
    details: { identity: 'token' },
  } as const

  it('shows an admin the records, filtered as asked', async () => {
    const http = createHttpRoom()
    http.room.records.push(record)
    const path = '/activity?user_id=ada&upstream=&outcome=success&since=2026-11-01&reason=&limit=20'
    const response = await browserOf(http, admin).get(path)
    expect(response.status).toBe(200)
    const text = await response.text()
    expect(text).toContain('2026-11-21 11:00:00.123')
    expect(text, 'whole milliseconds').toContain('<td class="number">1</td>')
    expect(text).toContain('service edge')
    expect(text).toContain('&lt;i&gt;ada&lt;/i&gt;')
    expect(text).toContain('<option selected>success</option>')
    expect(text, 'all that fit, wherever the page is').toContain(
      'href="/api/v1/activity/export?user_id=ada&amp;outcome=success&amp;since=2026-11-01&amp;format=csv"',
    )
    expect(http.room.filters).toEqual([
      { userId: ['ada'], outcome: ['success'], since: new Date('2026-11-01T00:00:00Z') },
    ])
  })

  it('says which filter is not as it should be', async () => {
    const http = createHttpRoom()
    const response = await browserOf(http, admin).get('/activity?outcome=maybe')
    expect(response.status).toBe(400)
    expect(await response.text()).toContain('<code>outcome</code>')
    expect(http.room.filters).toEqual([])
  })

  it('says what a time is to look like, and leads from a record to all of its request', async () => {
    const http = createHttpRoom()
    http.room.records.push(record)
    const refused = await browserOf(http, admin).get('/activity?since=yesterday')
    expect(await refused.text()).toContain('such as 2026-03-01 or 2026-03-01T09:00:00Z')
    const page = await browserOf(http, admin).get('/activity')
    expect(await page.text()).toContain(`href="/activity?request_id=${record.requestId}"`)
  })

  it('is for admins: 403 for anybody else', async () => {
    const http = createHttpRoom()
    const response = await browserOf(http).get('/activity')
    expect(response.status).toBe(403)
    expect(await response.text()).toContain('Only admins may read the activity log.')
    expect(http.room.filters).toEqual([])
  })
})

describe('Every page', () => {
  it('C17: is not kept, not framed, without a script, and sends no referrer', async () => {
    const http = createHttpRoom()
    http.room.cookieOf(admin)
    const browser = browserOf(http, admin)
    const paths = ['/connections', '/connect/x', '/activity', '/docs', '/signed-out', '/nowhere']
    for (const path of paths) {
      const response = await browser.get(path)
      const { headers } = response
      expect(headers.get('cache-control'), path).toBe('no-store')
      expect(headers.get('x-frame-options'), path).toBe('DENY')
      expect(headers.get('referrer-policy'), path).toBe('no-referrer')
      expect(headers.get('content-security-policy'), path).toMatch(
        /^default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'.*; base-uri 'none'; frame-ancestors 'none'$/,
      )
      const text = await response.text()
      expect(text, path).not.toMatch(/<script|<style|\sstyle="|\son\w+="/i)
      expect(text, path).toMatch(/^<!doctype html>\n<html lang="en">/)
    }
  })

  it('lets the confirmation lead away, and no other form', async () => {
    const http = createHttpRoom()
    const policyOf = async (path: string) =>
      (await browserOf(http).get(path)).headers.get('content-security-policy')
    expect(await policyOf('/connect/x')).toContain(
      "form-action 'self' https: http://as.example.com;",
    )
    expect(await policyOf('/connections')).toContain("form-action 'self';")
    http.room.view = () => ({
      kind: 'confirm',
      upstream: upstream('files'),
      authorizationServerHost: "x; script-src 'unsafe-inline'",
      scopes: [],
    })
    expect(await policyOf('/connect/x')).toContain("form-action 'self' https:;")
  })

  it('has its style from ourselves, kept for ever under a name of its own', async () => {
    const http = createHttpRoom()
    const text = await (await browserOf(http).get('/connections')).text()
    const href = /<link rel="stylesheet" href="([^"]+)">/.exec(text)?.[1] ?? ''
    const response = await http.app.request(href)
    expect(response.headers.get('content-type')).toBe('text/css; charset=utf-8')
    expect(response.headers.get('cache-control')).toContain('immutable')
    expect(await response.text()).toContain('prefers-color-scheme')
  })

  it('/ leads to the connections', async () => {
    const response = await createHttpRoom().app.request('/')
    expect(response.headers.get('location')).toBe('/connections')
  })
})
