import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { startTestBroker, type TestBroker } from '../support/broker.ts'

describe('connections of an upstream that is configured no more', () => {
  let before: TestBroker
  let broker: TestBroker

  beforeAll(async () => {
    before = await startTestBroker({
      change: ({ identity, upstreams }) => {
        identity.services.push({ id: 'hr', key: hrKey, upstreams: [], may_offboard: true })
        identity['admins'] = { users: ['linus'] }
        upstreams.reports['allow'] = { users: ['linus'] }
      },
    })
    broker = await before.startBeside(({ upstreams }) => {
      delete (upstreams as Partial<typeof upstreams>).files
    })
  })
  beforeEach(() => before.connect('ada'))
  afterAll(async () => {
    await broker.stop()
    await before.stop()
  })

  const hrKey = 'hr-key-0123456789-0123456789-0123456789'
  const path = '/api/v1/connections/files'
  const person = () => `${encodeURIComponent(before.identityProvider.issuer)}/ada`
  const rows = async () => {
    const [row] = await before.database.database.sql<[{ count: number }]>`
      SELECT count(*)::int AS count FROM credential WHERE user_id = 'ada' AND upstream = 'files'`
    return row.count
  }

  it('are shown to their person alone, as nothing that works or can be connected', async () => {
    const list = await broker.call('GET', '/api/v1/connections', 'ada')
    const views = list.body['connections'] as Record<string, unknown>[]
    expect(views.map(({ upstream }) => upstream)).toEqual(['files', 'graph'])
    expect(views[0]).toMatchObject({
      upstream: 'files',
      display_name: 'files',
      mode: null,
      status: 'reconnect_required',
      reason: 'configuration_changed',
      method: 'connect',
      connect_path: null,
    })
    expect(Object.keys(views[0] ?? {})).toEqual(Object.keys(views[1] ?? {}))
    expect((await broker.call('GET', path, 'ada')).body).toEqual(views[0])
    expect((await broker.call('GET', path, 'grace')).status).toBe(404)
    expect((await broker.call('POST', `${path}/connect`, 'ada', {})).status).toBe(404)
    expect((await broker.resolveAs('ada', 'files')).status).toBe(404)
  })

  it('are removed by their person, with a record, and then unknown', async () => {
    expect((await broker.call('DELETE', path, 'grace')).status).toBe(404)
    expect(await rows()).toBe(1)
    const answer = await broker.call('DELETE', path, 'ada')
    expect(answer.status).toBe(204)
    expect(await rows()).toBe(0)
    // Its own and no other: the record of the connect before it is another broker's, and may arrive later.
    const requestId = answer.headers.get('x-request-id')
    const records = async () =>
      (await broker.records(1)).filter((row) => row.request_id === requestId)
    await expect.poll(records).toMatchObject([
      {
        user_id: 'ada',
        upstream: 'files',
        action: 'disconnect',
        method: 'connect',
        outcome: 'success',
      },
    ])
    for (const name of ['files', 'nothing', 'a%00b', 'a'.repeat(300)]) {
      const again = await broker.call('DELETE', `/api/v1/connections/${name}`, 'ada')
      expect(again.status, name).toBe(404)
    }
    // One of others is theirs still.
    expect((await broker.call('DELETE', '/api/v1/connections/reports', 'ada')).status).toBe(403)
    expect((await before.resolveAs('ada', 'files')).status).toBe(403)
  })

  it('are removed by an admin', async () => {
    const connection = `/api/v1/admin/users/${person()}/connections/files`
    expect((await broker.call('DELETE', connection, 'linus')).status).toBe(204)
    expect(await rows()).toBe(0)
    expect((await broker.call('DELETE', connection, 'linus')).status).toBe(404)
  })

  it('are removed by offboarding', async () => {
    const answer = await fetch(`${broker.url}/api/v1/admin/users/${person()}/connections`, {
      method: 'DELETE',
      headers: { authorization: `Bearer ${hrKey}` },
    })
    expect(answer.status).toBe(204)
    expect(await rows()).toBe(0)
  })
})
