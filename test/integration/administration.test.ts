import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createCredentialRecords } from '../../src/storage/credential-records.ts'
import { endpoints, holdRequest } from '../support/authorization-server.ts'
import { answerSandboxPages, createBrowser } from '../support/browser.ts'
import { startTestBroker, type TestBroker } from '../support/broker.ts'

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

/** Tokens say in whole seconds when they were issued: one of this second is one of the past. */
const nextSecond = () => pause(1000 - (Date.now() % 1000) + 20)

const hrKey = `hr-${'x'.repeat(40)}`

describe('administration, on two replicas', () => {
  let here: TestBroker
  let there: TestBroker
  beforeAll(async () => {
    here = await startTestBroker({
      storeSubjectToken: true,
      change: (config) => {
        config.identity.services.push({ id: 'hr', key: hrKey, may_offboard: true, upstreams: [] })
      },
    })
    there = await here.startBeside()
  })
  afterAll(async () => {
    await there.stop()
    await here.stop()
  })

  const usersPath = (person: string) =>
    `/api/v1/admin/users/${encodeURIComponent(here.identityProvider.issuer)}/${encodeURIComponent(person)}/connections`
  const offboard = (person: string) => here.call('DELETE', usersPath(person), 'linus')
  const asserted = (on: TestBroker, person: string, upstream = 'reports') =>
    on.resolve({ upstream, user: { issuer: here.identityProvider.issuer, id: person } })
  const administrationRecords = async () => {
    const { sql } = here.database.database
    return sql<
      {
        action: string
        actor_kind: string
        actor_id: string
        user_id: string
        issuer: string
        outcome: string
        upstream: string | null
      }[]
    >`
      SELECT action, actor_kind, actor_id, user_id, issuer, outcome, upstream FROM activity
      WHERE type = 'administration' ORDER BY occurred_at, id`
  }

  it('offboarding ends all that lets anybody act for the person, on every replica, before it is answered', async () => {
    await here.connect('ada')
    const browser = createBrowser()
    const link = await here.call('POST', '/api/v1/connections/files/connect', 'ada', {})
    // Signed in, and on its way to the authorization server.
    let page = await browser.open(String(link.body['connect_url']))
    const choice = page.forms.find(({ buttons }) => buttons.some(({ name }) => name === 'person'))
    if (choice === undefined) throw new Error('no sign-in')
    page = await browser.submit(page, choice, { button: 'ada' })
    const confirm = page.forms.find(({ action }) => action.pathname.startsWith('/connect/'))
    if (confirm === undefined) throw new Error('no confirmation')
    const isCallback = (url: URL) => url.pathname === '/callback/files'
    const consent = await browser.submit(page, confirm, { until: isCallback })
    const callback = await answerSandboxPages(
      browser,
      consent,
      { choose: 'ada-at-files' },
      isCallback,
    )

    const oldToken = await here.tokenOf('ada')
    for (const replica of [here, there]) {
      const answers = await Promise.all([
        replica.resolve({ upstream: 'files', subject_token: oldToken }),
        replica.resolve({ upstream: 'reports', subject_token: oldToken }),
        asserted(replica, 'ada', 'files'),
      ])
      expect(answers.map(({ status }) => status)).toEqual([200, 200, 200])
    }
    const revoked = here.authorizationServer.received(endpoints.revocation).length

    const answer = await offboard('ada')
    expect(answer.status).toBe(204)

    for (const replica of [there, here]) {
      for (const upstream of ['files', 'reports']) {
        const byToken = await replica.resolve({ upstream, subject_token: oldToken })
        expect(byToken.status).toBe(401)
        expect(byToken.body['code']).toBe('invalid_subject_token')
        const byAssertion = await asserted(replica, 'ada', upstream)
        expect(byAssertion.status).toBe(401)
        expect(byAssertion.body['code']).toBe('invalid_subject_token')
      }
      for (const path of ['/api/v1/me', '/api/v1/connections']) {
        const own = await fetch(`${replica.url}${path}`, {
          headers: { authorization: `Bearer ${oldToken}` },
        })
        expect(own.status).toBe(401)
        expect(own.headers.get('www-authenticate')).toContain('error="invalid_token"')
      }
    }
    // The browser is not signed in any more, and its open connect leads nowhere.
    const back = await browser.open(callback, { follow: false })
    expect(back.status).not.toBe(200)
    expect(back.headers.location ?? '').not.toContain('connected=1')
    const { sql } = here.database.database
    for (const table of [
      'credential',
      'session',
      'sign_in_token',
      'connect_ticket',
      'connect_flow',
    ]) {
      const left = await sql`SELECT 1 FROM ${sql(table)} WHERE user_id = 'ada'`
      expect(left.count, table).toBe(0)
    }
    // P14: the grant is revoked at its server.
    await expect
      .poll(() => here.authorizationServer.received(endpoints.revocation).length)
      .toBe(revoked + 1)
    await expect.poll(administrationRecords).toEqual([
      {
        action: 'offboard',
        actor_kind: 'admin',
        actor_id: 'linus',
        user_id: 'ada',
        issuer: here.identityProvider.issuer,
        outcome: 'success',
        upstream: null,
      },
    ])
  })

  it('nobody else is cut off', async () => {
    expect((await here.resolveAs('grace', 'reports')).status).toBe(200)
    expect((await asserted(there, 'grace')).status).not.toBe(401)
  })

  it('a later bearer brings the person back, for assertions too and on every replica; the old ones stay refused', async () => {
    const oldToken = await here.tokenOf('ada')
    expect((await offboard('ada')).status).toBe(204)
    await nextSecond()
    expect((await there.resolve({ upstream: 'reports', subject_token: oldToken })).status).toBe(401)
    expect((await asserted(here, 'ada')).status).toBe(401)
    expect((await there.resolveAs('ada', 'reports')).status).toBe(200)
    expect((await asserted(here, 'ada')).status).toBe(200)
    expect((await asserted(there, 'ada')).status).toBe(200)
    for (const replica of [here, there]) {
      const old = await replica.resolve({ upstream: 'reports', subject_token: oldToken })
      expect(old.status).toBe(401)
    }
  })

  it('a later sign-in brings the person back, and one that was begun before does not count', async () => {
    const early = createBrowser()
    const signInPage = await early.open(`${here.url}/connections`)
    const choice = signInPage.forms.find(({ buttons }) =>
      buttons.some(({ name }) => name === 'person'),
    )
    if (choice === undefined) throw new Error('no sign-in')
    expect((await offboard('ada')).status).toBe(204)
    const refused = await early.submit(signInPage, choice, { button: 'ada' })
    expect(refused.status).toBe(400)
    expect((await asserted(there, 'ada')).status).toBe(401)

    await signIn('ada')
    expect((await asserted(there, 'ada')).status).toBe(200)
    expect((await asserted(here, 'ada')).status).toBe(200)
  })

  async function signIn(person: string): Promise<void> {
    const browser = createBrowser()
    const page = await browser.open(`${here.url}/connections`)
    const choice = page.forms.find(({ buttons }) => buttons.some(({ name }) => name === 'person'))
    if (choice === undefined) throw new Error('no sign-in')
    const signedIn = await browser.submit(page, choice, { button: person })
    expect(signedIn.status).toBe(200)
    expect(signedIn.url.pathname).toBe('/connections')
  }

  it('V22: what is under way at that moment leaves nothing behind: its token is revoked, not stored', async () => {
    await nextSecond()
    await here.connect('ada')
    await here.age('ada', 'files', { expiresInSeconds: -1 })
    await here.call('DELETE', '/api/v1/connections/reports', 'ada')
    const { fault, release } = holdRequest()
    here.authorizationServer.fail(endpoints.token, fault, 1)
    here.identityProvider.fail(endpoints.token, fault, 1)
    const asked = [here.authorizationServer, here.identityProvider].map(
      (server) => [server, server.received(endpoints.token).length] as const,
    )
    const token = await here.tokenOf('ada')
    const calls = [
      there.resolve({ upstream: 'files', subject_token: token }),
      there.resolve({ upstream: 'reports', subject_token: token }),
    ]
    for (const [server, before] of asked) {
      await expect.poll(() => server.received(endpoints.token).length).toBeGreaterThan(before)
    }
    expect((await offboard('ada')).status).toBe(204)
    release()
    const answers = await Promise.all(calls)
    expect(answers.map(({ status }) => status)).toEqual([403, 403])
    const { sql } = here.database.database
    expect((await sql`SELECT 1 FROM credential WHERE user_id = 'ada'`).count).toBe(0)
    expect((await sql`SELECT 1 FROM acquisition_attempt WHERE user_id = 'ada'`).count).toBe(0)
  })

  it('V22: a call that came in before leaves nothing behind afterwards either', async () => {
    const records = createCredentialRecords(here.database.database)
    const person = { issuer: here.identityProvider.issuer, userId: 'ada' }
    const binding = { authorizationServer: 'x', clientId: 'x', resource: undefined }
    const stored = await records.put(
      { ...person, upstream: 'reports' },
      {
        generation: await records.nextGeneration(),
        method: 'token_exchange',
        scopes: [],
        audience: undefined,
        account: undefined,
        binding,
        sealedAccessToken: Buffer.from('sealed'),
        sealedRefreshToken: undefined,
        expiresAt: undefined,
        renewed: false,
      },
    )
    expect(stored).toBeUndefined()
  })

  it('a replica that starts later knows who was cut off', async () => {
    const oldToken = await here.tokenOf('grace')
    expect((await offboard('grace')).status).toBe(204)
    const later = await here.startBeside()
    expect((await later.resolve({ upstream: 'reports', subject_token: oldToken })).status).toBe(401)
    expect((await asserted(later, 'grace')).status).toBe(401)
    await later.stop()
  })

  it('a service that may offboard does so by its key; another does not, nor a person who is no admin', async () => {
    const send = (key: string, path: string) =>
      fetch(`${here.url}${path}`, { method: 'DELETE', headers: { authorization: `Bearer ${key}` } })
    expect((await send(hrKey, usersPath('nobody-in-particular'))).status).toBe(204)
    expect((await send(here.serviceKey, usersPath('ada'))).status).toBe(403)
    // Disconnecting is not offboarding.
    expect((await send(hrKey, `${usersPath('ada')}/files`)).status).toBe(401)
    expect((await here.call('DELETE', usersPath('linus'), 'grace-of-nowhere')).status).toBe(403)
    // Those of the tests before may come as late as now.
    const own = async () =>
      (await administrationRecords()).filter(({ actor_id: actor }) => actor === 'hr')
    await expect
      .poll(own)
      .toMatchObject([{ actor_kind: 'service', user_id: 'nobody-in-particular' }])
  })

  it('with an upstream it is a disconnect by an admin: of that alone, with its record, and the person stays', async () => {
    await nextSecond()
    await here.connect('grace')
    const token = await here.tokenOf('grace')
    const ask = (on: TestBroker, upstream: string) => on.resolve({ upstream, subject_token: token })
    expect((await ask(there, 'files')).status).toBe(200)
    const gone = await here.call('DELETE', `${usersPath('grace')}/files`, 'linus')
    expect(gone.status).toBe(204)
    expect((await ask(there, 'files')).status).toBe(403)
    expect((await ask(there, 'reports')).status).toBe(200)
    const { sql } = here.database.database
    const disconnects = () => sql`
      SELECT type, actor_kind, actor_id, user_id, upstream, outcome FROM activity WHERE action = 'disconnect' AND user_id = 'grace'`
    await expect.poll(disconnects).toEqual([
      {
        type: 'credential_broker',
        actor_kind: 'admin',
        actor_id: 'linus',
        user_id: 'grace',
        upstream: 'files',
        outcome: 'success',
      },
    ])
    const unknown = await here.call('DELETE', `${usersPath('grace')}/nothing`, 'linus')
    expect(unknown.body['code']).toBe('unknown_upstream')
  })

  it('lists everybody’s connections, by person, upstream and status', async () => {
    await nextSecond()
    await here.connect('ada')
    await here.connect('grace')
    await here.age('grace', 'files', { expiresInSeconds: -1 })
    await here.database.database.sql`
      UPDATE credential SET refresh_token = NULL WHERE user_id = 'grace' AND upstream = 'files'`
    const list = async (query: string) => {
      const answer = await here.call('GET', `/api/v1/admin/connections${query}`, 'linus')
      expect(answer.status, query).toBe(200)
      return answer.body['connections'] as Record<string, unknown>[]
    }
    const files = await list('?upstream=files')
    expect(files.map(({ user_id: user, status }) => `${String(user)} ${String(status)}`)).toEqual([
      'ada connected',
      'grace expired',
    ])
    const own = await here.call('GET', '/api/v1/connections/files', 'ada')
    expect(Object.keys(files[0] ?? {}).toSorted()).toEqual(
      [...Object.keys(own.body), 'issuer', 'user_id'].toSorted(),
    )
    expect(await list('?upstream=files&status=expired')).toHaveLength(1)
    expect((await list('?user_id=ada')).map(({ user_id: user }) => user)).toContain('ada')
    expect((await list('?user_id=ada')).every(({ user_id: user }) => user === 'ada')).toBe(true)
    expect(await list('?user_id=nobody')).toEqual([])
    expect((await list('')).length).toBeGreaterThan(files.length)
    for (const query of [
      '?nonsense=1',
      '?status=fine',
      '?upstream=a&upstream=b',
      '?user_id=a%00',
      '?upstream=%00',
    ]) {
      const answer = await here.call('GET', `/api/v1/admin/connections${query}`, 'linus')
      expect(answer.status, query).toBe(400)
    }
    expect((await here.call('GET', '/api/v1/admin/connections', 'ada')).status).toBe(403)
    const byService = await fetch(`${here.url}/api/v1/admin/connections`, {
      headers: { authorization: `Bearer ${hrKey}` },
    })
    expect(byService.status).toBe(401)
  })

  it('shows every upstream with its health and how many are connected', async () => {
    const answer = await here.call('GET', '/api/v1/admin/upstreams', 'linus')
    expect(answer.status).toBe(200)
    const upstreams = answer.body['upstreams'] as Record<string, unknown>[]
    expect(upstreams.map(({ upstream }) => upstream)).toEqual(['files', 'graph', 'reports'])
    expect(upstreams[0]).toMatchObject({
      display_name: 'Files',
      kind: 'mcp',
      mode: 'oauth_connect',
      health: 'ok',
      paused_until: null,
      connections: { connected: 1, expired: 1, reconnect_required: 0, unavailable: 0 },
    })
    expect((await here.call('GET', '/api/v1/admin/upstreams', 'ada')).status).toBe(403)
  })

  it('refuses ids that nobody can have', async () => {
    const issuer = encodeURIComponent(here.identityProvider.issuer)
    for (const id of ['%00', 'x'.repeat(256), '%e9', 'half%', '%zz']) {
      const path = `/api/v1/admin/users/${issuer}/${id}/connections`
      const answer = await here.call('DELETE', path, 'linus')
      expect(answer.status, id).toBe(400)
      expect(answer.body['field']).toBe('user_id')
    }
    const elsewhere = await here.call('DELETE', '/api/v1/admin/users/%ff/ada/connections', 'linus')
    expect(elsewhere.status).toBe(400)
    expect(elsewhere.body['field']).toBe('issuer')
  })
})
