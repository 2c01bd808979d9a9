import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { endpoints, type Fault, holdRequest } from '../support/authorization-server.ts'
import { createBrowser, followConnectLink } from '../support/browser.ts'
import { type Answer, startTestBroker, type TestBroker } from '../support/broker.ts'

const token = endpoints.token
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

function json(status: number, body: Record<string, unknown>): Fault {
  const headers = { 'content-type': 'application/json' }
  return { kind: 'answer', status, headers, body: JSON.stringify(body) }
}

describe('first exchanges and codes over two replicas of one database', () => {
  let one: TestBroker
  let other: TestBroker
  let heal: (() => void) | undefined

  beforeAll(async () => {
    one = await startTestBroker()
    other = await one.startBeside()
  })
  beforeEach(async () => {
    const { sql } = one.database.database
    await one.call('DELETE', '/api/v1/connections/reports', 'ada')
    await sql`DELETE FROM token_endpoint_pause`
  })
  afterEach(() => heal?.())
  afterAll(async () => {
    await other.stop()
    await one.stop()
  })

  const received = () => one.identityProvider.received(token).length
  const fail = (fault: Fault, times?: number) => {
    heal?.()
    heal = one.identityProvider.fail(token, fault, times)
  }
  const statuses = (answers: readonly Answer[]) =>
    [...new Set(answers.map(({ status }) => status))].toSorted((a, b) => a - b)
  const rows = async (table: 'credential' | 'acquisition_attempt', upstream = 'reports') => {
    const { sql } = one.database.database
    const [row] = await sql<[{ count: number }]>`
      SELECT count(*)::int AS count FROM ${sql(table)}
      WHERE user_id = 'ada' AND upstream = ${upstream}`
    return row.count
  }

  async function storm(callers: number, more: Record<string, unknown> = {}) {
    const subject = await one.tokenOf('ada')
    return Promise.all(
      Array.from({ length: callers }, (_, at) =>
        (at % 2 === 0 ? one : other).resolve({
          upstream: 'reports',
          subject_token: subject,
          ...more,
        }),
      ),
    )
  }

  it('V1: 40 first calls of one person make one upstream request', async () => {
    fail({ kind: 'delay', ms: 300 }, 1)
    const before = received()
    const answers = await storm(40)
    expect(statuses(answers)).toEqual([200])
    expect(new Set(answers.map(({ body }) => body['fingerprint'])).size).toBe(1)
    expect(received()).toBe(before + 1)
    expect(await rows('acquisition_attempt')).toBe(0)
  })

  it('the upstream said 401: one exchange for all who saw it, at most five a minute', async () => {
    let [current] = await storm(1)
    const before = received()
    const answers = await storm(20, { rejected: current?.body['fingerprint'] })
    expect(new Set(answers.map(({ body }) => body['fingerprint'])).size).toBe(1)
    expect(received()).toBe(before + 1)
    for (let round = 0; round < 6; round += 1) {
      ;[current] = await storm(1, { rejected: current?.body['fingerprint'] })
      expect(current?.status).toBe(200)
      ;[current] = await storm(1)
    }
    expect(received()).toBe(before + 5)
  })

  it('V4: a pause that the server asked for counts on the other replica too, and shows there', async () => {
    fail({ kind: 'answer', status: 429, headers: { 'retry-after': '600' } })
    const before = received()
    const [first] = await storm(1)
    const grace = await other.resolveAs('grace', 'reports')
    for (const answer of [first, grace]) {
      expect(answer?.status).toBe(503)
      expect(Number(answer?.headers.get('retry-after'))).toBeGreaterThan(300)
    }
    expect(received()).toBe(before + 1)
    const view = await other.call('GET', '/api/v1/connections/graph', 'grace')
    expect(view.body).toMatchObject({ status: 'unavailable' })
  })

  it('V6: what no waiting mends is asked rarely, however many call, and works once it is put right', async () => {
    fail(json(401, { error: 'invalid_client' }))
    const before = received()
    const begunMs = performance.now()
    expect(statuses(await storm(30))).toEqual([502])
    expect(statuses(await storm(6))).toEqual([502])
    // On a slow machine those who came late found another try due.
    const mostTries = 4 + Math.floor((performance.now() - begunMs) / 1000)
    expect(received() - before).toBeLessThanOrEqual(mostTries)
    heal?.()
    expect(statuses(await storm(2))).toEqual([200])
  })

  it('a subject token that is refused keeps nobody else’s from being tried', async () => {
    fail({ kind: 'delay', ms: 300 }, 1)
    const good = await one.tokenOf('ada')
    const before = received()
    heal?.()
    heal = one.identityProvider.fail(token, json(400, { error: 'invalid_grant' }), 1)
    const refused = one.resolveAs('ada', 'reports')
    const [first, second] = await Promise.all([
      refused,
      other.resolve({ upstream: 'reports', subject_token: good }),
    ])
    expect([first.status, second.status].toSorted((a, b) => a - b)).toEqual([200, 401])
    expect(received()).toBe(before + 2)
  })

  it('V8: a replica that died while it asked is taken over from when its lease ends', async () => {
    const { sql } = one.database.database
    await sql`
      INSERT INTO acquisition_attempt
        (issuer, user_id, upstream, name, generation, lease_until, expires_at)
      VALUES (${one.identityProvider.issuer}, 'ada', 'reports', 'exchange',
        nextval('credential_generation'), now() + interval '1 second', now() + interval '1 hour')`
    const before = received()
    expect(statuses(await storm(6))).toEqual([200])
    expect(received()).toBe(before + 1)
  })

  it.each([
    ['and has stored it', false],
    ['and is still asking', true],
  ])(
    'whoever answers so late that another has asked, %s, gives what the other got, and asks no more',
    async (_name, isStillAsking) => {
      const { sql } = one.database.database
      const [slow, next] = [holdRequest(), holdRequest()]
      fail(slow.fault, 1)
      const before = received()
      const late = one.resolveAs('ada', 'reports')
      while (received() === before) await pause(20)
      // As if this replica had stood still for longer than its lease.
      await sql`UPDATE acquisition_attempt SET lease_until = now() WHERE user_id = 'ada'`
      fail(next.fault, 1)
      const taken = other.resolveAs('ada', 'reports')
      while (received() === before + 1) await pause(20)
      if (isStillAsking) slow.release()
      else next.release()
      // Long enough for the one to be stored, or for the other to find that nothing is.
      if (isStillAsking) await pause(300)
      else await taken
      slow.release()
      next.release()
      const [first, second] = await Promise.all([late, taken])
      expect(statuses([first, second])).toEqual([200])
      expect(first.body['fingerprint']).toBe(second.body['fingerprint'])
      expect((await storm(2))[0]?.body['fingerprint']).toBe(second.body['fingerprint'])
      expect(received()).toBe(before + 2)
      expect(await rows('acquisition_attempt')).toBe(0)
    },
  )

  it('V22: a DELETE on one replica refuses what arrives on the other: revoked, not stored', async () => {
    const { fault, release } = holdRequest()
    fail(fault, 1)
    const before = received()
    const resolving = one.resolveAs('ada', 'reports')
    while (received() === before) await pause(20)
    expect((await other.call('DELETE', '/api/v1/connections/reports', 'ada')).status).toBe(204)
    release()
    const answer = await resolving
    expect(answer.body).toMatchObject({ code: 'connect_required', reason: 'not_connected' })
    expect(await rows('credential')).toBe(0)
    expect(await rows('acquisition_attempt')).toBe(0)
  })

  it('V22: a code that is being redeemed on one replica is refused by a DELETE on the other', async () => {
    const { authorizationServer } = one
    const revoked = () => authorizationServer.received(endpoints.revocation).length
    const [before, revokedBefore] = [authorizationServer.received(token).length, revoked()]
    const { fault, release } = holdRequest()
    heal = authorizationServer.fail(token, fault, 1)
    const link = await one.call('POST', '/api/v1/connections/files/connect', 'ada', {})
    const connecting = followConnectLink(createBrowser(), String(link.body['connect_url']), {
      person: 'ada',
      account: 'ada-at-files',
      decision: 'allow',
    })
    while (authorizationServer.received(token).length === before) await pause(20)
    expect(await rows('acquisition_attempt', 'files')).toBe(1)
    expect((await other.call('DELETE', '/api/v1/connections/files', 'ada')).status).toBe(204)
    release()
    const { page } = await connecting
    expect(page.url.searchParams.get('error')).toBe('access_denied')
    expect(await rows('credential', 'files')).toBe(0)
    await expect.poll(revoked).toBe(revokedBefore + 1)
  })
})
