import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { endpoints, type Fault, holdRequest } from '../support/authorization-server.ts'
import {
  answerSandboxPages,
  createBrowser,
  followConnectLink,
  type ScriptedBrowser,
} from '../support/browser.ts'
import { startTestBroker, type TestBroker } from '../support/broker.ts'

describe('connecting an account, on a real authorization server', () => {
  let broker: TestBroker

  beforeAll(async () => {
    broker = await startTestBroker()
  })
  afterAll(() => broker.stop())

  const tokenRequests = () => broker.authorizationServer.requests().length

  async function linkFor(person: string, body: Record<string, unknown> = {}): Promise<string> {
    const answer = await broker.call('POST', '/api/v1/connections/files/connect', person, body)
    expect(answer.status).toBe(201)
    return String(answer.body['connect_url'])
  }

  /** Signs in, confirms, consents, and stops before the callback: gives its URL. */
  async function untilCallback(
    browser: ScriptedBrowser,
    link: string,
    person: string,
    decision: 'allow' | 'deny' = 'allow',
  ): Promise<URL> {
    let page = await browser.open(link)
    const signIn = page.forms.find(({ buttons }) => buttons.some(({ name }) => name === 'person'))
    if (signIn !== undefined) page = await browser.submit(page, signIn, { button: person })
    const confirm = page.forms.find(({ action }) => action.pathname.startsWith('/connect/'))
    if (confirm === undefined) throw new Error(`no confirmation at ${page.url.pathname}`)
    const isCallback = (url: URL) => url.pathname === '/callback/files'
    const next = await browser.submit(page, confirm, { until: isCallback })
    return answerSandboxPages(browser, next, { choose: `${person}-at-files`, decision }, isCallback)
  }

  it('names the person, the upstream, its authorization server and the scopes before asking', async () => {
    const browser = createBrowser()
    let page = await browser.open(await linkFor('ada'))
    const [signIn] = page.forms
    if (signIn === undefined) throw new Error('no sign-in page')
    page = await browser.submit(page, signIn, { button: 'ada' })
    expect(page.status).toBe(200)
    expect(page.body).toContain('ada@')
    expect(page.body).toContain('Files')
    expect(page.body).toContain(new URL(broker.authorizationServer.issuer).host)
    expect(page.body).toContain('files:read')
    expect(page.headers['cache-control']).toContain('no-store')
    expect(String(page.headers['content-security-policy'])).toContain("frame-ancestors 'none'")
  })

  it('M-N1, M-H5: sends code, PKCE S256, state, redirect, scope and resource, another state every time', async () => {
    const seen = new Set<string>()
    for (let round = 0; round < 2; round += 1) {
      await untilCallback(createBrowser(), await linkFor('ada'), 'ada')
      const sent = broker.authorizationServer.received(endpoints.authorization).at(-1)
      const query = new URL(String(sent?.target), 'http://as').searchParams
      expect(Object.fromEntries(query)).toMatchObject({
        response_type: 'code',
        client_id: broker.authorizationServer.clientId,
        redirect_uri: `${broker.url}/callback/files`,
        scope: 'files:read',
        code_challenge_method: 'S256',
        resource: 'http://127.0.0.1/files',
      })
      expect(query.get('state')).toMatch(/^[\w-]{43}$/)
      seen.add(`${query.get('state')} ${query.get('code_challenge')}`)
    }
    expect(seen.size).toBe(2)
  })

  it('M-H6: connects, stores sealed, and returns to where the person came from', async () => {
    const link = await linkFor('ada', { return_to: '/connections?from=test' })
    const { page } = await followConnectLink(createBrowser(), link, {
      person: 'ada',
      account: 'ada-at-files',
      decision: 'allow',
    })
    expect(page.url.pathname).toBe('/connections')
    expect(Object.fromEntries(page.url.searchParams)).toEqual({
      from: 'test',
      upstream: 'files',
      connected: '1',
    })
    const view = await broker.call('GET', '/api/v1/connections/files', 'ada')
    expect(view.body).toMatchObject({
      upstream: 'files',
      display_name: 'Files',
      mode: 'oauth_connect',
      method: 'connect',
      status: 'connected',
      reason: null,
      scopes: ['files:read'],
    })
    expect(view.body['connected_at']).toMatch(/^\d{4}-.*Z$/)
  })

  it('C2: refuses the link of another person, before and after it was used', async () => {
    const link = await linkFor('ada')
    const stranger = createBrowser()
    const asGrace = await followConnectLink(stranger, link, {
      person: 'grace',
      account: 'grace-at-files',
      decision: 'allow',
    })
    expect(asGrace.page.status).toBe(403)
    expect(asGrace.answered).toEqual(['sign in'])
    const { page } = await followConnectLink(createBrowser(), link, {
      person: 'ada',
      account: 'ada-at-files',
      decision: 'allow',
    })
    expect(page.url.searchParams.get('connected')).toBe('1')
  })

  it('C1, M-N3: another browser or person cannot finish a flow, nor use it up; its own browser can', async () => {
    await broker.call('DELETE', '/api/v1/connections/files', 'grace')
    const ada = createBrowser()
    const callback = await untilCallback(ada, await linkFor('ada'), 'ada')
    const grace = createBrowser()
    await untilCallback(grace, await linkFor('grace'), 'grace')
    const before = tokenRequests()
    const stolen = await grace.open(callback)
    expect(stolen.status).toBe(400)
    const anonymous = await createBrowser().open(callback, { follow: false })
    expect([302, 303, 400, 401]).toContain(anonymous.status)
    expect(tokenRequests()).toBe(before)
    const view = await broker.call('GET', '/api/v1/connections/files', 'grace')
    expect(view.body['status']).toBe('not_connected')
    const finished = await ada.open(callback)
    expect(finished.url.searchParams.get('connected')).toBe('1')
    expect(tokenRequests()).toBe(before + 1)
  })

  it('C4, M-N3: a callback counts once, also 20 times at the same moment', async () => {
    const browser = createBrowser()
    const callback = await untilCallback(browser, await linkFor('ada'), 'ada')
    const before = tokenRequests()
    const cookie = browser.cookies.header(callback, { crossSite: true, safeMethod: true })
    const answers = await Promise.all(
      Array.from({ length: 20 }, () =>
        fetch(callback, { redirect: 'manual', headers: { cookie: String(cookie) } }),
      ),
    )
    expect(answers.filter(({ status }) => status === 303)).toHaveLength(1)
    expect(answers.filter(({ status }) => status === 400)).toHaveLength(19)
    expect(tokenRequests()).toBe(before + 1)
  })

  it('C6: refuses an answer whose iss is another server, missing, or repeated, without a token request', async () => {
    const change = [
      (url: URL) => url.searchParams.set('iss', 'https://evil.example.com'),
      (url: URL) => url.searchParams.delete('iss'),
      (url: URL) => url.searchParams.append('iss', 'https://evil.example.com'),
      (url: URL) => url.searchParams.set('iss', `${broker.authorizationServer.issuer}/`),
    ]
    const before = tokenRequests()
    for (const tamper of change) {
      const browser = createBrowser()
      const callback = await untilCallback(browser, await linkFor('ada'), 'ada')
      tamper(callback)
      const page = await browser.open(callback)
      expect(page.status).toBe(400)
    }
    expect(tokenRequests()).toBe(before)
  })

  it('C15: refuses repeated parameters, code with error, and no state; HEAD and POST change nothing', async () => {
    const browser = createBrowser()
    const callback = await untilCallback(browser, await linkFor('ada'), 'ada')
    const cookie = String(browser.cookies.header(callback, { crossSite: true, safeMethod: true }))
    const before = tokenRequests()
    const variants = [
      `${callback.href}&state=other`,
      `${callback.href}&code=other`,
      `${callback.href}&error=access_denied`,
      callback.href.replace(/state=[^&]+/, 'state='),
    ]
    for (const variant of variants) {
      const answer = await fetch(variant, { redirect: 'manual', headers: { cookie } })
      expect(answer.status, variant).toBe(400)
    }
    for (const method of ['HEAD', 'POST']) {
      const answer = await fetch(callback, { method, redirect: 'manual', headers: { cookie } })
      expect(answer.status).toBeGreaterThanOrEqual(400)
    }
    expect(tokenRequests()).toBe(before)
    const good = await browser.open(callback)
    expect(good.url.searchParams.get('connected')).toBe('1')
  })

  it('M-N4, M-H7: a person who says no changes nothing, and hears it in our words', async () => {
    await broker.call('DELETE', '/api/v1/connections/files', 'grace')
    const before = tokenRequests()
    const { page } = await followConnectLink(createBrowser(), await linkFor('grace'), {
      person: 'grace',
      account: 'grace-at-files',
      decision: 'deny',
    })
    expect(page.url.pathname).toBe('/connections')
    expect(page.url.searchParams.get('error')).toBe('access_denied')
    expect(tokenRequests()).toBe(before)
  })

  it('M-H7: an unknown error becomes a generic label; hostile text appears nowhere', async () => {
    const browser = createBrowser()
    const callback = await untilCallback(browser, await linkFor('ada'), 'ada')
    const hostile = '<script>alert(1)</script>'
    callback.searchParams.delete('code')
    callback.searchParams.set('error', hostile)
    callback.searchParams.set('error_description', hostile)
    const page = await browser.open(callback)
    expect(page.url.searchParams.get('error')).toBe('authorization_denied')
    expect(page.body).not.toContain('alert(1)')
  })

  it('M-N5: a refused code stores nothing and shows nothing of the server', async () => {
    await broker.call('DELETE', '/api/v1/connections/files', 'grace')
    broker.authorizationServer.fail(
      endpoints.token,
      {
        kind: 'answer',
        status: 400,
        headers: { 'content-type': 'application/json' },
        body: '{"error":"invalid_grant","error_description":"CNRY-AT-text-of-the-server"}',
      },
      1,
    )
    const { page } = await followConnectLink(createBrowser(), await linkFor('grace'), {
      person: 'grace',
      account: 'grace-at-files',
      decision: 'allow',
    })
    expect(page.url.searchParams.get('error')).toBe('server_error')
    expect(page.body).not.toContain('CNRY')
    const view = await broker.call('GET', '/api/v1/connections/files', 'grace')
    expect(view.body['status']).toBe('not_connected')
  })

  it('a code is redeemed although its server paused everybody, and what it answers to that pauses everybody', async () => {
    const { sql } = broker.database.database
    const { issuer } = broker.authorizationServer
    await sql`
      INSERT INTO token_endpoint_pause (authorization_server, paused_until)
      VALUES (${issuer}, now() + interval '60 seconds')`
    const connect = async () => {
      const { page } = await followConnectLink(createBrowser(), await linkFor('ada'), {
        person: 'ada',
        account: 'ada-at-files',
        decision: 'allow',
      })
      return page.url.searchParams
    }
    expect((await connect()).get('connected')).toBe('1')
    const fault: Fault = { kind: 'answer', status: 429, headers: { 'retry-after': '600' } }
    broker.authorizationServer.fail(endpoints.token, fault, 1)
    expect((await connect()).get('error')).toBe('temporarily_unavailable')
    const [pause] = await sql<[{ seconds: number }]>`
      DELETE FROM token_endpoint_pause WHERE authorization_server = ${issuer}
      RETURNING extract(epoch FROM paused_until - now())::float8 AS seconds`
    expect(pause.seconds).toBeGreaterThan(300)
  })

  it('starts on one replica and finishes on another', async () => {
    const other = await broker.startBeside()
    const browser = createBrowser()
    const callback = await untilCallback(browser, await linkFor('ada'), 'ada')
    const cookie = String(browser.cookies.header(callback, { crossSite: true, safeMethod: true }))
    const there = new URL(`${callback.pathname}${callback.search}`, other.url)
    const answer = await fetch(there, { redirect: 'manual', headers: { cookie } })
    expect(answer.status).toBe(303)
    expect(answer.headers.get('location')).toContain('connected=1')
    await other.stop()
  })

  it('a used link of a person who is connected says so', async () => {
    const browser = createBrowser()
    const link = await linkFor('ada')
    const choices = { person: 'ada', account: 'ada-at-files', decision: 'allow' } as const
    await followConnectLink(browser, link, choices)
    const again = await browser.open(link)
    expect(again.status).toBe(200)
    expect(again.body).toContain('/connections')
    expect(again.forms.some(({ action }) => action.pathname.startsWith('/connect/'))).toBe(false)
  })

  it('the eleventh open link replaces the oldest', async () => {
    const links = []
    for (let link = 0; link < 11; link += 1) links.push(await linkFor('linus'))
    const [row] = await broker.database.database.sql<[{ count: number }]>`
      SELECT count(*)::int AS count FROM connect_ticket
      WHERE user_id = 'linus' AND used_at IS NULL AND expires_at > now()`
    expect(row.count).toBe(10)
  })

  it('C12: refuses a return_to that is not ours', async () => {
    const refused = [
      '//evil.com',
      '/\\evil',
      'https://evil.com',
      'javascript:alert(1)',
      '/a\nb',
      `/${'a'.repeat(3000)}`,
    ]
    for (const returnTo of refused) {
      const answer = await broker.call('POST', '/api/v1/connections/files/connect', 'ada', {
        return_to: returnTo,
      })
      expect(answer.status, returnTo).toBe(400)
      expect(answer.body['field']).toBe('return_to')
    }
  })

  it('M-H3, P14: disconnect removes, revokes at the server, and answers 204 also when there was none', async () => {
    await broker.connect('ada')
    const revoked = broker.authorizationServer.revocations()
    expect((await broker.call('DELETE', '/api/v1/connections/files', 'ada')).status).toBe(204)
    expect((await broker.resolveAs('ada', 'files')).status).toBe(403)
    const giveUpAt = Date.now() + 15_000
    while (broker.authorizationServer.revocations() === revoked && Date.now() < giveUpAt) {
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
    expect(broker.authorizationServer.revocations()).toBe(revoked + 1)
    expect((await broker.call('DELETE', '/api/v1/connections/files', 'ada')).status).toBe(204)
    expect((await broker.call('DELETE', '/api/v1/connections/nothing', 'ada')).status).toBe(404)
  })

  it('a hanging revocation keeps neither the row nor the caller', async () => {
    await broker.connect('ada')
    const heal = broker.authorizationServer.fail(endpoints.revocation, { kind: 'hang' })
    expect((await broker.call('DELETE', '/api/v1/connections/files', 'ada')).status).toBe(204)
    heal()
  })

  it('M-H4: one person neither sees nor removes the connection of another', async () => {
    await broker.connect('ada')
    const grace = await broker.call('GET', '/api/v1/connections/files', 'grace')
    expect(grace.body['status']).toBe('not_connected')
    await broker.call('DELETE', '/api/v1/connections/files', 'grace')
    expect((await broker.resolveAs('ada', 'files')).status).toBe(200)
  })

  it('V22: a token that arrives after the disconnect is revoked, not stored', async () => {
    await broker.connect('ada')
    await broker.age('ada', 'files', { expiresInSeconds: -1 })
    const other = await broker.startBeside()
    const { fault, release } = holdRequest()
    broker.authorizationServer.fail(endpoints.token, fault, 1)
    const asked = broker.authorizationServer.received(endpoints.token).length
    const revoked = broker.authorizationServer.revocations()
    const resolving = other.resolveAs('ada', 'files')
    await expect
      .poll(() => broker.authorizationServer.received(endpoints.token).length)
      .toBe(asked + 1)
    await other.call('DELETE', '/api/v1/connections/files', 'ada')
    release()
    expect((await resolving).body['code']).toBe('connect_required')
    const giveUpAt = Date.now() + 15_000
    while (broker.authorizationServer.revocations() < revoked + 1 && Date.now() < giveUpAt) {
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
    expect(broker.authorizationServer.revocations()).toBeGreaterThan(revoked)
    const [row] = await broker.database.database.sql<[{ count: number }]>`
      SELECT count(*)::int AS count FROM credential WHERE user_id = 'ada' AND upstream = 'files'`
    expect(row.count).toBe(0)
    await other.stop()
  })

  it('a changed client id asks to connect again, and putting it back heals the connection', async () => {
    await broker.connect('ada')
    const changed = await broker.startBeside((config) => {
      config.upstreams.files.credential.client_id = 'another-client'
    })
    const refused = await changed.resolveAs('ada', 'files')
    expect(refused.body).toMatchObject({
      code: 'connect_required',
      reason: 'configuration_changed',
    })
    const view = await changed.call('GET', '/api/v1/connections/files', 'ada')
    expect(view.body).toMatchObject({
      status: 'reconnect_required',
      reason: 'configuration_changed',
    })
    await changed.stop()
    const restored = await broker.startBeside()
    expect((await restored.resolveAs('ada', 'files')).status).toBe(200)
    await restored.stop()
  })
})
