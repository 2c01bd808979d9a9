import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { endpoints } from '../support/authorization-server.ts'
import { startTestBroker, type TestBroker } from '../support/broker.ts'
import { type PlainUpstream, startPlainUpstream } from '../support/plain-upstream.ts'

describe('a broker inside another program', () => {
  let broker: TestBroker
  let denying: TestBroker
  let upstream: PlainUpstream

  beforeAll(async () => {
    upstream = await startPlainUpstream()
    broker = await startTestBroker({
      change(config) {
        config.upstreams.reports['url'] = upstream.url
      },
    })
    denying = await startTestBroker({ hooks: { policy: () => false } })
  })
  afterAll(async () => {
    await broker.stop()
    await denying.stop()
    await upstream.stop()
  })

  it('resolves without HTTP, for the person of the token, and leaves the record', async () => {
    const subjectToken = await broker.tokenOf('ada')
    const { resolver } = broker.broker
    const credential = await resolver.resolve({ upstream: 'reports', subjectToken })
    expect(credential.header).toBe('Authorization')
    const overHttp = await broker.resolve({ upstream: 'reports', subject_token: subjectToken })
    expect(overHttp.body['value']).toBe(credential.value)
    const rows = await broker.records(2)
    expect(rows.map(({ action, actor_id }) => `${action} ${actor_id}`).toSorted()).toEqual([
      'acquire embedder',
      'inject edge',
    ])
  })

  it('refuses by the codes of the REST API, with a link where the person must connect', async () => {
    const { resolver } = broker.broker
    const subjectToken = await broker.tokenOf('ada')
    const files = resolver.resolve({ upstream: 'files', subjectToken })
    await expect(files).rejects.toMatchObject({
      code: 'connect_required',
      details: {
        reason: 'not_connected',
        connectUrl: expect.stringContaining('/connect/') as string,
      },
    })
    const bad = resolver.resolve({ upstream: 'files', subjectToken: 'x.y.z' })
    await expect(bad).rejects.toMatchObject({ code: 'invalid_subject_token' })
    const unknown = resolver.resolve({ upstream: 'nothing', subjectToken })
    await expect(unknown).rejects.toMatchObject({ code: 'unknown_upstream' })
  })

  it('a policy that says no is asked before any server is, and gives no link', async () => {
    const answer = await denying.resolveAs('ada', 'reports')
    expect(answer.body['code']).toBe('policy_denied')
    expect(denying.identityProvider.received(endpoints.token)).toEqual([])
    const files = await denying.resolveAs('ada', 'files')
    expect(files.body['code']).toBe('policy_denied')
    expect(files.body['connect_url']).toBeUndefined()
  })

  describe('the gateway through app.fetch', () => {
    const call = async (init: RequestInit) => {
      const headers = { authorization: `Bearer ${await broker.tokenOf('ada')}` }
      const request = new Request('http://embedder.example/proxy/reports/x', { ...init, headers })
      return broker.broker.app.fetch(request)
    }

    it('carries a body above 4 MiB, both ways', async () => {
      const body = randomBytes(5 * 1024 * 1024)
      const answer = await call({ method: 'PUT', body })
      expect(answer.status).toBe(200)
      expect(Buffer.from(await answer.arrayBuffer()).equals(body)).toBe(true)
    })

    it('ends the call to the upstream of a caller who leaves before the answer', async () => {
      const before = upstream.hits.length
      const aborted = upstream.aborted()
      upstream.answerWith(() => {})
      const leaving = new AbortController()
      const answer = call({ signal: leaving.signal })
      await expect.poll(() => upstream.hits.length).toBe(before + 1)
      leaving.abort()
      await expect.poll(() => upstream.aborted()).toBe(aborted + 1)
      // Nobody reads it, and nothing waits for it.
      expect((await answer).body).toBeNull()
    })
  })
})
