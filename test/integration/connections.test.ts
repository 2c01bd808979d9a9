import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { endpoints, holdRequest } from '../support/authorization-server.ts'
import { answerSandboxPages, createBrowser, type ScriptedBrowser } from '../support/browser.ts'
import { type Answer, startTestBroker, type TestBroker } from '../support/broker.ts'
import { startTcpDoor } from '../support/tcp-door.ts'

const token = endpoints.token
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

type Listed = Record<string, unknown> & { readonly upstream: string }

function listOf({ body }: Answer): readonly Listed[] {
  return body['connections'] as Listed[]
}

/** The callback that a link leads to, for a person who says yes to everything. */
async function callbackOf(browser: ScriptedBrowser, link: string, person: string): Promise<URL> {
  let page = await browser.open(link)
  const signIn = page.forms.find(({ buttons }) => buttons.some(({ name }) => name === 'person'))
  if (signIn !== undefined) page = await browser.submit(page, signIn, { button: person })
  const confirm = page.forms.find(({ action }) => action.pathname.startsWith('/connect/'))
  if (confirm === undefined) throw new Error(`no confirmation at ${page.url.pathname}`)
  const isCallback = (url: URL) => url.pathname === '/callback/files'
  const next = await browser.submit(page, confirm, { until: isCallback })
  return answerSandboxPages(browser, next, { choose: `${person}-at-files` }, isCallback)
}

describe('what a person sees of their connections', () => {
  let broker: TestBroker
  beforeAll(async () => {
    broker = await startTestBroker({
      change: (config) => {
        config['return_to'] = ['https://app.example.com']
        const { files } = config.upstreams
        Object.assign(config.upstreams, {
          'a-private': { ...structuredClone(files), allow: { users: ['grace'] } },
          zebra: { ...structuredClone(files), allow: { roles: ['onbehalf-admin'] } },
        })
      },
    })
  })
  afterAll(() => broker.stop())

  const linkFor = async (person: string, body: Record<string, unknown> = {}) => {
    const answer = await broker.call('POST', '/api/v1/connections/files/connect', person, body)
    return String(answer.body['connect_url'])
  }
  const revocations = () => broker.authorizationServer.received(endpoints.revocation).length
  async function untilRevoked(before: number): Promise<void> {
    const giveUpAt = Date.now() + 15_000
    while (revocations() === before && Date.now() < giveUpAt) await pause(20)
    expect(revocations()).toBe(before + 1)
  }

  it('lists every upstream that the person may use, sorted, with every field and null for what is not', async () => {
    const list = listOf(await broker.call('GET', '/api/v1/connections', 'ada'))
    expect(list.map(({ upstream }) => upstream)).toEqual(['files', 'graph', 'reports'])
    expect(list[0]).toEqual({
      upstream: 'files',
      display_name: 'Files',
      mode: 'oauth_connect',
      status: 'not_connected',
      reason: null,
      scopes: [],
      audience: null,
      method: 'connect',
      account: null,
      expires_at: null,
      connected_at: null,
      last_used_at: null,
      connect_path: '/api/v1/connections/files/connect',
    })
    expect(list[2]).toMatchObject({
      upstream: 'reports',
      mode: 'token_exchange',
      method: 'token_exchange',
      status: 'connected',
      reason: null,
      connect_path: null,
    })
    const ofGrace = listOf(await broker.call('GET', '/api/v1/connections', 'grace'))
    expect(ofGrace.map(({ upstream }) => upstream)).toContain('a-private')
  })

  it('an upstream that is not allowed is 403 policy_denied at every door', async () => {
    const doors: readonly (readonly [string, string, unknown?])[] = [
      ['GET', '/api/v1/connections/a-private'],
      ['DELETE', '/api/v1/connections/a-private'],
      ['POST', '/api/v1/connections/a-private/connect', {}],
      ['PUT', '/api/v1/connections/a-private/key', { key: 'k' }],
    ]
    for (const [method, path, body] of doors) {
      const answer = await broker.call(method, path, 'ada', body)
      expect(answer.status, path).toBe(403)
      expect(answer.body['code']).toBe('policy_denied')
    }
    const resolved = await broker.resolveAs('ada', 'a-private')
    expect(resolved.status).toBe(403)
    expect(resolved.body['code']).toBe('policy_denied')
    const asserted = await broker.resolve({
      upstream: 'zebra',
      user: { issuer: broker.identityProvider.issuer, id: 'ada' },
    })
    expect(asserted.body['code']).toBe('policy_denied')
  })

  it('a mode without connect is 409 not_connectable', async () => {
    for (const upstream of ['reports', 'graph']) {
      const path = `/api/v1/connections/${upstream}/connect`
      const answer = await broker.call('POST', path, 'ada', {})
      expect(answer.status).toBe(409)
      expect(answer.body['code']).toBe('not_connectable')
    }
  })

  it('a link lives 10 minutes, and leads back to where return_to says', async () => {
    const answer = await broker.call('POST', '/api/v1/connections/files/connect', 'ada', {
      return_to: 'https://app.example.com/done?a=b#top',
    })
    expect(answer.status).toBe(201)
    const left = Date.parse(String(answer.body['expires_at'])) - Date.now()
    expect(left).toBeGreaterThan(590_000)
    expect(left).toBeLessThanOrEqual(600_000)
    const browser = createBrowser()
    const callback = await callbackOf(browser, String(answer.body['connect_url']), 'ada')
    const back = await browser.open(callback, { follow: false })
    expect(back.status).toBe(303)
    expect(back.headers.location).toBe(
      'https://app.example.com/done?a=b&upstream=files&connected=1#top',
    )
  })

  it.each([
    '/',
    '/a?b=c',
    '/connections#x',
    'https://app.example.com',
    'https://app.example.com/x',
  ])('takes %s as return_to', async (returnTo) => {
    const answer = await broker.call('POST', '/api/v1/connections/files/connect', 'ada', {
      return_to: returnTo,
    })
    expect(answer.status).toBe(201)
  })

  it('says when a connection was made and last used', async () => {
    await broker.connect('ada')
    const before = await broker.call('GET', '/api/v1/connections/files', 'ada')
    expect(before.body).toMatchObject({ status: 'connected', scopes: ['files:read'] })
    await broker.resolveAs('ada', 'files')
    const used = async () => {
      const view = await broker.call('GET', '/api/v1/connections/files', 'ada')
      return view.body['last_used_at']
    }
    await expect.poll(used).toMatch(/^\d{4}-.*Z$/)
  })

  it('V22: a code redeemed while its person disconnects leaves nothing: the token is revoked, not stored', async () => {
    await broker.call('DELETE', '/api/v1/connections/files', 'grace')
    const browser = createBrowser()
    const callback = await callbackOf(browser, await linkFor('grace'), 'grace')
    const { fault, release } = holdRequest()
    broker.authorizationServer.fail(token, fault, 1)
    const asked = broker.authorizationServer.received(token).length
    const revoked = revocations()
    const returning = browser.open(callback, { follow: false })
    while (broker.authorizationServer.received(token).length === asked) await pause(20)
    expect((await broker.call('DELETE', '/api/v1/connections/files', 'grace')).status).toBe(204)
    release()
    const back = await returning
    expect(back.status).toBe(303)
    expect(back.headers.location).toContain('error=access_denied')
    await untilRevoked(revoked)
    const view = await broker.call('GET', '/api/v1/connections/files', 'grace')
    expect(view.body['status']).toBe('not_connected')
  })

  it('a refresh token goes to no other server than the one that gave it, not even to be revoked', async () => {
    await broker.connect('ada')
    const other = await broker.startBeside((config) => {
      const { credential } = config.upstreams.files
      credential['revocation_endpoint'] = `${broker.identityProvider.url}/token/revocation`
      credential['authorization_endpoint'] = `${broker.identityProvider.url}/auth`
      credential['token_endpoint'] = `${broker.identityProvider.url}/token`
      delete credential['issuer']
    })
    const before = broker.identityProvider.received(endpoints.revocation).length
    const view = await other.call('GET', '/api/v1/connections/files', 'ada')
    expect(view.body).toMatchObject({
      status: 'reconnect_required',
      reason: 'configuration_changed',
    })
    expect((await other.call('DELETE', '/api/v1/connections/files', 'ada')).status).toBe(204)
    await pause(300)
    expect(broker.identityProvider.received(endpoints.revocation)).toHaveLength(before)
    await other.stop()
  })

  it('a superseded link of a person who is now connected says so; of one who must reconnect, it does not', async () => {
    const oldest = await linkFor('ada')
    for (let link = 0; link < 10; link += 1) await linkFor('ada')
    await broker.connect('ada')
    const browser = createBrowser()
    const signIn = await browser.open(oldest)
    const [choice] = signIn.forms
    if (choice === undefined) throw new Error('no sign-in page')
    const told = await browser.submit(signIn, choice, { button: 'ada' })
    expect(told.status).toBe(200)
    expect(told.body).toContain('href="/connections"')
    await broker.database.database.sql`
      UPDATE credential SET client_id = 'another' WHERE user_id = 'ada' AND upstream = 'files'`
    expect((await browser.open(oldest)).status).toBe(400)
  })

  it('an offered link is the same again, and eleven links of the person’s own do not replace it', async () => {
    await broker.call('DELETE', '/api/v1/connections/files', 'linus')
    const first = await broker.resolveAs('linus', 'files')
    const again = await broker.resolveAs('linus', 'files')
    expect(again.body['connect_url']).toBe(first.body['connect_url'])
    for (let link = 0; link < 11; link += 1) await linkFor('linus')
    const still = await broker.resolveAs('linus', 'files')
    expect(still.body['connect_url']).toBe(first.body['connect_url'])
  })
})

describe('what stands in the way of a resolution', () => {
  it('a policy hook is asked for every caller; one that throws or hangs has said no', async () => {
    const asked: string[] = []
    const broker = await startTestBroker({
      hooks: {
        policy: ({ person, upstream }) => {
          asked.push(`${person.userId} ${upstream}`)
          if (person.userId === 'grace') throw new Error('CNRY-AT-hook')
          if (person.userId === 'linus') return new Promise(() => {})
          return true
        },
      },
    })
    const answers = await Promise.all([
      broker.resolveAs('ada', 'reports'),
      broker.resolveAs('ada', 'reports'),
      broker.resolveAs('grace', 'reports'),
      broker.resolveAs('linus', 'reports'),
    ])
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 403, 403])
    expect(answers[2]?.body['code']).toBe('policy_denied')
    expect(answers[3]?.body['code']).toBe('policy_denied')
    expect(asked.toSorted()).toEqual([
      'ada reports',
      'ada reports',
      'grace reports',
      'linus reports',
    ])
    await broker.stop()
  })

  it('a service may use its own upstreams only; an unknown one is unknown', async () => {
    const broker = await startTestBroker({
      change: (config) => {
        config.identity.services = config.identity.services.map((service) => ({
          ...service,
          upstreams: ['reports'],
        }))
      },
    })
    const foreign = await broker.resolveAs('ada', 'files')
    expect(foreign.status).toBe(403)
    expect(foreign.body['code']).toBe('upstream_not_allowed')
    const unknown = await broker.resolveAs('ada', 'nothing')
    expect(unknown.status).toBe(404)
    expect(unknown.body['code']).toBe('unknown_upstream')
    await broker.stop()
  })

  it('a token endpoint at a private address is 502 upstream_unavailable, and the log names the setting', async () => {
    const broker = await startTestBroker({
      change: (config) => {
        config.upstreams.reports.credential['token_endpoint'] = 'https://10.1.2.3/token'
      },
    })
    for (let call = 0; call < 2; call += 1) {
      const answer = await broker.resolveAs('ada', 'reports')
      expect(answer.status).toBe(502)
      expect(answer.body['code']).toBe('upstream_unavailable')
      expect(answer.text).not.toContain('10.1.2.3')
    }
    expect(broker.logged.join('')).toContain('upstreams.reports.allow_private_network')
    await broker.stop()
  })

  it('a database that goes away is 503 storage_unavailable, the process lives, and the next call works', async () => {
    const broker = await startTestBroker()
    const door = await startTcpDoor(broker.database.url)
    const { url } = door
    const replica = await broker.startBeside((config) => {
      config.database.url = url
    })
    await broker.connect('ada')
    await broker.age('ada', 'files', { expiresInSeconds: -1 })
    // Mid-call: the server has answered the refresh by the time the database is gone.
    const { fault, release } = holdRequest()
    broker.authorizationServer.fail(token, fault, 1)
    const asked = broker.authorizationServer.received(token).length
    const resolving = replica.resolveAs('ada', 'files')
    while (broker.authorizationServer.received(token).length === asked) await pause(20)
    door.shut()
    release()
    // V12: what the server gave serves this replica meanwhile.
    const answer = await resolving
    expect(answer.status).toBe(200)
    const down = await replica.call('GET', '/api/v1/connections', 'ada')
    expect(down.status).toBe(503)
    expect(down.body['code']).toBe('storage_unavailable')
    door.open()
    const works = async () => (await replica.resolveAs('ada', 'reports')).status
    await expect.poll(works).toBe(200)
    // What the server gave meanwhile was kept: the refresh token that it spent is not sent again.
    const stored = await broker.resolveAs('ada', 'files')
    expect(stored.body['fingerprint']).toBe(answer.body['fingerprint'])
    expect(broker.authorizationServer.reuses()).toBe(0)
    await replica.stop()
    await door.stop()
    await broker.stop()
  })
})
