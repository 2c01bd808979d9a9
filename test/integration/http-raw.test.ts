import { once } from 'node:events'
import { connect } from 'node:net'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type HttpServer, startServer } from '../../src/http/server.ts'
import { adaToken, createHttpRoom, type HttpRoom, serviceKey } from '../support/http-room.ts'
import { rawExchange } from '../support/raw-exchange.ts'

/** What only bytes on a socket can say: an HTTP client would tidy it up. */

let http: HttpRoom
let server: HttpServer

beforeAll(async () => {
  http = createHttpRoom()
  server = await startServer({ fetch: http.app.fetch, host: '127.0.0.1', port: 0 })
})
afterAll(() => server.close(0))

type Answer = { status: number; head: string; body: string }

/** Sends bytes and reads until the server closes. */
async function send(text: string): Promise<Answer> {
  const answer = (await rawExchange(server, text)).toString()
  const [head = '', ...rest] = answer.split('\r\n\r\n')
  return {
    status: Number(head.split(' ')[1]),
    head: head.toLowerCase(),
    body: rest.join('\r\n\r\n'),
  }
}

function request(line: string, headers: readonly string[], body = ''): string {
  return [`${line} HTTP/1.1`, 'Connection: close', ...headers, '', body].join('\r\n')
}

const body = JSON.stringify({ upstream: 'files', subject_token: adaToken })
const host = 'Host: broker.example.com'
const key = `Authorization: Bearer ${serviceKey}`
const length = `Content-Length: ${body.length}`
const resolveLine = 'POST /api/v1/resolve'

describe('POST /api/v1/resolve on a socket', () => {
  it('answers', async () => {
    const answer = await send(request(resolveLine, [host, key, length], body))
    expect(answer.status).toBe(200)
    expect(answer.head).toContain('cache-control: no-store')
    expect(JSON.parse(answer.body)).toMatchObject({ header: 'Authorization', fingerprint: 'f1' })
  })

  it('takes a body in chunks', async () => {
    const chunked = `${body.length.toString(16)}\r\n${body}\r\n0\r\n\r\n`
    const head = [host, key, 'Transfer-Encoding: chunked']
    expect((await send(request(resolveLine, head, chunked))).status).toBe(200)
  })

  it.each([
    ['good then bad', [key, 'Authorization: Bearer nobody']],
    ['bad then good', ['Authorization: Bearer nobody', key]],
    ['the same twice', [key, key]],
    ['in two spellings', [key, `authorization: Bearer ${serviceKey}`]],
    ['with an empty one', [key, 'Authorization:']],
  ])('T10, F1: refuses two Authorization headers, %s', async (_name, headers) => {
    const answer = await send(request(resolveLine, [host, ...headers, length], body))
    expect(answer.status).toBe(400)
    expect(JSON.parse(answer.body)).toMatchObject({ code: 'invalid_request' })
  })

  it('refuses more than 64 KiB that are announced, without reading them', async () => {
    const answer = await send(request(resolveLine, [host, key, 'Content-Length: 1000000000'], body))
    expect(answer.status).toBe(400)
    expect(JSON.parse(answer.body)).toMatchObject({ code: 'invalid_request', field: 'body' })
  })

  it('refuses more than 64 KiB that are not announced', async () => {
    const chunk = `10000\r\n${'x'.repeat(0x10000)}\r\n`
    const answer = await send(
      request(resolveLine, [host, key, 'Transfer-Encoding: chunked'], `${chunk}${chunk}0\r\n\r\n`),
    )
    expect(answer.status).toBe(400)
    expect(JSON.parse(answer.body)).toMatchObject({ code: 'invalid_request', field: 'body' })
  })

  it('C14: survives a sender that goes away in the middle', async () => {
    const socket = connect(server.port, server.host)
    await once(socket, 'connect')
    socket.write(request(resolveLine, [host, key, 'Content-Length: 500'], body))
    socket.destroy()
    await once(socket, 'close')
    expect((await send(request('GET /healthz', [host]))).status).toBe(200)
    expect(http.room.logged).toEqual([])
  })
})

describe('Any route on a socket', () => {
  const bearer = `Authorization: Bearer ${adaToken}`

  it('T10: refuses two Authorization headers', async () => {
    const answer = await send(request('GET /api/v1/me', [host, bearer, bearer]))
    expect(answer.status).toBe(400)
  })

  it('F1: refuses two Hosts', async () => {
    const answer = await send(request('GET /api/v1/me', [host, 'Host: evil.example', bearer]))
    expect(answer.status).toBe(400)
  })

  it('F2: takes nothing from a request line with an address, nor from Host', async () => {
    const absolute = await send(request('GET http://evil.example/api/v1/me', [host]))
    expect(absolute.status).toBe(401)
    expect(absolute.head).not.toContain('evil')
    const otherHost = await send(request('GET /connections', ['Host: evil.example']))
    expect(otherHost.status).toBe(303)
    expect(otherHost.head).not.toContain('evil')
    expect(http.room.signIns.at(-1)?.returnTo).toBe('/connections')
  })

  it.each(['"><script>', 'a b', 'evil.example/@x', '[::1'])(
    'H-G2: survives the Host %s and shows nothing of it',
    async (hostile) => {
      const answer = await send(request('GET /api/v1/me', [`Host: ${hostile}`]))
      expect([400, 401]).toContain(answer.status)
      expect(JSON.parse(answer.body)).toMatchObject({ status: answer.status })
      expect(answer.head + answer.body).not.toMatch(/script|evil/)
    },
  )

  it('F4: refuses TRACE, CONNECT and methods of its own', async () => {
    for (const line of ['TRACE /api/v1/me', 'PROPFIND /healthz', 'TRACE /']) {
      const answer = await send(request(line, [host, bearer]))
      expect(answer.status).toBe(405)
      expect(answer.body).not.toContain(adaToken)
    }
    const tunnel = await send(request('CONNECT evil.example:443', [host]))
    expect(tunnel.status).not.toBe(200)
  })

  it.each(['/files/../calendar', '/files/%2E%2e/calendar/x', '/files/./x'])(
    'what is written behind /ext-authz leads to the credential of no other upstream: %s',
    async (path) => {
      const service = `X-Onbehalf-Service-Key: ${serviceKey}`
      const answer = await send(request(`GET /ext-authz${path}`, [host, service, bearer]))
      expect(answer.status).toBe(401)
      expect(answer.head).toContain('x-onbehalf-error: invalid_request')
    },
  )

  it('P25: upgrades nothing', async () => {
    const upgrade = ['Upgrade: websocket', 'Sec-WebSocket-Version: 13', 'Sec-WebSocket-Key: AAAA']
    const answer = await send(request('GET /api/v1/me', [host, ...upgrade]))
    expect(answer.status).toBe(401)
  })

  it.each(['xchunked', 'chunked, identity', 'gzip, chunked'])(
    'F4: refuses Transfer-Encoding: %s',
    async (encoding) => {
      const answer = await send(
        request('DELETE /api/v1/connections/files', [
          host,
          bearer,
          `Transfer-Encoding: ${encoding}`,
        ]),
      )
      expect(answer.status).toBe(400)
      expect(http.room.disconnected).toEqual([])
    },
  )

  it.each([
    ['two Hosts', 'Host: evil.example'],
    ['two Authorization headers', key],
    ['two media types', 'Content-Type: text/plain\r\nContent-Type: application/json'],
    ['a coding that some read as chunks', 'Transfer-Encoding: xchunked'],
  ])('F4: refuses %s at resolve, which stands before the edge', async (_what, line) => {
    const asked = http.room.asked.length
    const answer = await send(request(resolveLine, [host, key, length, line], body))
    expect(answer.status).toBe(400)
    expect(http.room.asked.length).toBe(asked)
  })

  it('refuses a length and chunks together', async () => {
    const answer = await send(
      request(resolveLine, [host, key, length, 'Transfer-Encoding: chunked'], body),
    )
    expect(answer.status).toBe(400)
  })

  it('T12: refuses a head above 16 KiB: 431', async () => {
    const answer = await send(
      request('GET /api/v1/me', [host, `Authorization: Bearer ${'x'.repeat(17_000)}`]),
    )
    expect(answer.status).toBe(431)
  })

  it.each([
    ['no request at all', 'garbage\r\n\r\n', 400],
    ['a method that HTTP does not know', request('FOO /api/v1/me', [host]), 400],
    ['a header without a colon', request('GET /healthz', [host, 'Bad Header']), 400],
    ['two lengths', request(resolveLine, [host, key, length, 'Content-Length: 6'], body), 400],
    ['a head above 16 KiB', request('GET /healthz', [host, `X: ${'x'.repeat(17_000)}`]), 431],
  ])('answers %s with a problem', async (_name, text, status) => {
    const answer = await send(text)
    expect(answer.status).toBe(status)
    expect(answer.head).toContain('content-type: application/problem+json')
    expect(answer.head).toContain('connection: close')
    const problem = JSON.parse(answer.body) as Record<string, unknown>
    expect(problem).toMatchObject({ type: 'about:blank', status, code: 'invalid_request' })
    expect(problem['request_id']).toMatch(/^[\da-f-]{36}$/)
  })

  it('answers a balancer that asks for the health in HTTP/1.0, without a Host', async () => {
    expect((await send('GET /healthz HTTP/1.0\r\n\r\n')).status).toBe(200)
    expect((await send('GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n')).status).toBe(400)
  })

  it('answers HEAD without a body', async () => {
    const answer = await send(request('HEAD /healthz', [host]))
    expect(answer.status).toBe(200)
    expect(answer.body).toBe('')
  })
})

const urlOf = ({ host: name, port }: HttpServer) => `http://${name}:${port}`

describe('startServer', () => {
  it('says where it listens and refuses an address that is taken', async () => {
    expect(server.host).toBe('127.0.0.1')
    expect(server.port).toBeGreaterThan(0)
    const again = startServer({ fetch: http.app.fetch, host: '127.0.0.1', port: server.port })
    await expect(again).rejects.toMatchObject({ code: 'EADDRINUSE' })
  })

  it('closes when what is in flight is answered, and takes nothing new', async () => {
    const busy = createHttpRoom()
    let release = () => {}
    const held = new Promise<void>((resolve) => {
      release = resolve
    })
    let entered = () => {}
    const inside = new Promise<void>((resolve) => {
      entered = resolve
    })
    const own = await startServer({ fetch: busy.app.fetch, host: '127.0.0.1', port: 0 })
    busy.room.resolve = async () => {
      entered()
      await held
      return { header: 'H', value: 'v', expiresAt: undefined, fingerprint: 'f' }
    }
    const answer = fetch(`${urlOf(own)}/api/v1/resolve`, {
      method: 'POST',
      headers: { authorization: `Bearer ${serviceKey}` },
      body,
    })
    await inside
    const closed = own.close(10_000)
    await expect(fetch(`${urlOf(own)}/healthz`)).rejects.toThrow()
    release()
    expect((await answer).status).toBe(200)
    await closed
  })

  it('cuts what does not end in time', async () => {
    const busy = createHttpRoom()
    const own = await startServer({ fetch: busy.app.fetch, host: '127.0.0.1', port: 0 })
    let entered = () => {}
    const inside = new Promise<void>((resolve) => {
      entered = resolve
    })
    busy.room.resolve = () => {
      entered()
      return new Promise(() => {})
    }
    const answer = fetch(`${urlOf(own)}/api/v1/resolve`, {
      method: 'POST',
      headers: { authorization: `Bearer ${serviceKey}` },
      body,
    })
    await inside
    await Promise.all([own.close(20), expect(answer).rejects.toThrow()])
  })
})
