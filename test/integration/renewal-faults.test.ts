import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { endpoints, type Fault, holdRequest, rewriteJson } from '../support/authorization-server.ts'
import { type Answer, startTestBroker, type TestBroker } from '../support/broker.ts'

const token = endpoints.token

function json(status: number, body: Record<string, unknown>): Fault {
  const headers = { 'content-type': 'application/json' }
  return { kind: 'answer', status, headers, body: JSON.stringify(body) }
}

/** Seconds by which a broker on a busy machine may be wrong about the clock of its database. */
const clockError = 2

/** Seconds until the credential of an answer ends; undefined for one without an end. */
function secondsLeft({ body }: Answer): number | undefined {
  const { expires_at: expiresAt } = body
  if (typeof expiresAt !== 'string') return undefined
  return (Date.parse(expiresAt) - Date.now()) / 1000
}

/** Calls until it answers so, as a client that comes back after `Retry-After` would. */
async function eventually(call: () => Promise<Answer>, status: number): Promise<Answer> {
  const giveUpAt = Date.now() + 30_000
  for (;;) {
    const answer = await call()
    if (answer.status === status || Date.now() > giveUpAt) return answer
    await pause(200)
  }
}

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

describe('what a server says of a lifetime and of scopes', () => {
  let broker: TestBroker
  beforeAll(async () => {
    broker = await startTestBroker({ refreshReuse: 'none' })
  })
  afterAll(() => broker.stop())

  async function connectedWith(change: Parameters<typeof rewriteJson>[0]): Promise<Answer> {
    broker.authorizationServer.fail(token, rewriteJson(change), 1)
    await broker.connect('ada')
    return broker.resolveAs('ada', 'files')
  }

  it('takes expires_in as text', async () => {
    const answer = await connectedWith((body) => ({ ...body, expires_in: '7200' }))
    expect(secondsLeft(answer)).toBeGreaterThan(7000)
    expect(secondsLeft(answer)).toBeLessThanOrEqual(7200 + clockError)
  })

  it('counts default_lifetime where none is named and there is a refresh token, and no end where there is none', async () => {
    const withRefresh = await connectedWith(({ expires_in: _none, ...body }) => body)
    expect(secondsLeft(withRefresh)).toBeGreaterThan(3500)
    expect(secondsLeft(withRefresh)).toBeLessThanOrEqual(3600 + clockError)
    const without = await connectedWith(
      ({ expires_in: _none, refresh_token: _gone, ...body }) => body,
    )
    expect(without.status).toBe(200)
    expect(without.body['expires_at']).toBeNull()
    const view = await broker.call('GET', '/api/v1/connections/files', 'ada')
    expect(view.body).toMatchObject({ status: 'connected', reason: null, expires_at: null })
  })

  it('a lifetime that makes no sense counts as none', async () => {
    const answer = await connectedWith((body) => ({ ...body, expires_in: -5 }))
    expect(answer.status).toBe(200)
    expect(secondsLeft(answer)).toBeGreaterThan(3500)
  })

  it('reads scopes with commas', async () => {
    await connectedWith((body) => ({ ...body, scope: 'files:read,files:write' }))
    const view = await broker.call('GET', '/api/v1/connections/files', 'ada')
    expect(view.body['scopes']).toEqual(['files:read', 'files:write'])
  })

  it('goes on with the refresh token that a refresh did not replace', async () => {
    await broker.connect('ada')
    for (let round = 0; round < 2; round += 1) {
      broker.authorizationServer.fail(
        token,
        rewriteJson(({ refresh_token: _kept, ...body }) => body),
        1,
      )
      await broker.age('ada', 'files', { expiresInSeconds: -1 })
      const replica = await broker.startBeside()
      expect((await replica.resolveAs('ada', 'files')).status).toBe(200)
      await replica.stop()
    }
    const view = await broker.call('GET', '/api/v1/connections/files', 'ada')
    expect(view.body['status']).toBe('connected')
  })

  it('one that came from a refresh is not refreshed early again before half of its life is over', async () => {
    // The first has ended, so its refresh is waited for; the second lives 40 s, always within refresh_before (60s).
    await broker.connect('ada')
    await broker.age('ada', 'files', { expiresInSeconds: -1 })
    const replica = await broker.startBeside()
    const heal = broker.authorizationServer.fail(
      token,
      rewriteJson((body) => ({ ...body, expires_in: 40 })),
    )
    const first = await replica.resolveAs('ada', 'files')
    const before = broker.authorizationServer.received(token).length
    const second = await replica.resolveAs('ada', 'files')
    expect(second.body['fingerprint']).toBe(first.body['fingerprint'])
    expect(broker.authorizationServer.received(token)).toHaveLength(before)
    heal()
    await replica.stop()
  })

  it('one that nothing can renew is served until its end, then asked for as credential_expired', async () => {
    const first = await connectedWith(({ refresh_token: _gone, ...body }) => body)
    expect(first.status).toBe(200)
    const rejected = { rejected: first.body['fingerprint'] }
    for (let call = 0; call < 7; call += 1) {
      const forced = await broker.resolveAs('ada', 'files', rejected)
      expect(forced.status).toBe(403)
      expect(forced.body).toMatchObject({ code: 'connect_required', reason: 'credential_expired' })
    }
    expect((await broker.resolveAs('ada', 'files')).status).toBe(200)
    // As late as this: how long all of that takes is the machine's business.
    await broker.age('ada', 'files', { expiresInSeconds: 3 })
    const replica = await broker.startBeside()
    const ended = await eventually(() => replica.resolveAs('ada', 'files'), 403)
    expect(ended.body).toMatchObject({ code: 'connect_required', reason: 'credential_expired' })
    const view = await replica.call('GET', '/api/v1/connections/files', 'ada')
    expect(view.body).toMatchObject({ status: 'expired', reason: 'credential_expired' })
    await replica.stop()
  })
})

describe('verdicts on a refresh', () => {
  let broker: TestBroker
  beforeAll(async () => {
    broker = await startTestBroker()
  })
  afterAll(() => broker.stop())

  /** Seconds left that are few enough for an early refresh (`refresh_before`), and else as many as can be: starting a replica takes some. */
  const early = 55
  const received = () => broker.authorizationServer.received(token).length
  const fail = (fault: Fault, times?: number) =>
    broker.authorizationServer.fail(token, fault, times)

  /** Ada, newly connected, with a credential of that age, at a broker that has not seen it. */
  async function aged(expiresInSeconds: number, run: (replica: TestBroker) => Promise<void>) {
    await broker.connect('ada')
    await broker.age('ada', 'files', { expiresInSeconds })
    const replica = await broker.startBeside()
    try {
      await run(replica)
    } finally {
      await replica.stop()
    }
  }

  it.each([
    'invalid_client',
    'unauthorized_client',
    'unsupported_grant_type',
    'invalid_scope',
    'invalid_target',
  ])(
    '%s is 502 upstream_misconfigured each time, and put right costs nobody a connection',
    async (error) => {
      await aged(-1, async (replica) => {
        const heal = fail(json(400, { error }))
        for (let call = 0; call < 2; call += 1) {
          const answer = await replica.resolveAs('ada', 'files')
          expect(answer.status).toBe(502)
          expect(answer.body['code']).toBe('upstream_misconfigured')
        }
        const view = await replica.call('GET', '/api/v1/connections/files', 'ada')
        expect(view.body).toMatchObject({ status: 'unavailable', reason: null })
        heal()
        expect((await replica.resolveAs('ada', 'files')).status).toBe(200)
        const healed = await replica.call('GET', '/api/v1/connections/files', 'ada')
        expect(healed.body['status']).toBe('connected')
      })
    },
  )

  it.each<[string, Fault]>([
    ['misconfigured', json(401, { error: 'invalid_client' })],
    ['a server that is down', json(500, { error: 'invalid_grant' })],
    ['HTML', { kind: 'answer', status: 200, body: '<html>' }],
    ['an empty answer', { kind: 'answer', status: 200, body: '' }],
    ['a cut answer', { kind: 'cut', afterBytes: 20 }],
    ['asking for another factor', json(400, { error: 'interaction_required', claims: '{"a":{}}' })],
    ['blocked by a policy', json(400, { error: 'invalid_grant', error_codes: [53003] })],
    ['an unknown error', json(400, { error: 'surprise' })],
    ['too many requests', { kind: 'answer', status: 429, body: '' }],
  ])('early, a credential that is still valid is served: %s', async (_name, fault) => {
    await aged(early, async (replica) => {
      const heal = fail(fault)
      const before = received()
      const begunMs = performance.now()
      for (let call = 0; call < 3; call += 1) {
        expect((await replica.resolveAs('ada', 'files')).status).toBe(200)
      }
      await expect.poll(received).toBeGreaterThan(before)
      // On a machine that is quick enough it is one.
      const mostTries = 1 + Math.floor((performance.now() - begunMs) / 1000)
      expect(received() - before).toBeLessThanOrEqual(mostTries)
      heal()
      const view = await replica.call('GET', '/api/v1/connections/files', 'ada')
      expect(view.body).toMatchObject({ status: 'connected', reason: null })
    })
  })

  it('early, a dead grant ends the connection although its credential had some life left', async () => {
    await aged(early, async (replica) => {
      fail(json(400, { error: 'invalid_grant' }), 1)
      const before = received()
      // Nobody waits for long for a server whose answer is not needed yet.
      const ended = await eventually(() => replica.resolveAs('ada', 'files'), 403)
      for (const answer of [ended, await replica.resolveAs('ada', 'files')]) {
        expect(answer.status).toBe(403)
        expect(answer.body['reason']).toBe('refresh_failed')
      }
      expect(received()).toBe(before + 1)
    })
  })

  it('an early refresh that is slow keeps nobody; what comes of it is a record of the system', async () => {
    await aged(early, async (replica) => {
      const { fault, release } = holdRequest()
      fail(fault, 1)
      // A test before may have left such a record, too, where its refresh took longer than its callers wait.
      const known = new Set((await broker.records(1)).map(({ request_id: id }) => id))
      const first = await replica.resolveAs('ada', 'files')
      expect(first.status).toBe(200)
      release()
      const requestId = String(first.headers.get('x-request-id'))
      const giveUpAt = Date.now() + 30_000
      let renewed = first
      while (renewed.body['fingerprint'] === first.body['fingerprint'] && Date.now() < giveUpAt) {
        renewed = await replica.resolveAs('ada', 'files')
      }
      expect(renewed.body['fingerprint']).not.toBe(first.body['fingerprint'])
      const recorded = async () => {
        const rows = await broker.records(1)
        return rows
          .filter(({ request_id: id }) => !known.has(id))
          .filter((row) => row.request_id === requestId || row.actor_kind === 'system')
          .map(({ actor_kind: actor, action, outcome }) => `${actor} ${action} ${outcome}`)
          .toSorted()
      }
      await expect.poll(recorded).toEqual(['service inject success', 'system refresh success'])
    })
  })

  it('an ended credential whose server asks the person for something: 403 with a link that carries the challenge', async () => {
    await aged(-1, async (replica) => {
      const claims = '{"access_token":{"acrs":{"value":"c1"}}}'
      const heal = fail(json(400, { error: 'interaction_required', claims }))
      const answer = await replica.resolveAs('ada', 'files')
      expect(answer.status).toBe(403)
      expect(answer.body).toMatchObject({ code: 'connect_required', reason: 'insufficient_scope' })
      expect(answer.text).not.toContain('acrs')
      const again = await replica.resolveAs('ada', 'files')
      expect(again.body['connect_url']).toBe(answer.body['connect_url'])
      heal()
      expect((await replica.resolveAs('ada', 'files')).status).toBe(200)
    })
  })

  it('strict: after a lost answer the token rests until the old credential has ended, then is tried once more', async () => {
    let before = 0
    await aged(early, async (replica) => {
      fail({ kind: 'lose' }, 1)
      before = received()
      for (let call = 0; call < 4; call += 1) {
        expect((await replica.resolveAs('ada', 'files')).status).toBe(200)
        await expect.poll(received).toBeGreaterThan(before)
        await pause(300)
      }
      expect(received()).toBe(before + 1)
    })
    // Ended by another's hand, and read by another replica: this one may be as slow as its machine.
    await broker.age('ada', 'files', { expiresInSeconds: -1 })
    const replica = await broker.startBeside()
    const ended = await eventually(() => replica.resolveAs('ada', 'files'), 403)
    expect(ended.body).toMatchObject({
      code: 'connect_required',
      reason: 'refresh_outcome_unknown',
    })
    expect(received()).toBe(before + 2)
    const view = await replica.call('GET', '/api/v1/connections/files', 'ada')
    expect(view.body).toMatchObject({
      status: 'reconnect_required',
      reason: 'refresh_outcome_unknown',
    })
    await replica.stop()
  })

  it('strict: the one risky try may succeed, where the server had not carried the first out', async () => {
    await aged(-1, async (replica) => {
      fail({ kind: 'answer', status: 200, body: '' }, 1)
      const answer = await replica.resolveAs('ada', 'files')
      expect(answer.status).toBe(200)
    })
  })

  it('V4: Retry-After pauses the endpoint for everybody on every replica, as a date too, at most 900 s', async () => {
    await broker.connect('grace')
    await broker.age('grace', 'files', { expiresInSeconds: -1 })
    for (const retryAfter of ['5000', new Date(Date.now() + 5_000_000).toUTCString()]) {
      await aged(-1, async (replica) => {
        const other = await broker.startBeside()
        const heal = fail({ kind: 'answer', status: 503, headers: { 'retry-after': retryAfter } })
        const before = received()
        const ada = await replica.resolveAs('ada', 'files')
        const again = await other.resolveAs('ada', 'files')
        const grace = await other.resolveAs('grace', 'files')
        for (const answer of [ada, again, grace]) {
          expect(answer.status).toBe(503)
          expect(answer.body['code']).toBe('upstream_unavailable')
          expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(600)
          expect(Number(answer.headers.get('retry-after'))).toBeLessThanOrEqual(900)
        }
        expect(received()).toBe(before + 1)
        heal()
        await other.stop()
      })
      await broker.database.database.sql`DELETE FROM token_endpoint_pause`
    }
  })

  it('an ended credential is unavailable as long as its server fails', async () => {
    await aged(-1, async (replica) => {
      const heal = fail(json(502, {}))
      expect((await replica.resolveAs('ada', 'files')).status).toBe(503)
      await pause(2500)
      const view = await replica.call('GET', '/api/v1/connections/files', 'ada')
      expect(view.body).toMatchObject({ status: 'unavailable', reason: null })
      heal()
      expect((await eventually(() => replica.resolveAs('ada', 'files'), 200)).status).toBe(200)
    })
  })

  it('a forced renewal that fails for a passing reason is 503, though the credential is young', async () => {
    await aged(3000, async (replica) => {
      const first = await replica.resolveAs('ada', 'files')
      fail(json(500, {}), 1)
      const forced = await replica.resolveAs('ada', 'files', {
        rejected: first.body['fingerprint'],
      })
      expect(forced.status).toBe(503)
      expect(forced.body['code']).toBe('upstream_unavailable')
      expect((await replica.resolveAs('ada', 'files')).status).toBe(200)
    })
  })

  it('counts refreshes, the failed ones too', async () => {
    await aged(-1, async (replica) => {
      fail(json(400, { error: 'invalid_grant' }), 1)
      await replica.resolveAs('ada', 'files')
      await replica.resolveAs('ada', 'files')
      const metrics = await replica.call('GET', '/metrics')
      expect(metrics.text).toContain('onbehalf_refresh_total{result="failure"} 1')
      expect(metrics.text).toContain('onbehalf_refresh_total{result="success"} 0')
    })
  })
})

describe('a server that lets a refresh token be used again', () => {
  it('is asked again at once after a lost answer', async () => {
    const broker = await startTestBroker({
      refreshReuse: 'none',
      change: (config) => {
        config.upstreams.files.credential['refresh_reuse'] = 'none'
      },
    })
    await broker.connect('ada')
    await broker.age('ada', 'files', { expiresInSeconds: -1 })
    const replica = await broker.startBeside()
    broker.authorizationServer.fail(token, { kind: 'lose' }, 1)
    const before = broker.authorizationServer.received(token).length
    const first = await replica.resolveAs('ada', 'files')
    expect(first.status).toBe(200)
    expect(secondsLeft(first)).toBeGreaterThan(3000)
    expect(broker.authorizationServer.received(token)).toHaveLength(before + 2)
    await replica.stop()
    await broker.stop()
  })
})
