import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createBrowser, followConnectLink } from '../support/browser.ts'
import { type ActivityRow, startTestBroker, type TestBroker } from '../support/broker.ts'
import { endpoints } from '../support/authorization-server.ts'
import { scanDatabase } from '../support/secret-scan.ts'

/** Requests of the tests' own, which count nowhere. */
const marks = new Set<string>()

describe('every operation leaves exactly one record', () => {
  let broker: TestBroker
  let denied: TestBroker

  beforeAll(async () => {
    broker = await startTestBroker()
    denied = await startTestBroker({ hooks: { policy: () => false } })
  })
  afterAll(async () => {
    await broker.stop()
    await denied.stop()
  })

  /** What an operation records, and nothing more. */
  async function recordsOf(from: TestBroker, operation: () => Promise<unknown>): Promise<string[]> {
    const known = new Set((await settledRecords(from)).map(({ request_id: id }) => id))
    await operation()
    const after = await settledRecords(from)
    return after.filter(({ request_id: id }) => !known.has(id)).map(inWords)
  }

  it('M-A1: inject for a stored credential, acquire for a first one, with the method of the upstream', async () => {
    expect(await recordsOf(broker, () => broker.resolveAs('ada', 'reports'))).toEqual([
      'ada reports acquire token_exchange success by service edge',
    ])
    expect(await recordsOf(broker, () => broker.resolveAs('ada', 'reports'))).toEqual([
      'ada reports inject token_exchange success by service edge',
    ])
    expect(await recordsOf(broker, () => broker.resolveAs('ada', 'graph'))).toEqual([
      'ada graph acquire entra_obo success by service edge',
    ])
  })

  it('M-A1: of callers who share one request, one says acquire and the others inject', async () => {
    broker.identityProvider.fail(endpoints.token, { kind: 'delay', ms: 100 }, 1)
    const token = await broker.tokenOf('grace')
    const words = await recordsOf(broker, () =>
      Promise.all(
        Array.from({ length: 10 }, () =>
          broker.resolve({ upstream: 'reports', subject_token: token }),
        ),
      ),
    )
    expect(words.filter((word) => word.includes('acquire'))).toHaveLength(1)
    expect(words.filter((word) => word.includes('inject'))).toHaveLength(9)
  })

  it('M-A1: refresh for a renewal', async () => {
    await broker.connect('ada')
    // Ended: while it is valid, a renewal that takes its time is nobody's, and the call an injection.
    await broker.age('ada', 'files', { expiresInSeconds: -1 })
    // What this broker recorded comes when it comes, whatever another one's have come.
    await settledRecords(broker)
    const again = await broker.startBeside()
    expect(await recordsOf(again, () => again.resolveAs('ada', 'files'))).toEqual([
      'ada files refresh connect success by service edge',
    ])
    await again.stop()
  })

  it('M-A2: a failed exchange leaves its reason, and no token in any field', async () => {
    broker.identityProvider.fail(
      endpoints.token,
      {
        kind: 'answer',
        status: 400,
        headers: { 'content-type': 'application/json' },
        body: '{"error":"invalid_client","error_description":"CNRY-CS-of-the-server"}',
      },
      1,
    )
    expect(await recordsOf(broker, () => broker.resolveAs('linus', 'reports'))).toEqual([
      'linus reports acquire token_exchange failure upstream_misconfigured by service edge',
    ])
  })

  it('M-A3: not connected is connect/failure, a policy denial inject/failure, a refused token has no person', async () => {
    expect(await recordsOf(broker, () => broker.resolveAs('grace', 'files'))).toEqual([
      'grace files connect connect failure not_connected by service edge',
    ])
    expect(await recordsOf(denied, () => denied.resolveAs('ada', 'reports'))).toEqual([
      'ada reports inject token_exchange failure policy_denied by service edge',
    ])
    expect(
      await recordsOf(broker, () => broker.resolve({ upstream: 'files', subject_token: 'x.y.z' })),
    ).toEqual(['nobody files inject connect failure invalid_subject_token by service edge'])
    expect(
      await recordsOf(broker, () => broker.resolve({ upstream: 'none', subject_token: 'x' })),
    ).toEqual(['nobody no-upstream inject unknown failure unknown_upstream by service edge'])
  })

  it('M-A3: what nobody was authenticated for leaves none, and neither does reading or a malformed request', async () => {
    expect(
      await recordsOf(broker, async () => {
        await broker.resolve({ upstream: 'files', subject_token: 'x' }, 'wrong-key')
        await broker.resolve({ upstream: 'files' })
        await broker.resolve({ upstream: 'files', subject_token: 'x', extra: 1 })
        await broker.call('GET', '/api/v1/connections', 'ada')
        await broker.call('GET', '/api/v1/activity', 'linus')
        await broker.call('POST', '/api/v1/connections/files/connect', 'ada', {})
      }),
    ).toEqual([])
  })

  it('M-A4: a callback leaves one: connected, denied, or a state that is not ours', async () => {
    const link = async () => {
      const answer = await broker.call('POST', '/api/v1/connections/files/connect', 'grace', {})
      return String(answer.body['connect_url'])
    }
    const browser = createBrowser()
    const choices = { person: 'grace', account: 'grace-at-files' }
    const follow = async (decision: 'allow' | 'deny') =>
      followConnectLink(browser, await link(), { ...choices, decision })
    expect(await recordsOf(broker, () => follow('deny'))).toEqual([
      'grace files connect connect failure access_denied by user grace',
    ])
    expect(await recordsOf(broker, () => follow('allow'))).toEqual([
      'grace files connect connect success by user grace',
    ])
    const forged = `${broker.url}/callback/files?code=c&state=${'s'.repeat(43)}`
    expect(await recordsOf(broker, () => browser.open(forged))).toEqual([
      'grace files connect connect failure state_invalid by user grace',
    ])
  })

  it('a disconnect that removed something leaves one, and one that did not leaves none', async () => {
    const disconnect = () => broker.call('DELETE', '/api/v1/connections/files', 'grace')
    expect(await recordsOf(broker, disconnect)).toEqual([
      'grace files disconnect connect success by user grace',
    ])
    expect(await recordsOf(broker, disconnect)).toEqual([])
  })

  it("M-A5, M-V9: takes a caller's request id only when it is a UUID, and returns the one it used", async () => {
    const uuid = '0199a1b2-0000-7000-8000-00000000abcd'
    const post = (requestId: string) =>
      fetch(`${broker.url}/api/v1/resolve`, {
        method: 'POST',
        headers: { authorization: `Bearer ${broker.serviceKey}`, 'x-request-id': requestId },
        body: JSON.stringify({ upstream: 'none', subject_token: 'x' }),
      })
    expect((await post(uuid)).headers.get('x-request-id')).toBe(uuid)
    const made = (await post('CNRY-IN-not-a-uuid')).headers.get('x-request-id')
    expect(made).toMatch(/^[\da-f]{8}-/)
    const ids = (await settledRecords(broker)).map(({ request_id: id }) => id)
    expect(ids.filter((id) => id === uuid || id === made).toSorted()).toEqual(
      [uuid, String(made)].toSorted(),
    )
  })

  it('M-R9: a policy that throws or says no gives no credential', async () => {
    const answer = await denied.resolveAs('ada', 'reports')
    expect(answer.status).toBe(403)
    expect(answer.body['code']).toBe('policy_denied')
    expect(answer.text).not.toContain('Bearer')
  })

  it('admins read the log by any filter; others are refused', async () => {
    const page = await broker.call('GET', '/api/v1/activity?user_id=ada&action=acquire', 'linus')
    expect(page.status).toBe(200)
    const items = page.body['items'] as { user_id: string; action: string }[]
    expect(items.length).toBeGreaterThan(0)
    expect(items.every(({ user_id, action }) => user_id === 'ada' && action === 'acquire')).toBe(
      true,
    )
    expect((await broker.call('GET', '/api/v1/activity', 'ada')).status).toBe(403)
    expect((await broker.call('GET', '/api/v1/activity')).status).toBe(401)
    const own = await broker.call('GET', '/api/v1/me/activity', 'grace')
    const users = (own.body['items'] as { user_id: string }[]).map(({ user_id }) => user_id)
    expect(new Set(users)).toEqual(new Set(['grace']))
  })

  it('no secret of these tests is in any table', async () => {
    for (const one of [broker, denied]) {
      const { findings } = await scanDatabase(one.scan, one.database.database.sql)
      expect(findings).toEqual([])
    }
  })
})

/** The rows of all that was done: one that was left after them is there, and a broker's records are stored in their order. */
async function settledRecords(broker: TestBroker): Promise<readonly ActivityRow[]> {
  const last = randomUUID()
  // What an operation would record behind its answer is before that one, too.
  await new Promise((resolve) => setTimeout(resolve, 100))
  await fetch(`${broker.url}/api/v1/resolve`, {
    method: 'POST',
    headers: { authorization: `Bearer ${broker.serviceKey}`, 'x-request-id': last },
    body: JSON.stringify({ upstream: 'nothing', subject_token: 'x' }),
  })
  const ids = async () => (await broker.records(0)).map(({ request_id: id }) => id)
  await expect.poll(ids).toContain(last)
  marks.add(last)
  return (await broker.records(0)).filter(({ request_id: id }) => !marks.has(id))
}

function inWords(row: ActivityRow): string {
  const outcome = row.reason === null ? row.outcome : `${row.outcome} ${row.reason}`
  const who = row.user_id ?? 'nobody'
  const where = row.upstream ?? 'no-upstream'
  return `${who} ${where} ${row.action} ${row.method} ${outcome} by ${row.actor_kind} ${row.actor_id}`
}
