import type { Socket } from 'node:net'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { startTestBroker, type TestBroker } from '../support/broker.ts'
import { rawExchange } from '../support/raw-exchange.ts'
import { type RawUpstream, startRawUpstream } from '../support/raw-upstream.ts'

const ok = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'
const head = (...lines: string[]) => [...lines, '', ''].join('\r\n')
const sized = (...lines: string[]) =>
  `${head('HTTP/1.1 200 OK', ...lines, 'Content-Length: 2', 'Connection: keep-alive')}ok`
const chunked = (...lines: string[]) =>
  head('HTTP/1.1 200 OK', 'Transfer-Encoding: chunked', ...lines)

/** What only an upstream that writes its own bytes can answer. */
describe('/proxy, with an upstream below HTTP', () => {
  let upstream: RawUpstream
  let broker: TestBroker
  let ada = ''
  let grace = ''

  beforeAll(async () => {
    upstream = await startRawUpstream()
    broker = await startTestBroker({
      change(config) {
        config.upstreams.reports['url'] = `${upstream.url}/base`
        // Where a test waits for the end of a patience. The others wait for none, however slow their machine is.
        const hasty = { ...config.upstreams.reports, timeouts: { head: '2s', idle: '2s' } }
        Object.assign(config.upstreams, { hasty })
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
    used.clear()
    before = upstream.requests.length
  })
  const asked = () => upstream.requests.length - before

  const requestOf = (person: string, method = 'GET', ...lines: string[]) =>
    head(`${method} /proxy/reports/x HTTP/1.1`, 'Host: x', person, 'Connection: close', ...lines)
  const hastily = (request: string) => request.replace('/proxy/reports/', '/proxy/hasty/')

  /** All that comes back as bytes, until the gateway closes. */
  async function send(text: string): Promise<string> {
    const { port } = new URL(broker.url)
    const to = { host: '127.0.0.1', port: Number(port) }
    return (await rawExchange(to, Buffer.from(text, 'latin1'))).toString('latin1')
  }

  const statusesIn = (answer: string) =>
    [...answer.matchAll(/HTTP\/1\.1 (\d{3})/g)].map(([, status]) => Number(status))
  const bodyOf = (answer: string) => answer.slice(answer.indexOf('\r\n\r\n') + 4)
  const namesIn = (answer: string) =>
    answer
      .slice(0, answer.indexOf('\r\n\r\n'))
      .split('\r\n')
      .slice(1)
      .map((line) => line.split(':', 1)[0]?.toLowerCase())

  const write = (bytes: string) => (socket: Socket) => {
    socket.write(Buffer.from(bytes, 'latin1'))
  }
  const finish = (bytes: string) => (socket: Socket) => {
    socket.end(Buffer.from(bytes, 'latin1'))
  }
  /** Goes on without an end. */
  const drip =
    (first: string, again: string, everyMs = 50) =>
    (socket: Socket) => {
      socket.write(first)
      const timer = setInterval(() => socket.write(again), everyMs)
      socket.on('close', () => clearInterval(timer))
    }

  /** Those that something hostile was written to. */
  const used = new Set<Socket>()
  const answerWith = (hostile: (socket: Socket) => void) =>
    upstream.answerWith((socket) => {
      used.add(socket)
      hostile(socket)
    })
  const areClosed = () => [...used].every(({ destroyed }) => destroyed)

  /** The hostile answer, and that of the next call, which is another person's. */
  async function answersTo(
    hostile: (socket: Socket) => void,
    request = requestOf(ada),
  ): Promise<string> {
    upstream.answerWith((socket, { connection }) => {
      hostile(socket)
      upstream.answerWith((next, { head: received, connection: own }) => {
        // What is broken is not used again.
        const isBroken = own === connection ? ' again' : ''
        next.write(`HTTP/1.1 200 OK\r\nContent-Length: ${2 + isBroken.length}\r\n\r\nok${isBroken}`)
        expect(received).toContain('/base/x')
      })
    })
    const answer = await send(request)
    const again = requestOf(grace)
    const next = await send(request.includes('/proxy/hasty/') ? hastily(again) : again)
    expect([statusesIn(next), bodyOf(next).replace(' again', '')]).toEqual([[200], 'ok'])
    return answer
  }

  describe('P7: response splitting', () => {
    it.each([
      ['a bare CR', sized('X-A: a\rSet-Cookie: evil=1')],
      ['a bare LF', sized('X-A: a\nSet-Cookie: evil=1')],
      ['lines that end in LF', ok.replaceAll('\r', '')],
      ['a folded header', sized('X-A: a\r\n Set-Cookie: evil=1')],
      ['a header folded by a tab', sized('X-A: a\r\n\tSet-Cookie: evil=1')],
      ['a NUL', sized('X-A: a\0evil')],
      ['a control character', sized('X-A: a\x01evil')],
      ['a name with a blank', sized('X A: evil')],
      ['a blank before the colon', sized('Set-Cookie : evil=1')],
      ['no name', sized(': evil')],
      ['a CR in the reason', ok.replace('OK', 'O\rSet-Cookie: evil=1')],
      ['a status of four digits', ok.replace('200', '1000')],
      ['a status below all', ok.replace('200', '000')],
      ['no HTTP', '\x00\x01\x02evil\r\n\r\n'],
    ])('%s: 503 without a byte of it', async (_what, bytes) => {
      const answer = await answersTo(write(bytes))
      expect(statusesIn(answer)).toEqual([503])
      expect(JSON.parse(bodyOf(answer))).toMatchObject({ code: 'upstream_unavailable' })
      expect(answer).not.toMatch(/evil/i)
    })

    it('letters beyond ASCII pass byte for byte', async () => {
      const answer = await answersTo(write(sized('X-A: \xe4\xff\xe2\x82\xac')))
      expect(answer).toContain('x-a: \xe4\xff\xe2\x82\xac\r\n')
    })
  })

  it('P7: no cookie reaches a person: in any spelling, from an interim answer, in a trailer', async () => {
    const early = head('HTTP/1.1 103 Early Hints', 'Set-Cookie: evil=1', 'Link: </evil>')
    const late = chunked('set-cookie: evil=2', 'SET-COOKIE: evil=3', 'Set-Cookie2: evil=4')
    const answer = await answersTo(
      write(`${early}${late}2\r\nok\r\n0\r\nSet-Cookie: evil=5\r\n\r\n`),
    )
    expect(statusesIn(answer)).toEqual([200])
    expect(bodyOf(answer)).toBe('2\r\nok\r\n0\r\n\r\n')
    expect(answer).not.toMatch(/evil|set-cookie/i)
  })

  describe('interim answers', () => {
    it.each([
      ['103', head('HTTP/1.1 103 Early Hints', 'Link: </evil>; rel=preload')],
      ['102', head('HTTP/1.1 102 Processing').repeat(3)],
      ['a thousand', head('HTTP/1.1 103 Early Hints', 'X-Evil: 1').repeat(1000)],
    ])('%s: are left out, and the final answer is the answer', async (_what, bytes) => {
      const answer = await answersTo(write(bytes + ok))
      expect([statusesIn(answer), bodyOf(answer)]).toEqual([[200], 'ok'])
      expect(answer).not.toMatch(/evil|link/i)
    })

    it.each([
      ['100 that nobody waits for', head('HTTP/1.1 100 Continue')],
      ['101', head('HTTP/1.1 101 Switching Protocols', 'Connection: upgrade', 'Upgrade: evil')],
      ['103 with a body', `${head('HTTP/1.1 103 Early Hints', 'Content-Length: 4')}evil`],
    ])('%s: 503, and nothing is switched', async (_what, bytes) => {
      const answer = await answersTo(write(bytes + ok))
      expect(statusesIn(answer)).toEqual([503])
      expect(answer).not.toMatch(/evil/i)
    })

    it('P20: that go on for ever are 504 after `head`', async () => {
      const early = head('HTTP/1.1 103 Early Hints')
      expect(statusesIn(await answersTo(drip(early, early), hastily(requestOf(ada))))).toEqual([
        504,
      ])
    })
  })

  describe('P4: a length that is none', () => {
    it.each([
      ['204 with a body', `${head('HTTP/1.1 204 No', 'Content-Length: 4')}evil`, 204],
      [
        '204 in chunks',
        `${head('HTTP/1.1 204 No', 'Transfer-Encoding: chunked')}4\r\nevil\r\n0\r\n\r\n`,
        204,
      ],
      ['304 with a body', `${head('HTTP/1.1 304 Not', 'Content-Length: 4')}evil`, 304],
    ])('%s: there is none', async (_what, bytes, status) => {
      const answer = await answersTo(write(bytes))
      expect([statusesIn(answer), bodyOf(answer)]).toEqual([[status], ''])
      // With one, a client could wait for a body, and take the next answer for it.
      if (status === 204) expect(namesIn(answer)).not.toContain('content-length')
    })

    it('HEAD with a body: there is none', async () => {
      const bytes = `${head('HTTP/1.1 200 OK', 'Content-Length: 4')}evil`
      const answer = await answersTo(write(bytes), requestOf(ada, 'HEAD'))
      expect([statusesIn(answer), bodyOf(answer)]).toEqual([[200], ''])
    })

    it('too short: what is behind it is nobody’s answer', async () => {
      const smuggled = `${head('HTTP/1.1 200 OK', 'Content-Length: 4')}evil`
      const answer = await answersTo(write(ok + smuggled))
      expect([statusesIn(answer), bodyOf(answer)]).toEqual([[200], 'ok'])
    })

    it.each([
      ['and then nothing', finish(`${head('HTTP/1.1 200 OK', 'Content-Length: 9')}half`)],
      ['and then silence', write(`${head('HTTP/1.1 200 OK', 'Content-Length: 9')}half`)],
    ])(
      'too long %s: the answer is not whole, and cannot be taken for it',
      async (_what, hostile) => {
        const answer = await answersTo(hostile, hastily(requestOf(ada)))
        expect(answer).toMatch(/content-length: 9\r\n/)
        expect(bodyOf(answer)).toBe('half')
      },
    )

    it.each([
      ['two', ['Content-Length: 2', 'Content-Length: 3']],
      ['two that agree', ['Content-Length: 2', 'Content-Length: 2']],
      ['a list', ['Content-Length: 2, 2']],
      ['below nothing', ['Content-Length: -2']],
      ['beyond all numbers', ['Content-Length: 99999999999999999999']],
      ['beside a coding', ['Content-Length: 2', 'Transfer-Encoding: chunked']],
      ['behind a coding', ['Transfer-Encoding: chunked', 'Content-Length: 2']],
      ['a coding that is none', ['Transfer-Encoding: xchunked']],
      ['a coding that nobody asked for', ['Transfer-Encoding: gzip, chunked']],
      ['a coding whose end cannot be told', ['Transfer-Encoding: chunked, identity']],
      ['two codings', ['Transfer-Encoding: chunked', 'Transfer-Encoding: gzip']],
    ])('%s: 503', async (_what, lines) => {
      const answer = await answersTo(
        write(`${head('HTTP/1.1 200 OK', ...lines)}2\r\nok\r\n0\r\n\r\n`),
      )
      expect(statusesIn(answer)).toEqual([503])
    })

    it('a chunk that is none cuts the answer', async () => {
      const answer = await answersTo(write(`${chunked()}2\r\nok\r\nzz\r\n`))
      expect(bodyOf(answer)).toBe('2\r\nok\r\n')
    })
  })

  describe('an answer that comes in pieces', () => {
    it('has its last piece before the mark of its end, though both come at once', async () => {
      const answer = await answersTo((socket) => {
        socket.write(`${chunked()}5\r\nfirst\r\n`)
        setTimeout(() => socket.write('4\r\nlast\r\n0\r\n\r\n'), 50)
      })
      expect(bodyOf(answer)).toBe('5\r\nfirst\r\n4\r\nlast\r\n0\r\n\r\n')
    })
  })

  describe('a body that nobody reads to its end', () => {
    const host = 'Host: x'
    const after = () => head('GET /proxy/unknown/x HTTP/1.1', host, ada, 'Connection: close')

    it('of a call that is answered before: the answer arrives, and so does that of the next', async () => {
      answerWith(finish(head('HTTP/1.1 413 Content Too Large', 'Content-Length: 0')))
      const length = 6 * 1024 * 1024
      const upload = head('PUT /proxy/reports/x HTTP/1.1', host, ada, `Content-Length: ${length}`)
      const answer = await send(`${upload}${'x'.repeat(length)}${after()}`)
      expect(statusesIn(answer)).toEqual([413, 404])
    })

    it.each(['/mcp/files', '/proxy/unknown/x'])(
      'P19: and that has none keeps no connection: %s',
      async (path) => {
        const twice = ['Mcp-Name: x', 'Mcp-Name: x', 'Transfer-Encoding: chunked']
        const answer = await send(`${head(`POST ${path} HTTP/1.1`, host, ada, ...twice)}1\r\na\r\n`)
        expect([400, 404]).toContain(statusesIn(answer)[0])
      },
    )
  })

  it('P9: what an upstream says on a connection where nobody asked is nobody’s answer', async () => {
    let idle: Socket | undefined
    upstream.answerWith((socket) => {
      idle = socket
      socket.write(ok)
    })
    expect(bodyOf(await send(requestOf(ada)))).toBe('ok')
    idle?.write(`${head('HTTP/1.1 200 OK', 'Content-Length: 4')}evil`)
    await expect.poll(() => idle?.destroyed).toBe(true)
    expect(bodyOf(await send(requestOf(grace)))).toBe('ok')
  })

  describe('heads', () => {
    const many = (count: number) => Array.from({ length: count }, (_, at) => `x${at}: 1`)

    it('one named like a member of every object is a header like any', async () => {
      const answer = await answersTo(write(sized('Constructor: x', '__proto__: x')))
      expect(namesIn(answer)).toContain('constructor')
    })

    it('a thousand headers are passed on', async () => {
      const answer = await answersTo(write(sized(...many(1000))))
      expect(statusesIn(answer)).toEqual([200])
      expect(namesIn(answer).filter((name) => /^x\d+$/.test(name ?? ''))).toHaveLength(1000)
    })

    it.each([
      ['many thousands of headers', sized(...many(5000))],
      ['a giant header', sized(`X-A: ${'a'.repeat(1_000_000)}`)],
      ['a giant name', sized(`${'a'.repeat(1_000_000)}: 1`)],
    ])('%s: 503', async (_what, bytes) => {
      expect(statusesIn(await answersTo(write(bytes)))).toEqual([503])
    })

    it('one without an end is 503 before it is long', async () => {
      const kib = 'a'.repeat(1024)
      const answer = await answersTo(drip('HTTP/1.1 200 OK\r\nX-A: ', kib, 5))
      expect(statusesIn(answer)).toEqual([503])
    })
  })

  describe('P20: an upstream that takes its time', () => {
    it.each([
      ['never starts', () => {}],
      ['starts and says no more', write(head('HTTP/1.1 103 Early Hints'))],
      ['writes a letter at a time', drip('HTTP/1.1 200 OK\r\nX-A: ', 'a')],
      ['writes a header at a time', drip('HTTP/1.1 200 OK\r\n', 'X-A: a\r\n')],
    ])('%s: 504 after `head`, once', async (_what, hostile) => {
      answerWith(hostile)
      const answer = await send(hastily(requestOf(ada)))
      expect(statusesIn(answer)).toEqual([504])
      expect(JSON.parse(bodyOf(answer))).toMatchObject({ code: 'upstream_timeout' })
      expect(asked()).toBe(1)
      await expect.poll(areClosed).toBe(true)
    })

    it.each([
      ['before its first word', ''],
      ['in the middle', 'data: 1\n\n'],
    ])('a stream that is silent %s is cut after `idle`', async (_what, said) => {
      const events = head('HTTP/1.1 200 OK', 'Content-Type: text/event-stream')
      answerWith(write(events + said))
      const answer = await send(hastily(requestOf(ada)))
      expect(statusesIn(answer)).toEqual([200])
      // No end of chunks: it is not whole.
      expect(answer).not.toContain('\r\n0\r\n')
      expect(bodyOf(answer)).toContain(said)
      await expect.poll(areClosed).toBe(true)
    })

    it.each([
      ['401', 'WWW-Authenticate: Bearer', 502, 2],
      ['307', 'Location: https://evil.example/', 502, 1],
      ['403', 'WWW-Authenticate: Bearer error="insufficient_scope", scope="evil"', 403, 1],
    ])('a %s without an end keeps nobody waiting', async (status, line, expected, times) => {
      const refusal = head(`HTTP/1.1 ${status} No`, line, 'Transfer-Encoding: chunked')
      answerWith(drip(refusal, '1\r\na\r\n'))
      const answer = await send(hastily(requestOf(ada)))
      expect(statusesIn(answer)).toEqual([expected])
      expect(answer).not.toContain('evil')
      expect(asked()).toBe(times)
      await expect.poll(areClosed).toBe(true)
    })

    it('P18: a 403 that asks for more scope, and floods, is read no further than it can be of use', async () => {
      const challenge = 'WWW-Authenticate: Bearer error="insufficient_scope", scope="x"'
      const refusal = head('HTTP/1.1 403 No', challenge, 'Transfer-Encoding: chunked')
      answerWith(drip(refusal, `10000\r\n${'a'.repeat(65_536)}\r\n`, 1))
      const answer = await send(hastily(requestOf(ada)))
      expect(statusesIn(answer)).toEqual([403])
      expect(answer.length).toBeLessThan(100_000)
      await expect.poll(areClosed).toBe(true)
    })
  })

  describe('an answer before the body was sent', () => {
    const bytes = 20_000_000
    const upload = (sent: number) =>
      requestOf(ada, 'POST', `Content-Length: ${bytes}`) + 'x'.repeat(sent)

    it.each([
      ['413, and the rest never comes', write(ok.replace('200 OK', '413 No')), 413, 6_000_000],
      [
        '413, and the connection ends',
        finish(ok.replace('200 OK', '413 No\r\nConnection: close')),
        413,
        6_000_000,
      ],
      ['200, and all of it comes', write(ok), 200, bytes],
    ])('%s: is the answer', async (_what, hostile, status, sent) => {
      const answer = await answersTo(hostile, upload(sent))
      expect([statusesIn(answer), bodyOf(answer)]).toEqual([[status], 'ok'])
    })

    it('P17: a 401 to a body that is gone is not answered by half of it', async () => {
      upstream.answerWith(write(ok.replace('200 OK', '401 No')))
      const answer = await send(upload(6_000_000))
      expect(statusesIn(answer)).toEqual([502])
      expect(JSON.parse(bodyOf(answer))).toMatchObject({ code: 'upstream_rejected_credential' })
      expect(asked()).toBe(1)
    })
  })
})
