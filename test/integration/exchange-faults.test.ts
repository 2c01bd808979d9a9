import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import {
  endpoints,
  type Fault,
  holdRequest,
  jwtBearerGrant,
  tokenExchangeGrant,
} from '../support/authorization-server.ts'
import { createBrowser } from '../support/browser.ts'
import { type Answer, startTestBroker, type TestBroker } from '../support/broker.ts'

const token = endpoints.token
const claims = '{"access_token":{"acrs":{"essential":true,"value":"c1"}}}'

function json(status: number, body: Record<string, unknown>): Fault {
  const headers = { 'content-type': 'application/json' }
  return { kind: 'answer', status, headers, body: JSON.stringify(body) }
}

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

describe('exchanges that are refused', () => {
  let broker: TestBroker
  let heal: (() => void) | undefined
  beforeAll(async () => {
    broker = await startTestBroker()
  })
  afterEach(() => heal?.())
  afterAll(() => broker.stop())

  const fail = (fault: Fault, times?: number) => {
    heal?.()
    heal = broker.identityProvider.fail(token, fault, times)
  }
  const received = () => broker.identityProvider.received(token).length
  const status = async (upstream: string) => {
    const view = await broker.call('GET', `/api/v1/connections/${upstream}`, 'ada')
    return { status: view.body['status'], reason: view.body['reason'] }
  }

  it.each<[string, Record<string, unknown>]>([
    ['a refused subject token', { error: 'invalid_grant' }],
    ['an ended assertion (AADSTS500133)', { error: 'invalid_grant', error_codes: [500133] }],
    ['RFC 8693: invalid_request', { error: 'invalid_request' }],
  ])('%s is 401 invalid_subject_token', async (_name, body) => {
    fail(json(400, body))
    for (const upstream of ['reports', 'graph']) {
      const answer = await broker.resolveAs('ada', upstream)
      expect(answer.status).toBe(401)
      expect(answer.body['code']).toBe('invalid_subject_token')
    }
    expect(await status('graph')).toEqual({ status: 'connected', reason: null })
  })

  it('blocked by the directory is 403 policy_denied', async () => {
    fail(json(400, { error: 'access_denied', error_codes: [53003] }))
    const answer = await broker.resolveAs('ada', 'graph')
    expect(answer.status).toBe(403)
    expect(answer.body['code']).toBe('policy_denied')
  })

  it('a wrong client is 502 upstream_misconfigured, shown as unavailable, and put right works at once', async () => {
    fail(json(401, { error: 'invalid_client' }))
    const answer = await broker.resolveAs('ada', 'graph')
    expect(answer.status).toBe(502)
    expect(answer.body['code']).toBe('upstream_misconfigured')
    expect(await status('graph')).toEqual({ status: 'unavailable', reason: null })
    heal?.()
    expect((await broker.resolveAs('ada', 'graph')).status).toBe(200)
    expect(await status('graph')).toEqual({ status: 'connected', reason: null })
    await broker.call('DELETE', '/api/v1/connections/graph', 'ada')
  })

  it('a server that fails is 503 upstream_unavailable with Retry-After, and shown as unavailable', async () => {
    fail(json(500, {}))
    const answer = await broker.resolveAs('grace', 'graph')
    expect(answer.status).toBe(503)
    expect(answer.body['code']).toBe('upstream_unavailable')
    expect(answer.headers.get('retry-after')).toMatch(/^[1-9]\d*$/)
    const view = await broker.call('GET', '/api/v1/connections/graph', 'grace')
    expect(view.body).toMatchObject({ status: 'unavailable', reason: null, connect_path: null })
  })

  it.each<[string, Record<string, unknown>]>([
    ['interaction_required', { error: 'interaction_required', error_codes: [50076], claims }],
    ['claims alone', { error: 'invalid_grant', claims }],
    ['consent_required', { error: 'invalid_grant', suberror: 'consent_required', claims }],
    ['consent_required without claims', { error: 'invalid_grant', error_codes: [65001] }],
  ])(
    '%s is 403 connect_required, insufficient_scope, with a link that stays the same',
    async (_name, body) => {
      fail(json(400, body))
      const answer = await broker.resolveAs('ada', 'graph')
      expect(answer.status).toBe(403)
      expect(answer.body).toMatchObject({ code: 'connect_required', reason: 'insufficient_scope' })
      expect(answer.body['connect_url']).toMatch(/\/connect\/[\w-]{43}$/)
      expect(answer.text).not.toContain('acrs')
      const again = await broker.resolveAs('ada', 'graph')
      expect(again.body['connect_url']).toBe(answer.body['connect_url'])
      expect((await broker.resolveAs('grace', 'graph')).body['connect_url']).not.toBe(
        answer.body['connect_url'],
      )
      fail(json(400, { ...body, claims: '{"access_token":{"other":null}}' }))
      const other = await broker.resolveAs('ada', 'graph')
      expect(other.body['connect_url']).not.toBe(answer.body['connect_url'])
    },
  )

  it('that link signs its own person in again with the challenge, once', async () => {
    fail(json(400, { error: 'interaction_required', claims }))
    const link = String((await broker.resolveAs('ada', 'graph')).body['connect_url'])
    heal?.()
    const browser = createBrowser()
    const signIn = await browser.open(link)
    const [choice] = signIn.forms
    if (choice === undefined) throw new Error('no sign-in page')
    const page = await browser.submit(signIn, choice, { button: 'ada' })
    expect(page.status).toBe(200)
    expect(page.body).not.toContain('acrs')
    const form = page.forms.find(({ action }) => action.pathname.startsWith('/connect/'))
    if (form === undefined) throw new Error('no confirmation')
    const isIdentityProvider = ({ origin, pathname }: URL) =>
      origin === broker.identityProvider.url && pathname === endpoints.authorization
    const redirect = await browser.submit(page, form, { until: isIdentityProvider })
    const request = new URL(String(redirect.headers.location))
    expect(request.searchParams.get('claims')).toContain('acrs')
    const used = await browser.submit(page, form, { follow: false })
    expect(used.status).toBe(400)
    fail(json(400, { error: 'interaction_required', claims }))
    const next = await broker.resolveAs('ada', 'graph')
    expect(next.body['connect_url']).not.toBe(link)
  })

  it('a caller with a token of its own is not refused for want of another caller’s', async () => {
    fail({ kind: 'delay', ms: 300 }, 1)
    const own = await broker.tokenOf('linus')
    const user = { issuer: broker.identityProvider.issuer, id: 'linus' }
    const [asserted, presented] = await Promise.all([
      broker.resolve({ upstream: 'reports', user }),
      broker.resolve({ upstream: 'reports', subject_token: own }),
    ])
    expect(presented.status).toBe(200)
    expect([200, 403]).toContain(asserted.status)
    await broker.call('DELETE', '/api/v1/connections/reports', 'linus')
    fail({ kind: 'answer', status: 400, body: '{"error":"invalid_grant"}' }, 1)
    const other = await broker.tokenOf('linus')
    const answers = await Promise.all(
      [own, other].map((subject) =>
        broker.resolve({ upstream: 'reports', subject_token: subject }),
      ),
    )
    expect(answers.map((answer) => answer.status).toSorted((a, b) => a - b)).toEqual([200, 401])
  })

  it('an exchange near its end whose subject token is absent is served to its end', async () => {
    await broker.resolveAs('ada', 'reports')
    await broker.age('ada', 'reports', { expiresInSeconds: 30 })
    const replica = await broker.startBeside()
    const user = { issuer: broker.identityProvider.issuer, id: 'ada' }
    const before = received()
    expect((await replica.resolve({ upstream: 'reports', user })).status).toBe(200)
    expect(received()).toBe(before)
    await replica.stop()
    await broker.age('ada', 'reports', { expiresInSeconds: -1 })
    const ended = await broker.startBeside()
    const refused = await ended.resolve({ upstream: 'reports', user })
    expect(refused.body).toMatchObject({
      code: 'connect_required',
      reason: 'credential_expired',
      connect_url: `${broker.url}/connections`,
    })
    await ended.stop()
  })

  it('V22: a token that arrives after its person disconnected is not stored', async () => {
    await broker.call('DELETE', '/api/v1/connections/reports', 'grace')
    const { fault, release } = holdRequest()
    fail(fault, 1)
    const before = received()
    const resolving = broker.resolveAs('grace', 'reports')
    while (received() === before) await pause(20)
    expect((await broker.call('DELETE', '/api/v1/connections/reports', 'grace')).status).toBe(204)
    release()
    const answer = await resolving
    expect(answer.body).toMatchObject({ code: 'connect_required', reason: 'not_connected' })
    const [row] = await broker.database.database.sql<[{ count: number }]>`
      SELECT count(*)::int AS count FROM credential WHERE user_id = 'grace' AND upstream = 'reports'`
    expect(row.count).toBe(0)
    expect((await broker.resolveAs('grace', 'reports')).status).toBe(200)
  })

  it('each method asks as it should', () => {
    expect(broker.identityProvider.requests({ grantType: tokenExchangeGrant })).not.toHaveLength(0)
    expect(broker.identityProvider.requests({ grantType: jwtBearerGrant })).not.toHaveLength(0)
  })
})

describe('stored sign-in tokens', () => {
  it('stand in for a subject token that nobody presents, and their outage costs no valid credential', async () => {
    const broker = await startTestBroker({ storeSubjectToken: true })
    const user = { issuer: broker.identityProvider.issuer, id: 'ada' }
    const none = await broker.resolve({ upstream: 'reports', user })
    expect(none.body).toMatchObject({ code: 'connect_required', reason: 'not_connected' })
    // Connecting files signs ada in.
    await broker.connect('ada')
    expect((await broker.resolve({ upstream: 'reports', user })).status).toBe(200)
    await broker.database.database.sql`
      UPDATE sign_in_token SET access_token_expires_at = now() - interval '1 minute'`
    await broker.age('ada', 'reports', { expiresInSeconds: 30 })
    const heal = broker.identityProvider.fail(token, json(503, {}))
    const replica = await broker.startBeside()
    expect((await replica.resolve({ upstream: 'reports', user })).status).toBe(200)
    const list = await replica.call('GET', '/api/v1/connections', 'ada')
    expect(list.status).toBe(200)
    heal()
    await replica.stop()
    await broker.stop()
  })

  it('an id_token as subject token is the stored one, whatever a call presents', async () => {
    const broker = await startTestBroker({
      storeSubjectToken: true,
      change: (config) => {
        config.upstreams.reports.credential['subject_token_type'] = 'id_token'
      },
    })
    const refused = await broker.resolveAs('ada', 'reports')
    expect(refused.body).toMatchObject({ code: 'connect_required', reason: 'not_connected' })
    const view = await broker.call('GET', '/api/v1/connections/reports', 'ada')
    expect(view.body).toMatchObject({ status: 'not_connected', reason: null })
    await broker.connect('ada')
    const answer: Answer = await broker.resolveAs('ada', 'reports')
    expect(answer.status).toBe(200)
    await broker.stop()
  })
})
