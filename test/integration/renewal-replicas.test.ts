import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { endpoints, type Fault, holdRequest } from '../support/authorization-server.ts'
import { type Answer, startTestBroker, type TestBroker } from '../support/broker.ts'

const token = endpoints.token

function json(status: number, body: Record<string, unknown>): Fault {
  const headers = { 'content-type': 'application/json' }
  return { kind: 'answer', status, headers, body: JSON.stringify(body) }
}

describe('a renewal over two replicas of one database', () => {
  let broker: TestBroker
  let one: TestBroker
  let other: TestBroker
  let heal: (() => void) | undefined

  beforeAll(async () => {
    broker = await startTestBroker()
  })
  afterEach(async () => {
    heal?.()
    await broker.database.database.sql`DELETE FROM token_endpoint_pause`
    await Promise.all([one.stop(), other.stop()])
  })
  afterAll(() => broker.stop())

  /** Ada, newly connected, with a credential of that age, and two replicas that have not seen it. */
  async function start(expiresInSeconds: number, person = 'ada'): Promise<void> {
    await broker.connect(person)
    await broker.age(person, 'files', { expiresInSeconds })
    ;[one, other] = await Promise.all([broker.startBeside(), broker.startBeside()])
  }

  const received = () => broker.authorizationServer.received(token).length
  const revoked = () => broker.authorizationServer.received(endpoints.revocation).length
  const fail = (fault: Fault, times?: number) => {
    heal?.()
    heal = broker.authorizationServer.fail(token, fault, times)
  }
  const fingerprints = (answers: readonly Answer[]) =>
    new Set(answers.map(({ body }) => body['fingerprint']))
  const statuses = (answers: readonly Answer[]) =>
    [...new Set(answers.map(({ status }) => status))].toSorted((a, b) => a - b)

  /** So many calls on either replica at once. */
  const storm = (callers: number, more: Record<string, unknown> = {}, person = 'ada') =>
    Promise.all(
      Array.from({ length: callers }, (_, at) =>
        (at % 2 === 0 ? one : other).resolveAs(person, 'files', more),
      ),
    )

  it('V1: 60 callers at expiry are one request, and all of them get what came of it', async () => {
    await start(-1)
    fail({ kind: 'delay', ms: 400 }, 1)
    const before = received()
    const answers = await storm(60)
    expect(statuses(answers)).toEqual([200])
    expect(fingerprints(answers).size).toBe(1)
    expect(received()).toBe(before + 1)
    const actions = async () => {
      const rows = await broker.records(60)
      const made = (wanted: string) => rows.filter(({ action }) => action === wanted).length
      return { refresh: made('refresh'), inject: made('inject') }
    }
    await expect.poll(actions).toEqual({ refresh: 1, inject: 59 })
  })

  it('V10: callers whose credential is still good wait for nobody', async () => {
    // Somebody who made no call yet: others' connections are renewed in the background by now.
    await start(55, 'grace')
    const { fault, release } = holdRequest()
    fail(fault, 1)
    const before = received()
    const answers = await storm(20, {}, 'grace')
    expect(statuses(answers)).toEqual([200])
    expect(fingerprints(answers).size).toBe(1)
    // They may be answered before it has arrived.
    await expect.poll(received).toBe(before + 1)
    release()
    const renewed = async () =>
      fingerprints([...answers, await other.resolveAs('grace', 'files')]).size
    await expect.poll(renewed).toBe(2)
    expect(received()).toBe(before + 1)
  })

  it('the upstream said 401: one forced renewal for all who saw it on either, and none once it was replaced', async () => {
    await start(3000)
    const seen = await one.resolveAs('ada', 'files')
    await other.resolveAs('ada', 'files')
    const rejected = { rejected: seen.body['fingerprint'] }
    const before = received()
    fail({ kind: 'delay', ms: 200 }, 1)
    const answers = await storm(20, rejected)
    expect(statuses(answers)).toEqual([200])
    expect(fingerprints(answers).size).toBe(1)
    expect(fingerprints([...answers, seen]).size).toBe(2)
    expect(fingerprints([...answers, ...(await storm(4, rejected))]).size).toBe(1)
    expect(received()).toBe(before + 1)
  })

  it('what was rejected is forgotten by the other replica as well', async () => {
    await start(3000)
    const seen = await one.resolveAs('ada', 'files')
    await other.resolveAs('ada', 'files')
    const forced = await one.resolveAs('ada', 'files', { rejected: seen.body['fingerprint'] })
    const fromOther = async () => (await other.resolveAs('ada', 'files')).body['fingerprint']
    await expect.poll(fromOther).toBe(forced.body['fingerprint'])
  })

  it('a grant that a rejected credential shows to be dead ends on the other replica as well', async () => {
    await start(3000)
    const seen = await one.resolveAs('ada', 'files')
    await other.resolveAs('ada', 'files')
    fail(json(400, { error: 'invalid_grant' }))
    const forced = await one.resolveAs('ada', 'files', { rejected: seen.body['fingerprint'] })
    expect(forced.body).toMatchObject({ code: 'connect_required', reason: 'refresh_failed' })
    const fromOther = async () => (await other.resolveAs('ada', 'files')).body['reason']
    await expect.poll(fromOther).toBe('refresh_failed')
  })

  it('what another renewed, and what has ended since, is renewed again', async () => {
    await start(2)
    await other.resolveAs('ada', 'files')
    await new Promise((resolve) => setTimeout(resolve, 2000))
    await one.resolveAs('ada', 'files')
    await broker.age('ada', 'files', { expiresInSeconds: -1 })
    const before = received()
    const answer = await other.resolveAs('ada', 'files')
    expect(answer.status).toBe(200)
    expect(Date.parse(String(answer.body['expires_at']))).toBeGreaterThan(Date.now())
    expect(received()).toBe(before + 1)
  })

  it('five forced renewals a minute over all replicas, then the stored one is given again', async () => {
    await start(3000)
    let current = await one.resolveAs('ada', 'files')
    const before = received()
    for (let round = 0; round < 7; round += 1) {
      const at = round % 2 === 0 ? one : other
      current = await at.resolveAs('ada', 'files', { rejected: current.body['fingerprint'] })
      expect(current.status).toBe(200)
    }
    expect(received()).toBe(before + 5)
  })

  it('a dead grant is asked for once, whoever calls', async () => {
    await start(-1)
    const before = received()
    fail(json(400, { error: 'invalid_grant' }))
    for (const answers of [await storm(20), await storm(4)]) {
      expect(statuses(answers)).toEqual([403])
      expect(answers.every(({ body }) => body['reason'] === 'refresh_failed')).toBe(true)
    }
    expect(received()).toBe(before + 1)
  })

  it('V6: a wrong client costs few requests however many call, and nobody a connection', async () => {
    await start(-1)
    const before = received()
    fail(json(401, { error: 'invalid_client' }))
    const begunMs = performance.now()
    const answers = await storm(40)
    expect(statuses(answers)).toEqual([502])
    expect(statuses(await storm(10))).toEqual([502])
    // One for those who came together; the next waited until another was due, and on a slow machine so did some of them.
    const mostTries = 4 + Math.floor((performance.now() - begunMs) / 1000)
    expect(received() - before).toBeLessThanOrEqual(mostTries)
    heal?.()
    expect(statuses(await storm(2))).toEqual([200])
  })

  it('V3: a server that fails is asked once, and everybody hears when to come back', async () => {
    await start(-1)
    const before = received()
    fail(json(500, {}))
    const begunMs = performance.now()
    for (const answer of [...(await storm(20)), ...(await storm(4))]) {
      expect(answer.status).toBe(503)
      expect(answer.headers.get('retry-after')).toMatch(/^[1-9]\d*$/)
    }
    // The pause is a second at least; on a machine that is quick enough it is one.
    const mostTries = 1 + Math.floor((performance.now() - begunMs) / 1000)
    expect(received() - before).toBeLessThanOrEqual(mostTries)
  })

  it('V8: whoever waits for a replica that died takes over when its lease ends, and is served', async () => {
    await start(-1)
    await broker.database.database.sql`
      UPDATE credential SET lease_owner = gen_random_uuid(), lease_epoch = lease_epoch + 1,
        lease_until = now() + interval '1500 milliseconds', attempt_started_at = now()
      WHERE user_id = 'ada'`
    const before = received()
    const answers = await storm(10)
    expect(statuses(answers)).toEqual([200])
    expect(received()).toBe(before + 1)
  })

  it('V15: waits by looking where notices are lost', async () => {
    await start(-1)
    const { sql } = broker.database.database
    // As behind a pooler that hands connections from one to the other: nobody hears anything.
    const deaf = setInterval(() => {
      void sql`SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'onbehalf notices'`.catch(
        () => {},
      )
    }, 20)
    fail({ kind: 'delay', ms: 300 }, 1)
    const before = received()
    const answers = await storm(10)
    clearInterval(deaf)
    expect(statuses(answers)).toEqual([200])
    expect(received()).toBe(before + 1)
  })

  it('V23: a person who connects while a renewal is under way keeps the new connection', async () => {
    await start(-1)
    const revokedBefore = revoked()
    const { fault, release } = holdRequest()
    fail(fault, 1)
    const before = received()
    const renewing = one.resolveAs('ada', 'files')
    while (received() === before) await new Promise((resolve) => setTimeout(resolve, 20))
    await broker.connect('ada')
    const connected = await broker.resolveAs('ada', 'files')
    release()
    expect(fingerprints([connected, await renewing]).size).toBe(1)
    expect(fingerprints([connected, ...(await storm(4))]).size).toBe(1)
    // It may be of the same grant at the server, which the person did not end.
    expect(revoked()).toBe(revokedBefore)
  })

  it('V22, V23: what an ended connection’s renewal brings after the person connected again is revoked; the new one stays', async () => {
    await start(-1)
    const { fault, release } = holdRequest(true)
    fail(fault, 1)
    const [before, revokedBefore] = [received(), revoked()]
    const renewing = one.resolveAs('ada', 'files')
    while (received() === before) await new Promise((resolve) => setTimeout(resolve, 20))
    expect((await broker.call('DELETE', '/api/v1/connections/files', 'ada')).status).toBe(204)
    await expect.poll(revoked).toBe(revokedBefore + 1)
    await broker.connect('ada')
    const connected = await broker.resolveAs('ada', 'files')
    release()
    expect(fingerprints([connected, await renewing]).size).toBe(1)
    await expect.poll(revoked).toBe(revokedBefore + 2)
    expect(fingerprints([connected, ...(await storm(4))]).size).toBe(1)
    const renewed = await one.resolveAs('ada', 'files', {
      rejected: connected.body['fingerprint'],
    })
    expect(renewed.status).toBe(200)
    expect(fingerprints([connected, renewed]).size).toBe(2)
  })
})
