import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { endpoints, holdRequest } from '../support/authorization-server.ts'
import { startTestBroker, type TestBroker } from '../support/broker.ts'

describe('a broker that is told to stop', () => {
  let broker: TestBroker

  beforeAll(async () => {
    broker = await startTestBroker()
    await broker.connect('ada')
  })
  afterAll(() => broker.stop())

  it('stores the answer of a refresh that nobody waits for any more, and its record', async () => {
    await broker.age('ada', 'files', { expiresInSeconds: 30 })
    const stopping = await broker.startBeside()
    const refreshes = () => broker.authorizationServer.requests({ grantType: 'refresh_token' })
    const before = refreshes().length
    const known = (await broker.records(1)).map(({ request_id: id }) => id)
    const { fault, release } = holdRequest()
    broker.authorizationServer.fail(endpoints.token, fault, 1)
    // An early refresh keeps nobody waiting: the caller has the old credential before the server answers.
    expect((await stopping.resolveAs('ada', 'files')).status).toBe(200)
    expect(refreshes()).toHaveLength(before)
    const stopped = stopping.stop()
    release()
    await stopped
    expect(refreshes()).toHaveLength(before + 1)
    const rows = await broker.records(known.length + 2)
    const own = rows.filter(({ request_id: id }) => !known.includes(id))
    expect(own.map(({ action, outcome }) => `${action} ${outcome}`).toSorted()).toEqual([
      'inject success',
      'refresh success',
    ])

    // The server is strict: had the new refresh token been lost, the old one would end the connection now.
    const next = await broker.startBeside()
    await broker.age('ada', 'files', { expiresInSeconds: -1 })
    const answer = await next.resolveAs('ada', 'files')
    expect(answer.body).toMatchObject({ header: 'Authorization' })
    expect(broker.authorizationServer.reuses()).toBe(0)
    await next.stop()
  })
})
