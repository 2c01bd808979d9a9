import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { endpoints } from '../support/authorization-server.ts'
import { startTestBroker, type TestBroker } from '../support/broker.ts'

describe('a token endpoint that one upstream names by its URL and another by its issuer', () => {
  let broker: TestBroker
  let other: TestBroker
  let heal: (() => void) | undefined

  beforeAll(async () => {
    broker = await startTestBroker({
      change: ({ identity, upstreams }) => {
        const { credential } = upstreams.reports
        credential['issuer'] = identity.issuers[0]?.['issuer']
        delete credential['token_endpoint']
      },
    })
    other = await broker.startBeside()
    // Where the issuer's token endpoint is, whoever uses it knows.
    expect((await broker.resolveAs('linus', 'reports')).status).toBe(200)
  })
  afterEach(async () => {
    heal?.()
    await broker.database.database.sql`DELETE FROM token_endpoint_pause`
    await broker.database.database.sql`DELETE FROM acquisition_attempt`
  })
  afterAll(async () => {
    await other.stop()
    await broker.stop()
  })

  it.each([
    ['reports', 'graph'],
    ['graph', 'reports'],
  ])('V4: what it says to %s pauses %s too, on every replica', async (asking, waiting) => {
    const received = () => broker.identityProvider.received(endpoints.token).length
    heal = broker.identityProvider.fail(endpoints.token, {
      kind: 'answer',
      status: 429,
      headers: { 'retry-after': '600' },
    })
    const before = received()
    const answers = [
      await broker.resolveAs('ada', asking),
      await broker.resolveAs('ada', waiting),
      await other.resolveAs('grace', waiting),
    ]
    for (const answer of answers) {
      expect(answer.status).toBe(503)
      expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(300)
    }
    expect(received()).toBe(before + 1)
  })
})
