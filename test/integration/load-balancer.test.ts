import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startBalancer, type Balancer } from '../support/balancer.ts'
import { answerSandboxPages, createBrowser, type ScriptedBrowser } from '../support/browser.ts'
import { startTestBroker, type TestBroker } from '../support/broker.ts'

describe('two replicas behind a load balancer, requests landing anywhere', () => {
  let here: TestBroker
  let there: TestBroker
  let balancer: Balancer
  let ownUrl: string
  beforeAll(async () => {
    here = await startTestBroker({
      change: (config) => {
        config.listen = { port: 0 }
        ownUrl = config.public_url
      },
    })
    there = await here.startBeside()
    balancer = await startBalancer(Number(new URL(ownUrl).port), [here.url, there.url])
  })
  afterAll(async () => {
    await balancer.stop()
    await there.stop()
    await here.stop()
  })

  async function send(method: string, path: string, bearer: string, body?: unknown) {
    const answer = await fetch(`${ownUrl}${path}`, {
      method,
      headers: { authorization: `Bearer ${bearer}`, 'content-type': 'application/json' },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
    const text = await answer.text()
    return {
      status: answer.status,
      body: text === '' ? {} : (JSON.parse(text) as Record<string, unknown>),
    }
  }
  const resolve = (token: string) =>
    send('POST', '/api/v1/resolve', here.serviceKey, { upstream: 'files', subject_token: token })

  const isCallback = (url: URL) => url.pathname === '/callback/files'

  /** Up to the authorization server's answer, which is not yet delivered. */
  async function beginConnect(browser: ScriptedBrowser, person: string): Promise<URL> {
    const link = await send(
      'POST',
      '/api/v1/connections/files/connect',
      await here.tokenOf(person),
      {},
    )
    let page = await browser.open(String(link.body['connect_url']))
    const choice = page.forms.find(({ buttons }) => buttons.some(({ name }) => name === 'person'))
    if (choice !== undefined) page = await browser.submit(page, choice, { button: person })
    const confirm = page.forms.find(({ action }) => action.pathname.startsWith('/connect/'))
    if (confirm === undefined) throw new Error(`no confirmation at ${page.url.pathname}`)
    const consent = await browser.submit(page, confirm, { until: isCallback })
    return answerSandboxPages(browser, consent, { choose: `${person}-at-files` }, isCallback)
  }

  async function finishConnect(browser: ScriptedBrowser, callback: URL): Promise<void> {
    const back = await browser.open(callback, { follow: false })
    expect(back.status).toBe(303)
    expect(back.headers.location).toContain('upstream=files&connected=1')
  }

  it('connect, resolve and disconnect, with every step on another replica', async () => {
    for (let round = 0; round < 3; round += 1) {
      const browser = createBrowser()
      await finishConnect(browser, await beginConnect(browser, 'ada'))
      const token = await here.tokenOf('ada')
      expect((await resolve(token)).status).toBe(200)
      expect((await resolve(token)).status).toBe(200)
      expect((await send('DELETE', '/api/v1/connections/files', token)).status).toBe(204)
      expect((await resolve(token)).body['code']).toBe('connect_required')
      expect((await resolve(token)).body['code']).toBe('connect_required')
    }
    for (const count of balancer.counts()) expect(count).toBeGreaterThan(10)
  }, 120_000)

  it('a sign-in and a connect that were begun go on after a restart of either replica', async () => {
    const browser = createBrowser()
    const callback = await beginConnect(browser, 'grace')
    await there.stop()
    there = await here.startBeside()
    balancer.target([there.url])
    await finishConnect(browser, callback)
    balancer.target([here.url, there.url])
    const token = await here.tokenOf('grace')
    expect((await resolve(token)).status).toBe(200)
    expect((await resolve(token)).status).toBe(200)
    const page = await browser.open(`${ownUrl}/connections`)
    expect(page.body).toContain('grace')
  })

  it('P12: a disconnect that lands on one is seen by the next call on the other, always', async () => {
    const { sql } = here.database.database
    await sql`CREATE TABLE kept AS SELECT * FROM credential WHERE user_id = 'grace'`
    const token = await here.tokenOf('grace')
    for (let round = 0; round < 60; round += 1) {
      await sql`INSERT INTO credential SELECT * FROM kept ON CONFLICT DO NOTHING`
      expect((await resolve(token)).status).toBe(200)
      expect((await resolve(token)).status).toBe(200)
      // The next call goes to the replica that did not do it.
      expect((await send('DELETE', '/api/v1/connections/files', token)).status).toBe(204)
      const next = await resolve(token)
      expect(next.status).toBe(403)
      expect(next.body).toMatchObject({ code: 'connect_required', reason: 'not_connected' })
      // Keeps the turns odd, so that each replica has both parts.
      if (round % 2 === 0) await resolve(token)
    }
    await sql`DROP TABLE kept`
  }, 120_000)
})
