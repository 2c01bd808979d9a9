import { randomBytes } from 'node:crypto'
import { request as httpRequest } from 'node:http'
import { connect } from 'node:net'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { startTestBroker, type TestBroker } from '../support/broker.ts'
import { type PlainUpstream, startPlainUpstream } from '../support/plain-upstream.ts'
import { rawExchange } from '../support/raw-exchange.ts'

describe('/proxy: plain HTTP upstreams, each call with its own person’s credential', () => {
  let upstream: PlainUpstream
  let broker: TestBroker

  beforeAll(async () => {
    upstream = await startPlainUpstream()
    broker = await startTestBroker({
      change(config) {
        config.upstreams.reports['url'] = `${upstream.url}/base`
        const hasty = { ...config.upstreams.reports, timeouts: { head: '2s' } }
        Object.assign(config.upstreams, { hasty })
        config['allowed_origins'] = ['https://client.example.com']
      },
    })
  })
  afterAll(async () => {
    await broker.stop()
    await upstream.stop()
  })
  afterEach(() => upstream.answerWith(undefined))

  async function call(
    person: string,
    path: string,
    init: RequestInit = {},
    of = 'reports',
  ): Promise<Response> {
    const headers = new Headers(init.headers)
    headers.set('authorization', `Bearer ${await broker.tokenOf(person)}`)
    return fetch(`${broker.url}/proxy/${of}${path}`, { redirect: 'manual', ...init, headers })
  }

  const lastHit = () => upstream.hits.at(-1)

  it('gives two people their own credential and hands bodies through byte for byte', async () => {
    const body = randomBytes(300_000)
    const answers = await Promise.all(
      ['ada', 'grace'].map((person) => call(person, '/echo?x=%2F', { method: 'POST', body })),
    )
    for (const answer of answers) {
      expect(answer.status).toBe(200)
      expect(Buffer.from(await answer.arrayBuffer()).equals(body)).toBe(true)
    }
    const [first, second] = upstream.hits.slice(-2)
    expect(first?.target).toBe('/base/echo?x=%2F')
    expect(subjectOf(first?.headers.authorization)).not.toBe(
      subjectOf(second?.headers.authorization),
    )
  })

  it('P1: no header holds the caller’s own token, and Authorization stands there once', async () => {
    const token = await broker.tokenOf('ada')
    await fetch(`${broker.url}/proxy/reports/x`, {
      headers: {
        authorization: `Bearer ${token}`,
        'x-forwarded-access-token': token,
        'x-copy': `Bearer ${token}`,
        cookie: `t=${token}`,
        'x-kept': 'yes',
      },
    })
    const hit = lastHit()
    expect(JSON.stringify(hit?.rawHeaders)).not.toContain(token)
    expect(hit?.headers['x-kept']).toBe('yes')
    const names = hit?.rawHeaders.filter((_, index) => index % 2 === 0).map((n) => n.toLowerCase())
    expect(names?.filter((name) => name === 'authorization')).toHaveLength(1)
  })

  it('leaves one record a call, of the person', async () => {
    const requestId = crypto.randomUUID()
    const answer = await call('linus', '/x', { headers: { 'x-request-id': requestId } })
    expect(answer.headers.get('x-request-id')).toBe(requestId)
    const rows = (await broker.records(1)).filter((row) => row.request_id === requestId)
    await expect
      .poll(() => recordsOf(requestId))
      .toMatchObject([
        { action: 'acquire', outcome: 'success', actor_kind: 'user', user_id: 'linus' },
      ])
    expect(rows.length).toBeLessThanOrEqual(1)
  })

  async function recordsOf(requestId: string) {
    const rows = await broker.records(1)
    return rows.filter((row) => row.request_id === requestId)
  }

  it('P15: an upstream 401 renews the credential once and sends the call once more', async () => {
    const requestId = crypto.randomUUID()
    await call('ada', '/warm')
    const refused = lastHit()?.headers.authorization
    upstream.answerWith((request, response) => {
      const isOld = request.headers.authorization === refused
      response.writeHead(isOld ? 401 : 200, isOld ? { 'www-authenticate': 'Bearer x="y"' } : {})
      response.end(isOld ? 'no' : 'yes')
    })
    const before = upstream.hits.length
    const answer = await call('ada', '/y', {
      method: 'POST',
      body: 'once',
      headers: { 'x-request-id': requestId },
    })
    expect([answer.status, await answer.text()]).toEqual([200, 'yes'])
    expect(upstream.hits.slice(before).map(({ body }) => body.toString())).toEqual(['once', 'once'])
    await expect
      .poll(() => recordsOf(requestId))
      .toMatchObject([
        { action: 'inject', outcome: 'success' },
        { action: 'refresh', outcome: 'success' },
      ])
  })

  it('a renewal that an upstream forces cuts nothing that is open with the old credential', async () => {
    upstream.answerWith((_request, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      response.write(': open\n\n')
    })
    const stream = await call('ada', '/events')
    const reader = stream.body?.getReader()
    await reader?.read()
    const end = reader?.read().then(
      () => 'ended',
      () => 'cut',
    )
    const refused = lastHit()?.headers.authorization
    upstream.answerWith((request, response) => {
      response.writeHead(request.headers.authorization === refused ? 401 : 200).end()
    })
    expect((await call('ada', '/y')).status).toBe(200)
    // Longer than every replica needs to hear of it.
    const later = new Promise((resolve) => {
      setTimeout(() => resolve('open'), 1500)
    })
    expect(await Promise.race([end, later])).toBe('open')
    await reader?.cancel()
  })

  it('P8: an upstream that refuses the renewed one too is 502, without its challenge', async () => {
    upstream.answerWith((_request, response) => {
      response.writeHead(401, { 'www-authenticate': 'Bearer resource_metadata="https://evil"' })
      response.end()
    })
    const answer = await call('ada', '/y')
    expect(answer.status).toBe(502)
    expect(answer.headers.get('www-authenticate')).toBeNull()
    expect(await answer.json()).toMatchObject({ code: 'upstream_rejected_credential' })
  })

  it.each([301, 302, 303, 307, 308])(
    'P6: a redirect (%i) is not followed and not passed on',
    async (status) => {
      upstream.answerWith((_request, response) => {
        response.writeHead(status, { location: 'https://evil.example/' }).end()
      })
      const answer = await call('ada', '/y')
      expect(answer.status).toBe(502)
      expect(answer.headers.get('location')).toBeNull()
      expect(await answer.json()).toMatchObject({ code: 'upstream_redirect' })
    },
  )

  it('P7: what an upstream must not say in our name does not come back', async () => {
    upstream.answerWith((_request, response) => {
      response.writeHead(200, {
        'set-cookie': '__Host-onbehalf_session=evil; Path=/; Secure',
        'strict-transport-security': 'max-age=1',
        'access-control-allow-origin': '*',
        'content-type': 'text/html',
        'x-own': 'kept',
      })
      response.end('<script>1</script>')
    })
    const answer = await call('ada', '/page')
    expect(answer.headers.get('set-cookie')).toBeNull()
    expect(answer.headers.get('strict-transport-security')).toBeNull()
    expect(answer.headers.get('access-control-allow-origin')).toBeNull()
    expect(answer.headers.get('x-own')).toBe('kept')
    expect(answer.headers.get('content-security-policy')).toBe('sandbox')
  })

  it('streams: the first event is there before the last was sent, and a caller who leaves ends it', async () => {
    let finish = () => {}
    upstream.answerWith((_request, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      response.write('data: 1\n\n')
      finish = () => response.end('data: 2\n\n')
    })
    const whole = await call('ada', '/events')
    const reader = whole.body?.getReader()
    expect(Buffer.from((await reader?.read())?.value ?? []).toString()).toBe('data: 1\n\n')
    finish()
    expect(Buffer.from((await reader?.read())?.value ?? []).toString()).toBe('data: 2\n\n')

    const before = upstream.aborted()
    const leaver = new AbortController()
    const left = await call('ada', '/events', { signal: leaver.signal })
    await left.body?.getReader().read()
    leaver.abort()
    await expect.poll(() => upstream.aborted()).toBe(before + 1)
  })

  it('a caller who leaves ends all that it has asked on one connection', async () => {
    upstream.answerWith((_request, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      response.write('data: 1\n\n')
    })
    const [hits, aborted] = [upstream.hits.length, upstream.aborted()]
    const authorization = `authorization: Bearer ${await broker.tokenOf('ada')}`
    const head = `GET /proxy/reports/events HTTP/1.1\r\nhost: x\r\n${authorization}\r\n\r\n`
    const socket = connect(Number(new URL(broker.url).port), '127.0.0.1')
    // The second and third answer wait for the first, which has no end.
    socket.write(head.repeat(3))
    await expect.poll(() => upstream.hits.length).toBe(hits + 3)
    socket.destroy()
    await expect.poll(() => upstream.aborted()).toBe(aborted + 3)
  })

  it('answers come in the order of what was asked on one connection, whichever is there first', async () => {
    upstream.answerWith((_request, response) => {
      const { body } = upstream.hits.at(-1) ?? {}
      setTimeout(() => response.end(body), String(body) === 'first' ? 300 : 0)
    })
    const authorization = `authorization: Bearer ${await broker.tokenOf('ada')}`
    const asks = ['first', 'second', 'third'].map((body, index) => {
      const last = index === 2 ? 'connection: close\r\n' : ''
      const length = `content-length: ${body.length}\r\n`
      return `POST /proxy/reports/x HTTP/1.1\r\nhost: x\r\n${last}${length}${authorization}\r\n\r\n${body}`
    })
    const to = { host: '127.0.0.1', port: Number(new URL(broker.url).port) }
    const answer = String(await rawExchange(to, asks.join(''), 10_000))
    expect(answer.match(/\r\n\r\n(first|second|third)/g)?.map((body) => body.trim())).toEqual([
      'first',
      'second',
      'third',
    ])
  })

  it('a body above 4 MiB goes through without a second try', async () => {
    const body = randomBytes(9 * 1024 * 1024)
    const answer = await call('ada', '/big', { method: 'PUT', body })
    expect(Buffer.from(await answer.arrayBuffer()).equals(body)).toBe(true)
  })

  it('a body above 64 MiB is refused by what it announces', async () => {
    const token = await broker.tokenOf('ada')
    const status = await new Promise((resolve, reject) => {
      const sent = httpRequest(`${broker.url}/proxy/reports/big`, {
        method: 'POST',
        headers: { authorization: `Bearer ${token}`, 'content-length': 65 * 1024 * 1024 },
      })
      sent.on('response', ({ statusCode }) => resolve(statusCode))
      sent.on('error', reject)
      sent.write('x')
    })
    expect(status).toBe(413)
  })

  it('P5: a path that leaves the base is refused, and nothing reaches the upstream', async () => {
    const token = await broker.tokenOf('ada')
    const before = upstream.hits.length
    for (const tail of ['/..%2f..%2fadmin', '/%252e%252e/x', '//evil.example', '/a%5c..%5cb']) {
      const status = await new Promise((resolve, reject) => {
        const { port } = new URL(broker.url)
        httpRequest({
          port,
          path: `/proxy/reports${tail}`,
          headers: { authorization: `Bearer ${token}` },
        })
          .on('response', ({ statusCode }) => resolve(statusCode))
          .on('error', reject)
          .end()
      })
      expect([tail, status]).toEqual([tail, 400])
    }
    expect(upstream.hits.length).toBe(before)
  })

  it('P20: an upstream that does not answer in time is 504', async () => {
    upstream.answerWith(() => {})
    const answer = await call('ada', '/slow', {}, 'hasty')
    expect(answer.status).toBe(504)
    expect(await answer.json()).toMatchObject({ code: 'upstream_timeout' })
  })

  it('an upstream that breaks off before its head is 503, after it the answer is cut', async () => {
    upstream.answerWith((request) => request.socket.destroy())
    const answer = await call('ada', '/gone')
    expect(answer.status).toBe(503)
    expect(await answer.json()).toMatchObject({ code: 'upstream_unavailable' })
    let breakOff = () => {}
    upstream.answerWith((request, response) => {
      response.writeHead(200, { 'content-length': '100' })
      response.write('some')
      breakOff = () => request.socket.destroy()
    })
    const cut = await call('ada', '/gone')
    breakOff()
    await expect(cut.text()).rejects.toThrow()
  })

  it('without a bearer it is 401 with the challenge of this very upstream; a session cookie is none', async () => {
    const answer = await fetch(`${broker.url}/proxy/reports/x`, {
      headers: { cookie: 'onbehalf_session=x' },
    })
    expect(answer.status).toBe(401)
    expect(answer.headers.get('www-authenticate')).toContain(
      '/.well-known/oauth-protected-resource/proxy/reports"',
    )
    const service = await fetch(`${broker.url}/proxy/reports/x`, {
      headers: { authorization: `Bearer ${broker.serviceKey}` },
    })
    expect(service.status).toBe(401)
  })

  it('an mcp upstream is not here', async () => {
    const token = await broker.tokenOf('ada')
    const answer = await fetch(`${broker.url}/proxy/files`, {
      headers: { authorization: `Bearer ${token}` },
    })
    expect(answer.status).toBe(404)
    expect(await answer.json()).toMatchObject({ code: 'unknown_upstream' })
  })

  it('an origin that is neither ours nor allowed is 403; an allowed one reads the answer', async () => {
    const foreign = await call('ada', '/x', { headers: { origin: 'https://evil.example' } })
    expect(foreign.status).toBe(403)
    const allowed = await call('ada', '/x', { headers: { origin: 'https://client.example.com' } })
    expect(allowed.status).toBe(200)
    expect(allowed.headers.get('access-control-allow-origin')).toBe('https://client.example.com')
  })

  it('P13: a disconnect on another replica cuts what is open with the credential, and nobody else’s', async () => {
    const beside = await broker.startBeside()
    upstream.answerWith((_request, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      response.write(': open\n\n')
    })
    const [own, others] = await Promise.all([call('linus', '/events'), call('grace', '/events')])
    const reader = own.body?.getReader()
    await reader?.read()
    const cut = reader?.read().then(
      () => 'ended',
      () => 'cut',
    )
    expect((await beside.call('DELETE', '/api/v1/connections/reports', 'linus')).status).toBe(204)
    expect(await cut).toBe('cut')
    const otherReader = others.body?.getReader()
    expect(Buffer.from((await otherReader?.read())?.value ?? []).toString()).toBe(': open\n\n')
    await otherReader?.cancel()
    await beside.stop()
  })

  it('more than 100 open calls of a person are 429, and another person is served', async () => {
    const open: AbortController[] = []
    upstream.answerWith((_request, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      response.write(': open\n\n')
    })
    const answers = await Promise.all(
      Array.from({ length: 101 }, () => {
        const controller = new AbortController()
        open.push(controller)
        return call('ada', '/events', { signal: controller.signal })
      }),
    )
    const statuses = answers.map(({ status }) => status)
    expect(statuses.filter((status) => status === 429)).toHaveLength(1)
    upstream.answerWith(undefined)
    expect((await call('grace', '/x')).status).toBe(200)
    for (const controller of open) controller.abort()
    await expect.poll(async () => (await call('ada', '/x')).status).toBe(200)
  })
})

function subjectOf(authorization: string | undefined): unknown {
  const payload = authorization?.split('.')[1] ?? ''
  return (JSON.parse(Buffer.from(payload, 'base64url').toString()) as { sub?: unknown }).sub
}
