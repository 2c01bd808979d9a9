import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createBrowser } from '../support/browser.ts'
import { startTestBroker, type TestBroker } from '../support/broker.ts'

describe('user_key: a key that the person stored, on two replicas', () => {
  let here: TestBroker
  let there: TestBroker
  beforeAll(async () => {
    here = await startTestBroker({
      change: (config) => {
        Object.assign(config.upstreams, {
          metrics: {
            url: 'http://127.0.0.1/metrics-api',
            kind: 'http',
            display_name: 'Metrics',
            credential: { mode: 'user_key', header: 'X-Api-Key', header_format: '{token}' },
          },
        })
      },
    })
    there = await here.startBeside()
  })
  afterAll(async () => {
    await there.stop()
    await here.stop()
  })

  const path = '/api/v1/connections/metrics'
  function newKey(): string {
    const key = `CNRY-key-${randomBytes(18).toString('base64url')}`
    here.scan.register('user key', key)
    return key
  }
  const store = (key: unknown, on = here) => on.call('PUT', `${path}/key`, 'ada', { key })
  const ask = (on: TestBroker, more: Record<string, unknown> = {}) =>
    on.resolveAs('ada', 'metrics', more)

  it('is asked for where there is none, on the page that takes it', async () => {
    const answer = await ask(here)
    expect(answer.status).toBe(403)
    expect(answer.body).toMatchObject({ code: 'connect_required', reason: 'not_connected' })
    expect(new URL(String(answer.body['connect_url'])).pathname).toBe('/connections')
    const view = await here.call('GET', path, 'ada')
    expect(view.body).toMatchObject({
      mode: 'user_key',
      method: 'user_key',
      status: 'not_connected',
      connect_path: null,
    })
    const connect = await here.call('POST', `${path}/connect`, 'ada', {})
    expect(connect.status).toBe(409)
    expect(connect.body['code']).toBe('not_connectable')
  })

  it('is injected as it is, without an end, once it is stored', async () => {
    const key = newKey()
    const stored = await store(key)
    expect(stored.status).toBe(204)
    const answer = await ask(there)
    expect(answer.status).toBe(200)
    expect(answer.body).toMatchObject({ header: 'X-Api-Key', value: key, expires_at: null })
    const view = await there.call('GET', path, 'ada')
    expect(view.body).toMatchObject({
      status: 'connected',
      expires_at: null,
      scopes: [],
      reason: null,
    })
    expect(view.text).not.toContain(key)
  })

  it('P12: a changed key is what every replica gives from the answer on, always', async () => {
    for (let round = 0; round < 50; round += 1) {
      await Promise.all([ask(here), ask(there)])
      const key = newKey()
      const on = round % 2 === 0 ? here : there
      expect((await store(key, on)).status).toBe(204)
      const answers = await Promise.all([ask(here), ask(there)])
      for (const { status, body } of answers) {
        expect(status).toBe(200)
        expect(body['value']).toBe(key)
      }
    }
  }, 120_000)

  it('is the person’s own: nobody else gets it', async () => {
    const answer = await here.resolveAs('grace', 'metrics')
    expect(answer.status).toBe(403)
  })

  it('cannot be renewed: where the upstream refuses it, the person must store another', async () => {
    const { fingerprint } = (await ask(here)).body
    const answer = await ask(here, { rejected: fingerprint })
    expect(answer.status).toBe(403)
    expect(answer.body).toMatchObject({ code: 'connect_required', reason: 'credential_expired' })
    expect((await ask(here, { rejected: 'another' })).status).toBe(200)
  })

  it('leaves one record for each key that is stored, and none for one that is not', async () => {
    const { sql } = here.database.database
    const records = () => sql`
      SELECT type, action, method, outcome, actor_kind, actor_id FROM activity
      WHERE upstream = 'metrics' AND action = 'connect' AND outcome = 'success'`
    await expect.poll(records).toHaveLength(51)
    expect((await records())[0]).toEqual({
      type: 'credential_broker',
      action: 'connect',
      method: 'user_key',
      outcome: 'success',
      actor_kind: 'user',
      actor_id: 'ada',
    })
    const refused: unknown[] = ['', ' k', 'k\n', 'k\u0000', 'ü', 'x'.repeat(8193), 7, null]
    for (const key of refused) {
      const answer = await store(key)
      expect(answer.status).toBe(400)
      expect(answer.body['field']).toBe('key')
    }
    expect(
      (await here.call('PUT', '/api/v1/connections/files/key', 'ada', { key: 'k' })).status,
    ).toBe(409)
    expect(await records()).toHaveLength(51)
  })

  it('is stored through the page as well, without JavaScript, and removed there', async () => {
    const browser = createBrowser()
    let page = await browser.open(`${here.url}/connections`)
    const choice = page.forms.find(({ buttons }) => buttons.some(({ name }) => name === 'person'))
    if (choice === undefined) throw new Error('no sign-in')
    page = await browser.submit(page, choice, { button: 'ada' })
    const form = page.forms.find(({ action }) => action.pathname.endsWith('/metrics/key'))
    if (form === undefined) throw new Error('no form for the key')
    const key = newKey()
    page = await browser.submit(page, form, { fields: { key: `  ${key}\n` } })
    expect(page.status).toBe(200)
    expect(page.body).toContain('is connected')
    expect(page.body).not.toContain(key)
    expect((await ask(there)).body['value']).toBe(key)
    const disconnect = page.forms.find(({ action }) =>
      action.pathname.endsWith('/metrics/disconnect'),
    )
    if (disconnect === undefined) throw new Error('no form to disconnect')
    page = await browser.submit(page, disconnect)
    expect((await ask(there)).status).toBe(403)
    expect((await here.call('DELETE', path, 'ada')).status).toBe(204)
  })
})
