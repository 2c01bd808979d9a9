import { once } from 'node:events'
import { connect } from 'node:net'
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest'
import { startTestBroker, type TestBroker } from '../support/broker.ts'
import { type PlainUpstream, startPlainUpstream } from '../support/plain-upstream.ts'
import { rawExchange } from '../support/raw-exchange.ts'

/** What only bytes on a socket can say to the gateway: an HTTP client would tidy it up. */
describe('/proxy on a socket', () => {
  let upstream: PlainUpstream
  let broker: TestBroker
  let ada = ''
  let grace = ''

  beforeAll(async () => {
    upstream = await startPlainUpstream()
    broker = await startTestBroker({
      change(config) {
        config.upstreams.reports['url'] = `${upstream.url}/base`
        config['allowed_origins'] = ['https://client.example.com']
      },
    })
    ada = `Authorization: Bearer ${await broker.tokenOf('ada')}`
    grace = `Authorization: Bearer ${await broker.tokenOf('grace')}`
  })
  afterAll(async () => {
    await broker.stop()
    await upstream.stop()
  })
  let before = 0
  beforeEach(() => {
    before = upstream.hits.length
  })
  const hits = () => upstream.hits.slice(before)

  /** Sends bytes, and gives all that comes back until the gateway closes or is silent. */
  async function send(text: string | Buffer, silentMs = 10_000): Promise<string> {
    const { port } = new URL(broker.url)
    const to = { host: '127.0.0.1', port: Number(port) }
    return (await rawExchange(to, text, silentMs)).toString('latin1')
  }

  const statusesIn = (answer: string) =>
    [...answer.matchAll(/HTTP\/1\.1 (\d{3})/g)].map(([, status]) => Number(status))

  const host = 'Host: broker.example.com'
  const head = (line: string, ...headers: string[]) =>
    [`${line} HTTP/1.1`, host, ...headers, '', ''].join('\r\n')
  const smuggled = () => head('GET /proxy/reports/smuggled', grace)

  it('P4: of two pipelined requests each goes up once, as its own person', async () => {
    const answer = await send(
      head('POST /proxy/reports/first', ada, 'Content-Length: 5') +
        'hello' +
        head('GET /proxy/reports/second', grace, 'Connection: close'),
    )
    expect(statusesIn(answer)).toEqual([200, 200])
    // They run at once, and may arrive in any order.
    const arrived = hits().toSorted((a, b) => a.target.localeCompare(b.target))
    expect(arrived.map(({ target, body }) => [target, body.toString()])).toEqual([
      ['/base/first', 'hello'],
      ['/base/second', ''],
    ])
    expect(arrived.map(({ headers }) => subjectOf(headers.authorization))).toEqual([
      expect.stringMatching(/^ada/),
      expect.stringMatching(/^grace/),
    ])
  })

  it.each([
    ['CL.TE', ['Content-Length: 4', 'Transfer-Encoding: chunked'], '0\r\n\r\n'],
    ['TE.CL', ['Transfer-Encoding: chunked', 'Content-Length: 4'], '5c\r\n'],
    ['two lengths', ['Content-Length: 0', 'Content-Length: 60'], ''],
    ['two equal lengths', ['Content-Length: 0', 'Content-Length: 0'], ''],
    ['a list of lengths', ['Content-Length: 0, 0'], ''],
    ['a signed length', ['Content-Length: +0'], ''],
    ['a hexadecimal length', ['Content-Length: 0x0'], ''],
    ['a length before a colon with a blank', ['Content-Length : 0'], ''],
    ['a folded length', ['Content-Length:', ' 0'], ''],
    ['a folded header', ['X-A: a', '\tTransfer-Encoding: chunked'], ''],
    ['a coding that is none', ['Transfer-Encoding: xchunked'], ''],
    ['two codings', ['Transfer-Encoding: chunked', 'Transfer-Encoding: identity'], '0\r\n\r\n'],
    ['chunked that is not the last', ['Transfer-Encoding: chunked, identity'], '0\r\n\r\n'],
    ['a coding behind a vertical tab', ['Transfer-Encoding: \x0bchunked'], '0\r\n\r\n'],
    ['a chunk size that is none', ['Transfer-Encoding: chunked'], 'zz\r\n\r\n'],
    ['a chunk longer than it says', ['Transfer-Encoding: chunked'], '1\r\nab\r\n0\r\n\r\n'],
    ['chunks that end in a bare LF', ['Transfer-Encoding: chunked'], '1\na\n0\n\n'],
    ['a header that ends in a bare LF', ['X-A: a\nTransfer-Encoding: chunked'], '0\r\n\r\n'],
    ['a header with a bare CR', ['X-A: a\rTransfer-Encoding: chunked'], '0\r\n\r\n'],
    ['a header with a NUL', ['X-A: a\0b'], ''],
  ])('P4: %s: nothing that is smuggled behind it is run', async (_what, headers, body) => {
    const answer = await send(
      head('POST /proxy/reports/outer', ada, ...headers) + body + smuggled(),
    )
    expect(statusesIn(answer)[0]).toBe(400)
    expect(statusesIn(answer)).toHaveLength(1)
    expect(hits().filter(({ target }) => target.includes('smuggled'))).toEqual([])
  })

  it.each([
    ['Hosts', 'Host: evil.example'],
    ['bearers', 'Authorization: Bearer x'],
    ['media types', 'Content-Type: a/b\r\nContent-Type: c/d'],
    ['origins', 'Origin: https://client.example.com\r\nOrigin: https://evil.example'],
    // A parser that counts heads, and stops at a thousand, would see one.
    ['bearers with a thousand headers between', `${'a:\r\n'.repeat(1100)}Authorization: Bearer x`],
  ])('P2: two %s are refused', async (_what, line) => {
    const answer = await send(head('POST /proxy/reports/x', ada, line, 'Connection: close'))
    expect(statusesIn(answer)).toEqual([400])
    expect(hits()).toEqual([])
  })

  it('P4: chunk extensions and trailers end here, and the upstream gets the bytes alone', async () => {
    const chunked = '5;evil="a;b"\r\nhello\r\n0;x\r\nX-Trailer: Bearer x\r\n\r\n'
    const answer = await send(
      head('POST /proxy/reports/x', ada, 'Transfer-Encoding: chunked', 'Connection: close') +
        chunked,
    )
    expect(statusesIn(answer)).toEqual([200])
    expect(hits().map(({ body }) => body.toString())).toEqual(['hello'])
    expect(JSON.stringify(hits()[0]?.rawHeaders)).not.toMatch(/trailer|transfer-encoding/i)
  })

  it('P3: a Connection header takes none of our headers away, and those that it names end here', async () => {
    await send(
      head(
        'GET /proxy/reports/x',
        ada,
        'Connection: close, Authorization, X-Secret, Host',
        'X-Secret: 1',
        'Keep-Alive: timeout=5',
        'TE: trailers',
        'Trailer: X',
        'Proxy-Authorization: Basic eDp5',
      ),
    )
    const [hit] = hits()
    expect(subjectOf(hit?.headers.authorization)).toMatch(/^ada/)
    const names = hit?.rawHeaders.filter((_, index) => index % 2 === 0).map((n) => n.toLowerCase())
    expect(names?.toSorted()).toEqual(['authorization', 'connection', 'host'])
  })

  it('P2: none of the names by which an upstream could be told who calls, or what, goes up', async () => {
    const names = [
      'X-Forwarded-For',
      'X-Forwarded-Host',
      'X-Forwarded-User',
      'X-Forwarded-Access-Token',
      'Forwarded',
      'X-Real-IP',
      'X-Original-URL',
      'X-Original-Method',
      'X-Auth-Request-User',
      'X-Auth-Request-Access-Token',
      'X-Remote-User',
      'Remote-User',
      'REMOTE_USER',
      'X_Forwarded_User',
      'x_original_url',
      'X-Onbehalf-Service-Key',
      'X-ONBEHALF-USER',
      'DPoP',
      'Cookie',
      'authorization_',
    ]
    const headers = names.map((name) => `${name}: evil`)
    const answer = await send(head('GET /proxy/reports/x', ada, ...headers, 'Connection: close'))
    expect(statusesIn(answer)).toEqual([200])
    expect(JSON.stringify(hits()[0]?.rawHeaders)).not.toContain('evil')
  })

  it('P25: TRACE, CONNECT, an upgrade and methods of nobody reach no upstream', async () => {
    const upgrade = ['Connection: Upgrade', 'Upgrade: websocket', 'Sec-WebSocket-Version: 13']
    const h2c = ['Connection: Upgrade, HTTP2-Settings', 'Upgrade: h2c', 'HTTP2-Settings: AAMAAABk']
    const requests = [
      head('TRACE /proxy/reports/x', ada, 'Connection: close'),
      head('CONNECT broker.example.com:443', ada),
      head('CONNECT /proxy/reports/x', ada),
      head('GET /proxy/reports/x', ada, ...upgrade),
      head('GET /proxy/reports/x', ada, ...h2c),
      head('PRI *', ada, 'Connection: close'),
      head('BREW /proxy/reports/x', ada, 'Connection: close'),
    ]
    for (const request of requests) {
      const statuses = statusesIn(await send(request, 1500))
      expect([request, statuses.filter((status) => status < 400)]).toEqual([request, []])
    }
    expect(hits()).toEqual([])
  })

  it('P2: X-HTTP-Method-Override changes nothing here', async () => {
    const override = 'X-HTTP-Method-Override: DELETE'
    await send(head('GET /proxy/reports/x', ada, override, 'Connection: close'))
    expect(hits().map(({ method }) => method)).toEqual(['GET'])
  })

  it.each([
    '/proxy/reports/../../api/v1/me',
    '/proxy/reports/%2e%2e/%2E%2e/api/v1/me',
    '/proxy/reports/..\\..\\api\\v1\\me',
    '/api/../proxy/reports/x',
    '/./proxy/reports/x',
    '/proxy/reports/x/..',
  ])('P5, P26: %s is neither carried nor one of our own addresses', async (path) => {
    const answer = await send(head(`GET ${path}`, ada, 'Connection: close'))
    expect(statusesIn(answer)).toEqual([400])
    expect(hits()).toEqual([])
  })

  it.each([
    '/PROXY/reports/x',
    '/Proxy/reports/x',
    '/proxy/REPORTS/x',
    '/proxy/rep%6Frts/x',
    '/proxy%2freports/x',
    '/proxy/reports%2fx',
    '/proxy/reports;x/y',
    '/proxy/reports%00/x',
    '/proxy/reports%0a/x',
    '/proxy/reports%e2%80%a8/x',
    '//proxy/reports/x',
    '/proxy//reports/x',
    '/mcp/reports',
    '/mcp/reports/x',
    '/proxy/files/x',
    '/proxyreports/x',
    'http://127.0.0.1/proxy/reports/x',
    'http://evil.example/proxy/reports/x',
    'evil.example/proxy/reports/x',
    '*',
  ])('P26: %s is no way to the upstream', async (path) => {
    const answer = await send(head(`GET ${path}`, ada, 'Connection: close'))
    const statuses = statusesIn(answer)
    expect([400, 404, 405]).toContain(statuses[0])
    expect(answer).not.toContain('evil')
    expect(hits()).toEqual([])
  })

  it('P5: whatever the Host, the upstream is the configured one', async () => {
    const foreign = head('GET /proxy/reports/x', ada, 'Connection: close').replace(
      host,
      'Host: evil.example:1',
    )
    expect(statusesIn(await send(foreign))).toEqual([200])
    expect(hits()[0]?.headers.host).toBe(new URL(upstream.url).host)
  })

  it.each(['evil example', 'a/b', 'broker.example.com:99999', '[::1'])(
    'P5: a Host that cannot be one, %s, reaches no upstream',
    async (impossible) => {
      const request = head('GET /proxy/reports/x', ada, 'Connection: close')
      const answer = await send(request.replace(host, `Host: ${impossible}`))
      expect(statusesIn(answer)).toEqual([400])
      expect(hits()).toEqual([])
    },
  )

  it("a method that is nobody's is 405, with those that this very address takes", async () => {
    const allowed = async (path: string) => {
      const answer = await send(head(`TRACE ${path}`, ada, 'Connection: close'))
      return /^allow: (.*)\r$/im.exec(answer)?.[1]
    }
    expect(await allowed('/mcp/files')).toBe('GET, POST, DELETE')
    expect(await allowed('/proxy/reports/x')).toMatch(/\bPATCH\b.*\bOPTIONS\b/)
  })

  it('an oversized head is 431', async () => {
    const answer = await send(head('GET /proxy/reports/x', ada, `X-Big: ${'x'.repeat(20_000)}`))
    expect(statusesIn(answer)).toEqual([431])
    expect(hits()).toEqual([])
  })

  it('a long path is carried as it is', async () => {
    const path = `/${'a'.repeat(5000)}`
    const answer = await send(head(`GET /proxy/reports${path}`, ada, 'Connection: close'))
    expect(statusesIn(answer)).toEqual([200])
    expect(hits()[0]?.target).toBe(`/base${path}`)
  })

  it('HEAD and OPTIONS are carried as they are', async () => {
    const said = vi.spyOn(console, 'error')
    for (const method of ['HEAD', 'OPTIONS']) {
      const answer = await send(head(`${method} /proxy/reports/x`, ada, 'Connection: close'))
      expect(statusesIn(answer)).toEqual([200])
    }
    expect(hits().map(({ method }) => method)).toEqual(['HEAD', 'OPTIONS'])
    // The server says there what it cannot write.
    expect(said).not.toHaveBeenCalled()
    said.mockRestore()
  })

  it('P18: 64 MiB that are not announced are cut off with 413, and the upstream never has a whole body', async () => {
    const chunk = Buffer.alloc(1024 * 1024)
    const { port } = new URL(broker.url)
    const socket = connect(Number(port), '127.0.0.1')
    await once(socket, 'connect')
    socket.on('error', () => {})
    const answered = once(socket, 'data') as Promise<[Buffer]>
    socket.write(head('POST /proxy/reports/big', ada, 'Transfer-Encoding: chunked'))
    for (let sent = 0; sent < 66; sent += 1) {
      socket.write('100000\r\n')
      if (!socket.write(chunk)) await Promise.race([once(socket, 'drain'), answered])
      socket.write('\r\n')
    }
    expect(statusesIn((await answered)[0].toString('latin1'))).toEqual([413])
    socket.destroy()
  })

  it('P18: a sender that goes away in the middle of its body is no fault of ours', async () => {
    const { port } = new URL(broker.url)
    for (const length of [500, 6 * 1024 * 1024]) {
      const socket = connect(Number(port), '127.0.0.1')
      await once(socket, 'connect')
      socket.write(head('POST /proxy/reports/x', ada, `Content-Length: ${length}`))
      socket.write(Buffer.alloc(length - 1))
      await new Promise((resolve) => {
        setTimeout(resolve, 100)
      })
      socket.destroy()
    }
    expect(
      statusesIn(await send(head('GET /proxy/reports/after', ada, 'Connection: close'))),
    ).toEqual([200])
    expect(broker.logged.filter((line) => line.includes('request_failed'))).toEqual([])
  })

  describe('a browser client', () => {
    const origin = 'Origin: https://client.example.com'

    it('asks before it calls, and needs no bearer for that', async () => {
      const answer = await send(
        head(
          'OPTIONS /proxy/reports/asked',
          origin,
          'Access-Control-Request-Method: PUT',
          'Access-Control-Request-Headers: authorization, x-own, bad name',
          'Connection: close',
        ),
      )
      expect(statusesIn(answer)).toEqual([204])
      expect(answer).toMatch(/access-control-allow-origin: https:\/\/client\.example\.com\r/i)
      expect(answer).toMatch(/access-control-allow-methods: .*\bPUT\b/i)
      expect(answer).toMatch(/access-control-allow-headers: authorization, x-own\r/i)
      expect(answer).not.toMatch(/access-control-allow-credentials/i)
      // What an earlier test broke off in the middle may arrive as late as now.
      expect(hits().filter(({ target }) => target.includes('asked'))).toEqual([])
    })

    it('of an origin that is not allowed gets 403, and nothing that a browser would show it', async () => {
      for (const evil of ['https://evil.example', 'null', 'https://client.example.com.evil']) {
        const answer = await send(
          head(
            'OPTIONS /mcp/files',
            `Origin: ${evil}`,
            'Access-Control-Request-Method: POST',
            'Connection: close',
          ),
        )
        expect(statusesIn(answer)).toEqual([403])
        expect(answer).not.toMatch(/access-control-allow/i)
      }
    })

    it.each(['/proxy/reports/x', '/mcp/files', '/proxy/unknown'])(
      'reads the refusal and the challenge at %s',
      async (path) => {
        const answer = await send(head(`GET ${path}`, origin, 'Connection: close'))
        expect([401, 404]).toContain(statusesIn(answer)[0])
        expect(answer).toMatch(/access-control-allow-origin: https:\/\/client\.example\.com\r/i)
        expect(answer).toMatch(/access-control-expose-headers: .*www-authenticate.*mcp-session-id/i)
        expect(answer).toMatch(/vary: origin\r/i)
      },
    )
  })

  it('the id of the record is the one in the answer, whatever the upstream calls it', async () => {
    upstream.answerWith((_request, response) => {
      response.writeHead(200, { 'x-request-id': 'of-the-upstream', vary: 'Accept' }).end()
    })
    const id = crypto.randomUUID()
    const answer = await send(
      head(
        'GET /proxy/reports/x',
        ada,
        `X-Request-Id: ${id}`,
        'Origin: https://client.example.com',
        'Connection: close',
      ),
    )
    upstream.answerWith(undefined)
    expect(answer).toContain(id)
    expect(answer).not.toContain('of-the-upstream')
    expect(answer).toMatch(/vary: accept, origin\r/i)
  })
})

function subjectOf(authorization: string | undefined): string {
  const payload = authorization?.split('.')[1] ?? ''
  return String((JSON.parse(Buffer.from(payload, 'base64url').toString()) as { sub?: unknown }).sub)
}
