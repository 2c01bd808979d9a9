import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Answer, startTestBroker, type TestBroker } from '../support/broker.ts'
import { endpoints, holdRequest, tokenExchangeGrant } from '../support/authorization-server.ts'

const refreshGrant = 'refresh_token'

describe('the resolver, on a real authorization server and PostgreSQL', () => {
  let broker: TestBroker

  beforeAll(async () => {
    broker = await startTestBroker()
  })
  afterAll(() => broker.stop())

  const refreshes = () => broker.authorizationServer.requests({ grantType: refreshGrant }).length
  const exchanges = () => broker.identityProvider.requests({ grantType: tokenExchangeGrant }).length
  const value = (answer: Answer) => String(answer.body['value'])

  /** Makes the memory forget, as a restart would: what follows is read from the database. */
  async function restarted(set: { expiresInSeconds: number }, person = 'ada', upstream = 'files') {
    await broker.age(person, upstream, set)
    return broker.startBeside()
  }

  it('M-R5: refuses a person without a connection, with a link and a reason', async () => {
    const answer = await broker.resolveAs('ada', 'files')
    expect(answer.status).toBe(403)
    expect(answer.body).toMatchObject({ code: 'connect_required', reason: 'not_connected' })
    expect(answer.body['connect_url']).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/connect\/[\w-]{43}$/)
  })

  it('gives out the same link again, and piles up no rows', async () => {
    const answers = await Promise.all(
      Array.from({ length: 20 }, () => broker.resolveAs('ada', 'files')),
    )
    const links = new Set(answers.map(({ body }) => body['connect_url']))
    expect(links.size).toBe(1)
    const [row] = await broker.database.database.sql<[{ count: number }]>`
      SELECT count(*)::int AS count FROM connect_ticket WHERE user_id = 'ada'`
    expect(row.count).toBe(1)
  })

  it('M-R1: gives a stored credential without asking the server, and without a statement once warm', async () => {
    await broker.connect('ada')
    const first = await broker.resolveAs('ada', 'files')
    expect(first.status).toBe(200)
    expect(first.body['header']).toBe('Authorization')
    expect(value(first)).toMatch(/^Bearer ey/)
    expect(first.headers.get('cache-control')).toBe('no-store')
    expect(first.body['max_age']).toBe(0)
    const second = await broker.resolveAs('ada', 'files')
    expect(value(second)).toBe(value(first))
    expect(refreshes()).toBe(0)
  })

  it('M-R14: gives two people their own credential on every upstream', async () => {
    await broker.connect('grace')
    for (const upstream of ['files', 'reports', 'graph']) {
      const [ada, grace] = await Promise.all([
        broker.resolveAs('ada', upstream),
        broker.resolveAs('grace', upstream),
      ])
      expect(ada.status, upstream).toBe(200)
      expect(grace.status, upstream).toBe(200)
      expect(value(ada)).not.toBe(value(grace))
      expect(subjectOf(ada)).toMatch(/^ada/)
      expect(subjectOf(grace)).toMatch(/^grace/)
    }
  })

  it('M-R4: exchanges the subject token at the first call (RFC 8693), once', async () => {
    const before = exchanges()
    await broker.resolveAs('linus', 'reports')
    await broker.resolveAs('linus', 'reports')
    expect(exchanges() - before).toBe(1)
  })

  it('M-R10: 200 concurrent first calls of one person make one upstream request', async () => {
    const before = exchanges()
    broker.identityProvider.fail(endpoints.token, { kind: 'delay', ms: 100 }, 1)
    await broker.call('DELETE', '/api/v1/connections/reports', 'linus')
    const token = await broker.tokenOf('linus')
    const answers = await Promise.all(
      Array.from({ length: 200 }, () =>
        broker.resolve({ upstream: 'reports', subject_token: token }),
      ),
    )
    expect(answers.map(({ status }) => status)).toEqual(Array.from({ length: 200 }, () => 200))
    expect(new Set(answers.map(value)).size).toBe(1)
    expect(exchanges() - before).toBe(1)
  })

  it('M-R11: a caller that goes away does not cancel the work for the others', async () => {
    await broker.call('DELETE', '/api/v1/connections/reports', 'linus')
    const { fault, release } = holdRequest()
    broker.identityProvider.fail(endpoints.token, fault, 1)
    const received = () => broker.identityProvider.received(endpoints.token).length
    const before = received()
    const token = await broker.tokenOf('linus')
    const abort = new AbortController()
    const first = fetch(`${broker.url}/api/v1/resolve`, {
      method: 'POST',
      signal: abort.signal,
      headers: { authorization: `Bearer ${broker.serviceKey}` },
      body: JSON.stringify({ upstream: 'reports', subject_token: token }),
    })
    await expect.poll(received).toBe(before + 1)
    const second = broker.resolve({ upstream: 'reports', subject_token: token })
    abort.abort()
    await expect(first).rejects.toThrow()
    release()
    expect((await second).status).toBe(200)
  })

  it('M-R8: a refused exchange gives no credential and stores none', async () => {
    broker.identityProvider.fail(
      endpoints.token,
      {
        kind: 'answer',
        status: 400,
        headers: { 'content-type': 'application/json' },
        body: '{"error":"invalid_grant","error_description":"CNRY-AT-secret"}',
      },
      1,
    )
    await broker.call('DELETE', '/api/v1/connections/reports', 'grace')
    const answer = await broker.resolveAs('grace', 'reports')
    expect(answer.status).toBe(401)
    expect(answer.body['code']).toBe('invalid_subject_token')
    expect(answer.text).not.toContain('CNRY')
    const [row] = await broker.database.database.sql<[{ count: number }]>`
      SELECT count(*)::int AS count FROM credential WHERE user_id = 'grace' AND upstream = 'reports'`
    expect(row.count).toBe(0)
  })

  it('M-X4: an asserted person has no subject token to exchange, so the server is not asked', async () => {
    const before = exchanges()
    const answer = await broker.resolve({
      upstream: 'reports',
      user: { issuer: broker.identityProvider.issuer, id: 'nobody-signed-in' },
    })
    expect(answer.status).toBe(403)
    expect(answer.body).toMatchObject({
      code: 'connect_required',
      reason: 'not_connected',
      connect_url: `${broker.url}/connections`,
    })
    expect(exchanges()).toBe(before)
  })

  it('serves an asserted person what is stored for them, and refuses an issuer that is not configured', async () => {
    const stored = await broker.resolve({
      upstream: 'files',
      user: { issuer: broker.identityProvider.issuer, id: 'ada' },
    })
    expect(stored.status).toBe(200)
    expect(subjectOf(stored)).toBe('ada-at-files')
    const foreign = await broker.resolve({
      upstream: 'files',
      user: { issuer: 'https://other.example.com', id: 'ada' },
    })
    expect(foreign.status).toBe(400)
    expect(foreign.body['field']).toBe('user.issuer')
  })

  it('`rejected` forces one renewal for all who name it, and none for another value', async () => {
    const first = await broker.resolveAs('ada', 'files')
    const before = refreshes()
    const token = await broker.tokenOf('ada')
    const rejected = first.body['fingerprint']
    const answers = await Promise.all(
      Array.from({ length: 20 }, () =>
        broker.resolve({ upstream: 'files', subject_token: token, rejected }),
      ),
    )
    expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([200]))
    expect(new Set(answers.map(value)).size).toBe(1)
    expect(answers[0]?.body['fingerprint']).not.toBe(rejected)
    expect(refreshes() - before).toBe(1)
    const late = await broker.resolve({ upstream: 'files', subject_token: token, rejected })
    expect(late.body['fingerprint']).toBe(answers[0]?.body['fingerprint'])
    expect(refreshes() - before).toBe(1)
  })

  it('`rejected` renews at most 5 times a minute; past that the stored one is given again', async () => {
    let answer = await broker.resolveAs('grace', 'files')
    const before = refreshes()
    for (let call = 0; call < 8; call += 1) {
      answer = await broker.resolveAs('grace', 'files', { rejected: answer.body['fingerprint'] })
      expect(answer.status).toBe(200)
    }
    expect(refreshes() - before).toBe(5)
  })

  it('M-R3: refreshes a connection close to its end once, and keeps the rotated token (M-N7)', async () => {
    const again = await restarted({ expiresInSeconds: 30 })
    const before = refreshes()
    const token = await again.tokenOf('ada')
    const answers = await Promise.all(
      Array.from({ length: 12 }, () => again.resolve({ upstream: 'files', subject_token: token })),
    )
    expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([200]))
    // Nobody waits for long for what is not needed yet.
    await expect.poll(() => refreshes() - before).toBe(1)
    await again.stop()
    expect(refreshes() - before).toBe(1)
    expect(broker.authorizationServer.reuses()).toBe(0)
  })

  it('serves a credential that is still valid while its refresh fails for a passing reason', async () => {
    const again = await restarted({ expiresInSeconds: 30 })
    const heal = broker.authorizationServer.fail(endpoints.token, {
      kind: 'answer',
      status: 500,
      body: 'down',
    })
    const answer = await again.resolveAs('ada', 'files')
    expect(answer.status).toBe(200)
    heal()
    await again.stop()
  })

  it('refuses an ended credential with 503 and Retry-After while its server fails, and heals by itself', async () => {
    const again = await restarted({ expiresInSeconds: -1 })
    await again.database.database
      .sql`UPDATE credential SET next_try_at = NULL WHERE user_id = 'ada'`
    const heal = broker.authorizationServer.fail(endpoints.token, {
      kind: 'answer',
      status: 429,
      headers: { 'retry-after': '60' },
      body: 'slow down',
    })
    const before = broker.authorizationServer.received(endpoints.token).length
    const refused = await again.resolveAs('ada', 'files')
    expect(refused.status).toBe(503)
    expect(refused.body['code']).toBe('upstream_unavailable')
    expect(Number(refused.headers.get('retry-after'))).toBeLessThanOrEqual(60)
    const paused = await again.resolveAs('ada', 'files')
    expect(paused.status).toBe(503)
    expect(broker.authorizationServer.received(endpoints.token).length - before).toBe(1)
    heal()
    // The minute passes.
    const { sql } = broker.database.database
    await sql`UPDATE token_endpoint_pause SET paused_until = now()`
    await sql`UPDATE credential SET next_try_at = now() WHERE user_id = 'ada'`
    expect((await again.resolveAs('ada', 'files')).status).toBe(200)
    await again.stop()
  })

  it('M-N8: without a refresh token a credential is served to its end, then its person connects again', async () => {
    await broker.connect('ada')
    await broker.database.database.sql`
      UPDATE credential SET refresh_token = NULL WHERE user_id = 'ada' AND upstream = 'files'`
    const before = refreshes()
    const ending = await restarted({ expiresInSeconds: 30 })
    expect((await ending.resolveAs('ada', 'files')).status).toBe(200)
    await ending.stop()
    const ended = await restarted({ expiresInSeconds: -1 })
    const answer = await ended.resolveAs('ada', 'files')
    expect(answer.status).toBe(403)
    expect(answer.body).toMatchObject({ code: 'connect_required', reason: 'credential_expired' })
    expect(String(answer.body['connect_url'])).toContain('/connect/')
    expect(refreshes()).toBe(before)
    await ended.stop()
    await broker.connect('ada')
  })

  it('after a crash between send and answer, a strict server is not asked again before the old credential has ended', async () => {
    const again = await restarted({ expiresInSeconds: 30 })
    await again.database.database.sql`
      UPDATE credential SET attempt_started_at = now() - interval '1 minute', next_try_at = NULL
      WHERE user_id = 'ada' AND upstream = 'files'`
    const before = broker.authorizationServer.received(endpoints.token).length
    expect((await again.resolveAs('ada', 'files')).status).toBe(200)
    expect(broker.authorizationServer.received(endpoints.token)).toHaveLength(before)
    await again.stop()
    const ended = await restarted({ expiresInSeconds: -1 })
    await ended.database.database
      .sql`UPDATE credential SET next_try_at = NULL WHERE user_id = 'ada'`
    expect((await ended.resolveAs('ada', 'files')).status).toBe(200)
    expect(broker.authorizationServer.received(endpoints.token)).toHaveLength(before + 1)
    await ended.stop()
  })

  it('M-R13: a dead grant asks for a new connection and costs no further request', async () => {
    const again = await restarted({ expiresInSeconds: -1 }, 'grace')
    const heal = broker.authorizationServer.fail(endpoints.token, {
      kind: 'answer',
      status: 400,
      headers: { 'content-type': 'application/json' },
      body: '{"error":"invalid_grant"}',
    })
    const before = broker.authorizationServer.received(endpoints.token).length
    for (let call = 0; call < 3; call += 1) {
      const answer = await again.resolveAs('grace', 'files')
      expect(answer.status).toBe(403)
      expect(answer.body).toMatchObject({ code: 'connect_required', reason: 'refresh_failed' })
    }
    expect(broker.authorizationServer.received(endpoints.token).length - before).toBe(1)
    heal()
    const list = await again.call('GET', '/api/v1/connections/files', 'grace')
    expect(list.body).toMatchObject({ status: 'reconnect_required', reason: 'refresh_failed' })
    await again.stop()
  })

  it('M-R12, M-R2: near its end an exchange is made again, once, and its failure keeps the old one', async () => {
    await broker.resolveAs('ada', 'reports')
    const again = await restarted({ expiresInSeconds: 30 }, 'ada', 'reports')
    const heal = broker.identityProvider.fail(endpoints.token, {
      kind: 'answer',
      status: 503,
      body: '',
    })
    const before = broker.identityProvider.received(endpoints.token).length
    expect((await again.resolveAs('ada', 'reports')).status).toBe(200)
    await expect
      .poll(() => broker.identityProvider.received(endpoints.token).length - before)
      .toBe(1)
    await again.stop()
    heal()
    // The pause after a failure is every replica's.
    await broker.database.database.sql`UPDATE acquisition_attempt SET next_try_at = now()`
    const healed = await restarted({ expiresInSeconds: 30 }, 'ada', 'reports')
    const exchanged = exchanges()
    expect((await healed.resolveAs('ada', 'reports')).status).toBe(200)
    await expect.poll(() => exchanges() - exchanged).toBe(1)
    await healed.stop()
  })

  it('a corrupt row is 503 credential_corrupt, an administration record, and never another row', async () => {
    await broker.database.database.sql`
      UPDATE credential SET access_token = (
        SELECT access_token FROM credential WHERE user_id = 'ada' AND upstream = 'reports')
      WHERE user_id = 'ada' AND upstream = 'files'`
    const again = await broker.startBeside()
    const answer = await again.resolveAs('ada', 'files')
    expect(answer.status).toBe(503)
    expect(answer.body['code']).toBe('credential_corrupt')
    const metrics = await again.call('GET', '/metrics')
    expect(metrics.text).toMatch(/onbehalf_credential_corrupt_total 1/)
    await again.stop()
    const corrupt = async () =>
      (await broker.records(1)).filter(({ action }) => action === 'credential_corrupt')
    await expect.poll(corrupt).toHaveLength(1)
    await broker.connect('ada')
    expect((await broker.resolveAs('ada', 'files')).status).toBe(200)
  })

  it('no secret of these tests is in any table or metric', async () => {
    const { scanDatabase } = await import('../support/secret-scan.ts')
    const { findings, cells } = await scanDatabase(broker.scan, broker.database.database.sql)
    expect(cells).toBeGreaterThan(50)
    expect(findings).toEqual([])
    const metrics = await broker.call('GET', '/metrics')
    expect(broker.scan.find('metrics', metrics.text)).toEqual([])
  })
})

function subjectOf(answer: Answer): string {
  const token = String(answer.body['value']).replace('Bearer ', '')
  const claims = JSON.parse(Buffer.from(String(token.split('.')[1]), 'base64url').toString()) as {
    sub: string
  }
  return claims.sub
}
