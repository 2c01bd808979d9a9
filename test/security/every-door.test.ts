import net from 'node:net'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { endpoints } from '../support/authorization-server.ts'
import { startTestBroker, type TestBroker } from '../support/broker.ts'
import {
  type BrowserPage,
  createBrowser,
  followConnectLink,
  type ScriptedBrowser,
} from '../support/browser.ts'
import {
  canaryPrefixes,
  createSecretScan,
  scanDatabase,
  scanDirectory,
  type SecretFinding,
} from '../support/secret-scan.ts'

/**
 * T-13: every kind of secret goes through every door, rightly and wrongly, and is then looked
 * for wherever something is written or answered.
 */
describe('every door', () => {
  let broker: TestBroker
  /** What only a browser and the broker may know: links, states, sessions. Everything else is in the broker's own scan. */
  const links = createSecretScan()
  const browsers: ScriptedBrowser[] = []
  const answers: { where: string; text: string }[] = []

  beforeAll(async () => {
    broker = await startTestBroker({
      storeSubjectToken: true,
      change(config) {
        const { password } = new URL(config.database.url ?? '')
        if (password.length > 8) links.register('database password', decodeURIComponent(password))
      },
    })
    const { encryptionKey } = broker
    broker.scan.register('encryption key bytes', Buffer.from(encryptionKey, 'base64'))
  }, 60_000)
  afterAll(() => broker.stop())

  /** A secret that nobody issued: what people and programs put where it does not belong. */
  function planted(kind: string): string {
    const value = `${canaryPrefixes.inbound}${kind}-${crypto.randomUUID()}`
    broker.scan.register(kind, value)
    return value
  }

  function browser(): ScriptedBrowser {
    const made = createBrowser()
    browsers.push(made)
    return made
  }

  /** Remembers the states, codes and tickets that were on the way, and the cookies that the browsers hold. */
  function registerLinks(page: BrowserPage): void {
    for (const url of page.trail) {
      for (const name of ['state', 'code', 'nonce']) {
        const value = url.searchParams.get(name)
        if (value !== null && value.length >= 16) links.register(`${name} parameter`, value)
      }
      const ticket = /^\/connect\/([^/]{16,})$/.exec(url.pathname)?.[1]
      if (ticket !== undefined) links.register('ticket', ticket)
    }
    for (const form of page.forms) {
      for (const [name, value] of form.fields) {
        if (/csrf/.test(name) && value.length >= 16) links.register('CSRF token', value)
      }
    }
    const { port } = new URL(broker.url)
    for (const cookies of browsers.map((one) => one.cookies.list())) {
      for (const { name, value } of cookies) {
        if (name.includes('onbehalf') && value.length >= 16) {
          links.register(`cookie of ${port}`, value)
        }
      }
    }
  }

  /** Any request, its whole answer kept to be looked through. */
  async function send(method: string, path: string, init: RequestInit = {}): Promise<number> {
    const answer = await fetch(`${broker.url}${path}`, { method, redirect: 'manual', ...init })
    const text = `${answer.status} ${JSON.stringify([...answer.headers])} ${await answer.text()}`
    answers.push({ where: `${method} ${path.replaceAll(/CNRY[^/?&]*/g, '…')}`, text })
    return answer.status
  }

  /** A page, but for the cookies that are this browser's own. */
  function keep(where: string, { status, headers, body }: BrowserPage): void {
    const { 'set-cookie': _own, ...others } = headers
    answers.push({ where, text: `${status} ${JSON.stringify(others)} ${body}` })
  }

  async function link(person: string): Promise<string> {
    const answer = await broker.call('POST', '/api/v1/connections/files/connect', person, {})
    const url = String(answer.body['connect_url'])
    links.register('ticket', url.slice(url.lastIndexOf('/') + 1))
    return url
  }

  async function follow(person: string, decision: 'allow' | 'deny', by = browser()) {
    const choices = { person, account: `${person}-at-files`, decision }
    const { page } = await followConnectLink(by, await link(person), choices)
    registerLinks(page)
    return page
  }

  it('the main job goes its ways: connect, deny, inject, refresh, exchange, on behalf of, disconnect', async () => {
    const ada = browser()
    expect((await follow('ada', 'allow', ada)).url.searchParams.get('connected')).toBe('1')
    expect((await follow('grace', 'deny')).url.searchParams.get('error')).toBe('access_denied')
    registerLinks(await ada.open(`${broker.url}/connections`))
    registerLinks(await browser().open(await link('ada')))
    expect((await broker.resolveAs('ada', 'files')).status).toBe(200)
    const first = await broker.resolveAs('ada', 'files')
    const rejected = { rejected: first.body['fingerprint'] }
    expect((await broker.resolveAs('ada', 'files', rejected)).status).toBe(200)
    expect((await broker.resolveAs('ada', 'reports')).status).toBe(200)
    expect((await broker.resolveAs('ada', 'graph')).status).toBe(200)
    const { issuer } = broker.identityProvider
    const asserted = await broker.resolve({ upstream: 'reports', user: { issuer, id: 'ada' } })
    expect(asserted.status).toBe(200)
    expect((await broker.resolveAs('grace', 'files')).body['code']).toBe('connect_required')
    for (const path of ['/api/v1/connections', '/api/v1/me', '/api/v1/me/activity']) {
      expect((await broker.call('GET', path, 'ada')).status).toBe(200)
    }
    expect((await broker.call('GET', '/api/v1/activity', 'linus')).status).toBe(200)
    expect((await broker.call('DELETE', '/api/v1/connections/files', 'ada')).status).toBe(204)
    expect(broker.scan.size()).toBeGreaterThan(20)
  })

  it('a hostile authorization server answers with secrets in every place', async () => {
    const secret = planted('text of the server')
    const json = { 'content-type': 'application/json', 'x-secret': secret, 'retry-after': secret }
    const told = { error_description: secret, error_uri: `https://as.example/${secret}` }
    const bodies = [
      { status: 400, body: JSON.stringify({ error: 'invalid_grant', ...told }) },
      { status: 400, body: JSON.stringify({ error: secret, ...told }) },
      { status: 401, body: JSON.stringify({ error: 'invalid_client', ...told }) },
      { status: 200, body: JSON.stringify({ error: 'invalid_scope', ...told }) },
      { status: 200, body: JSON.stringify({ access_token: { of: secret }, token_type: secret }) },
      { status: 200, body: JSON.stringify({ access_token: secret, token_type: secret }) },
      { status: 200, body: `{"access_token":"${secret}"` },
      { status: 200, body: `<html>${secret}</html>` },
      { status: 503, body: secret },
      { status: 302, body: secret },
    ]
    for (const { status, body } of bodies) {
      const location = `https://as.example/?t=${secret}`
      const fault = { kind: 'answer', status, headers: { ...json, location }, body } as const
      const ends = [
        broker.authorizationServer.fail(endpoints.token, fault),
        broker.identityProvider.fail(endpoints.token, fault),
      ]
      const page = await follow('ada', 'allow')
      keep('callback', page)
      await broker.resolveAs('linus', 'reports')
      await broker.resolveAs('linus', 'graph')
      for (const end of ends) end()
    }
    // One that refuses a refresh, of a connection that is there.
    await broker.connect('ada')
    await broker.age('ada', 'files', { expiresInSeconds: -1 })
    const again = await broker.startBeside()
    const [first] = bodies
    const refusal = { kind: 'answer', headers: json, status: 400, body: first?.body ?? '' } as const
    broker.authorizationServer.fail(endpoints.token, refusal, 1)
    expect((await again.resolveAs('ada', 'files')).body['code']).toBe('connect_required')
    await again.stop()
  })

  it('a callback carries secrets where a server would put its words', async () => {
    const secret = planted('text in a callback')
    const signedIn = browser()
    await follow('ada', 'deny', signedIn)
    for (const query of [
      `error=${secret}&error_description=${secret}&state=${secret}`,
      `code=${secret}&state=${secret}&iss=${secret}`,
      `code=${secret}&code=${secret}`,
      secret,
    ]) {
      for (const path of ['/callback/files', '/login/callback', `/callback/${secret}`]) {
        for (const by of [signedIn, browser()]) {
          const options = { until: (next: URL) => next.origin !== broker.url }
          const page = await by.open(`${broker.url}${path}?${query}`, options)
          keep(path, page)
        }
      }
    }
  })

  it('malformed bodies hold tokens', async () => {
    const token = await broker.tokenOf('ada')
    const authorization = `Bearer ${broker.serviceKey}`
    const bodies = [
      `{"upstream":"files","subject_token":"${token}"`,
      JSON.stringify({ upstream: 'files', subject_token: { [token]: token } }),
      JSON.stringify({ upstream: 'files', subject_token: token, [token]: token }),
      JSON.stringify({ upstream: token, subject_token: token }),
      JSON.stringify({ upstream: 'files', subject_token: token, rejected: token.repeat(3) }),
      JSON.stringify({ upstream: 'files', user: { issuer: token, id: token } }),
      JSON.stringify({ upstream: 'files', subject_token: token, fill: 'x'.repeat(70_000) }),
      `subject_token=${token}`,
      token,
    ]
    for (const body of bodies) {
      for (const type of ['application/json', `text/${token.slice(0, 40)}`]) {
        const headers = { authorization, 'content-type': type }
        expect(await send('POST', '/api/v1/resolve', { headers, body })).toBeGreaterThanOrEqual(400)
      }
      const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json' }
      await send('POST', '/api/v1/connections/files/connect', { headers, body })
      await send('POST', '/api/v1/connections/files/connect', {
        headers,
        body: JSON.stringify({ return_to: `https://elsewhere.example/${token}` }),
      })
    }
  })

  it('L1: every route that there is, asked by nobody, by a person and by a service, with secrets in every place', async () => {
    const app = broker.broker.app as unknown as {
      routes: readonly { readonly path: string; readonly method: string }[]
    }
    const routes = app.routes.filter(({ method, path }) => method !== 'ALL' && path !== '*')
    expect(routes.length).toBeGreaterThan(20)
    const secret = planted('token in the wrong place')
    const person = await broker.tokenOf('ada')
    const callers: Record<string, string>[] = [
      {},
      { authorization: `Bearer ${secret}` },
      { authorization: `Basic ${btoa(`x:${secret}`)}` },
      { authorization: `Bearer ${person}` },
      { authorization: `Bearer ${broker.serviceKey}` },
    ]
    for (const { method, path } of routes) {
      const parameters = /[:*]/.test(path) ? ['files', secret] : ['']
      for (const value of parameters) {
        const where = path.replaceAll(/:\w+(?:\{[^}]*\})?|\*/g, value)
        for (const caller of callers) {
          await send(method, where, { headers: caller })
          const headers = {
            ...caller,
            'x-request-id': secret,
            'x-onbehalf-csrf': '1',
            origin: `https://${secret}.example`.toLowerCase(),
            referer: `https://elsewhere.example/${secret}`,
            cookie: `onbehalf_session=${secret}; __Host-onbehalf_session=${secret}`,
            accept: 'text/html',
            'user-agent': secret,
            'content-type': 'application/x-www-form-urlencoded',
          }
          const body = method === 'GET' ? {} : { body: `csrf_token=${secret}&${secret}=1` }
          await send(method, where, { headers, ...body })
        }
      }
    }
    expect(answers.length).toBeGreaterThan(300)
  })

  it('tokens in paths and query strings that lead nowhere, and heads that are no heads', async () => {
    const token = await broker.tokenOf('ada')
    for (const path of [
      `/${token}`,
      `/api/v1/${token}`,
      `/api/v1/connections/${token}`,
      `/api/v1/connections?access_token=${token}`,
      `/api/v1/activity?cursor=${token}`,
      `/api/v1/activity?${token}=1`,
      `/api/v1/me/activity?user_id=${token}`,
      `/.well-known/oauth-protected-resource/${token}`,
      `/connect/${token}`,
      `/connections?${token}`,
      `/connections?error=${token}`,
      `/login?return_to=${token}`,
      `/login?return_to=/connections?upstream=${token}`,
    ]) {
      await send('GET', path)
      await send('GET', path, { headers: { authorization: `Bearer ${token}` } })
      await send('GET', path, { headers: { accept: 'text/html' } })
    }
    for (const head of [
      `GET /${token} HTTP/9.9\r\n\r\n`,
      `${token} / HTTP/1.1\r\nHost: x\r\n\r\n`,
      `GET / HTTP/1.1\r\nHost: ${token}:x\r\n\r\n`,
      `GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${token}\r\nAuthorization: Bearer ${token}\r\n\r\n`,
      `GET / HTTP/1.1\r\nHost: x\r\n${token}\r\n\r\n`,
      `GET / HTTP/1.1\r\nHost: x\r\nX-Long: ${token.repeat(40)}\r\n\r\n`,
    ]) {
      answers.push({ where: 'a raw head', text: await sendRaw(head) })
    }
  })

  function sendRaw(head: string): Promise<string> {
    return new Promise((resolve) => {
      const { hostname, port } = new URL(broker.url)
      let text = ''
      const socket = net.connect(Number(port), hostname, () => socket.write(head))
      socket.on('data', (chunk) => {
        text += chunk.toString('latin1')
        socket.end()
      })
      socket.on('error', () => resolve(text))
      socket.on('close', () => resolve(text))
    })
  }

  it('a database that refuses, whose errors quote the statement and its values', async () => {
    const { sql } = broker.database.database
    await sql`ALTER TABLE credential ADD CONSTRAINT broken CHECK (user_id <> 'grace') NOT VALID`
    const unwritable = await broker.resolveAs('grace', 'reports')
    expect(unwritable.body['code']).toBe('storage_unavailable')
    await sql`ALTER TABLE credential DROP CONSTRAINT broken`
    await sql`ALTER TABLE credential RENAME COLUMN account TO broken`
    const unreadable = await broker.resolveAs('grace', 'graph')
    expect(unreadable.body['code']).toBe('storage_unavailable')
    await sql`ALTER TABLE credential RENAME COLUMN broken TO account`
    await sql`UPDATE credential SET access_token = decode('00', 'hex') WHERE upstream = 'reports'`
    const again = await broker.startBeside()
    expect((await again.resolveAs('ada', 'reports')).body['code']).toBe('credential_corrupt')
    await again.stop()
    expect((await broker.resolveAs('grace', 'reports')).status).toBe(200)
  })

  it('none of them is in an answer', () => {
    const found = answers.flatMap(({ where, text }) => [
      ...broker.scan.find(where, text),
      ...links.find(where, text).filter(({ kind }) => !mayTravel(kind, text)),
    ])
    expect(unique(found)).toEqual([])
  })

  /** A browser has to be told its own state and cookies; these are of other browsers, except right at the beginning of a sign-in. */
  function mayTravel(kind: string, text: string): boolean {
    return kind === 'state parameter' && /"location"/.test(text)
  }

  it('T-13: none of them is in the log, which has much to say and says each thing in one JSON line', () => {
    const lines = broker.logged.map((line) => JSON.parse(line) as Record<string, string>)
    expect(lines.length).toBeGreaterThan(5)
    for (const { level, event } of lines) expect(`${level}: ${event}`).toMatch(/^\w+: \w+$/)
    const text = broker.logged.join('')
    expect(unique([...broker.scan.find('log', text), ...links.find('log', text)])).toEqual([])
  })

  it('none of them is in any table, as text, hex or base64, nor in the files of the data directory', async () => {
    // What is recorded comes in its order: with the last, all of it is there.
    const last = crypto.randomUUID()
    const headers = { authorization: `Bearer ${broker.serviceKey}`, 'x-request-id': last }
    const body = JSON.stringify({ upstream: 'nothing', subject_token: 'x' })
    expect(await send('POST', '/api/v1/resolve', { headers, body })).toBe(404)
    const ids = async () => (await broker.records(21)).map(({ request_id: id }) => id)
    await expect.poll(ids).toContain(last)
    const { sql } = broker.database.database
    const tables = await scanDatabase(broker.scan, sql)
    expect(unique(tables.findings)).toEqual([])
    expect(tables.cells).toBeGreaterThan(500)
    expect(unique((await scanDatabase(links, sql)).findings)).toEqual([])
    for (const scan of [broker.scan, links]) {
      expect(await scanDirectory(scan, broker.dataDir)).toEqual([])
    }
  })

  it('none of them is in the metrics or the OpenAPI document', async () => {
    for (const path of ['/metrics', '/openapi.json']) {
      const text = await (await fetch(`${broker.url}${path}`)).text()
      expect(text.length).toBeGreaterThan(500)
      expect([...broker.scan.find(path, text), ...links.find(path, text)]).toEqual([])
    }
  })

  it('the search finds one that is where it must not be', async () => {
    const credential = await broker.resolveAs('grace', 'reports')
    const value = String(credential.body['value'])
    expect(broker.scan.find('resolve', value)).not.toEqual([])
    expect(links.size()).toBeGreaterThan(10)
    // A broker that has a secret in its metrics, as every test that stops one would notice.
    const control = await startTestBroker()
    control.scan.register('a control', 'onbehalf_resolve_total')
    await expect(control.stop()).rejects.toThrow(/a control \(raw\) in \/metrics/)
  })
})

function unique(findings: readonly SecretFinding[]): readonly string[] {
  return [...new Set(findings.map(({ where, kind, form }) => `${kind} (${form}) in ${where}`))]
}
