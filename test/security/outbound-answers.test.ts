import { createServer as createTcpServer, type Server, type Socket } from 'node:net'
import { createServer as createTlsServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { inspect } from 'node:util'
import { Worker } from 'node:worker_threads'
import { gzipSync } from 'node:zlib'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { OutboundFailure, type OutboundRequest } from '../../src/core/ports/http-client.ts'
import { createHttpClient, type OutboundLogLine } from '../../src/outbound/http-client.ts'
import { type ScriptedServer, startScriptedServer, text } from '../support/scripted-server.ts'
import { untrustedCertificate } from '../support/untrusted-certificate.ts'

const secret = 'CNRY-RT-refresh-token'

let server: ScriptedServer
let log: OutboundLogLine[]
let closers: (() => Promise<unknown>)[]

const http = createHttpClient({ log: (line) => log.push(line) })

beforeEach(async () => {
  server = await startScriptedServer()
  log = []
  closers = [() => server.close()]
})

afterEach(async () => {
  await Promise.all(closers.map((close) => close()))
})

function post(url: string, limits: Partial<OutboundRequest> = {}): OutboundRequest {
  return {
    url,
    method: 'POST',
    headers: { 'content-type': 'application/x-www-form-urlencoded' },
    body: `refresh_token=${secret}`,
    deadlineMs: 5000,
    maxBytes: 1000,
    destination: {
      allowPrivateNetwork: false,
      configured: true,
      setting: 'upstreams.files.allow_private_network',
    },
    ...limits,
  }
}

async function failureOf(sent: Promise<unknown>): Promise<OutboundFailure> {
  const failure = await sent.then(
    () => undefined,
    (error: unknown) => error,
  )
  expect(failure).toBeInstanceOf(OutboundFailure)
  expect(inspect([failure, log], { depth: 10, showHidden: true })).not.toContain(secret)
  return failure as OutboundFailure
}

function faults(): readonly string[] {
  return log.map(({ fault }) => fault)
}

/** A server that does with each connection what it is told, below HTTP. */
async function rawServer(onConnection: (socket: Socket) => void): Promise<string> {
  const sockets = new Set<Socket>()
  const raw: Server = createTcpServer((socket) => {
    sockets.add(socket)
    socket.on('error', () => {})
    onConnection(socket)
  })
  await new Promise<void>((resolve) => raw.listen(0, '127.0.0.1', resolve))
  closers.push(() => {
    for (const socket of sockets) socket.destroy()
    return new Promise((resolve) => raw.close(resolve))
  })
  return `http://127.0.0.1:${(raw.address() as AddressInfo).port}/token`
}

describe('a whole answer', () => {
  it('comes with its status, headers and body, whatever the status', async () => {
    for (const status of [200, 204, 302, 400, 503, 599]) {
      server.script(text(status === 204 ? '' : 'ä', 'text/plain', status, { 'x-a': '1' }))
      expect(await http.send(post(server.origin))).toMatchObject({
        status,
        headers: { 'x-a': '1' },
        body: status === 204 ? '' : 'ä',
      })
    }
  })

  it('is asked for uncompressed, once, on a connection of its own', async () => {
    await http.send(post(server.origin))
    await http.send(post(server.origin))
    expect(server.requests).toHaveLength(2)
    expect(server.connections()).toBe(2)
    expect(server.requests[0]?.headers).toMatchObject({
      'accept-encoding': 'identity',
      connection: 'close',
    })
    expect(server.requests[0]?.form.get('refresh_token')).toBe(secret)
  })

  it.each([301, 302, 303, 307, 308])(
    'F7: is a %i itself: nothing follows a redirect',
    async (status) => {
      const other = await startScriptedServer()
      closers.push(() => other.close())
      server.script(text('', 'text/plain', status, { location: `${other.origin}/token` }))
      expect(await http.send(post(server.origin))).toMatchObject({ status })
      expect(other.connections()).toBe(0)
    },
  )
})

describe('what was provably not sent', () => {
  it('is a request to a port that nothing listens on', async () => {
    const { origin } = server
    await server.close()
    expect((await failureOf(http.send(post(origin)))).answer).toBe('not_sent')
    expect(log).toEqual([
      { event: 'outbound_request_failed', fault: 'connection_failed', at: 'upstreams.files' },
    ])
  })

  it('is a request to a name that does not resolve', async () => {
    const unresolving = createHttpClient({
      log: (line) => log.push(line),
      lookup: (_name, callback) => callback(new Error('ENOTFOUND'), []),
    })
    const failure = await failureOf(unresolving.send(post('https://as.example.com/')))
    expect(failure.answer).toBe('not_sent')
    expect(faults()).toEqual(['name_not_resolved'])
  })

  it('is a request to a server that speaks no TLS', async () => {
    const failure = await failureOf(http.send(post(`https://127.0.0.1:${server.port}/`)))
    expect(failure.answer).toBe('not_sent')
    expect(faults()).toEqual(['tls_failed'])
    expect(server.requests).toEqual([])
  })

  it('P21: is a request to a server whose certificate nobody vouches for', async () => {
    let received = 0
    const tls = createTlsServer(untrustedCertificate, (_request, response) => {
      received += 1
      response.end()
    })
    await new Promise<void>((resolve) => tls.listen(0, '127.0.0.1', resolve))
    closers.push(() => new Promise((resolve) => tls.close(resolve)))
    for (const host of ['localhost', '127.0.0.1']) {
      const url = `https://${host}:${(tls.address() as AddressInfo).port}/`
      expect((await failureOf(http.send(post(url)))).answer).toBe('not_sent')
    }
    expect(faults()).toEqual(['tls_failed', 'tls_failed'])
    expect(received).toBe(0)
  })

  it('is a request whose time was over before there was a connection', async () => {
    const neverResolving = createHttpClient({ log: (line) => log.push(line), lookup: () => {} })
    const sent = neverResolving.send(post('https://as.example.com/', { deadlineMs: 50 }))
    expect((await failureOf(sent)).answer).toBe('not_sent')
    expect(faults()).toEqual(['deadline_passed'])
  })
})

describe('what may have been carried out', () => {
  it('is a request that the server read and reset', async () => {
    server.script((_request, response) => response.socket?.resetAndDestroy())
    expect((await failureOf(http.send(post(server.origin)))).answer).toBe('lost')
    expect(faults()).toEqual(['connection_broken'])
    expect(server.requests).toHaveLength(1)
  })

  it('is a request on a connection that closed without a word, and it is not sent again', async () => {
    let connections = 0
    const url = await rawServer((socket) => {
      connections += 1
      socket.end()
    })
    expect((await failureOf(http.send(post(url)))).answer).toBe('lost')
    expect(connections).toBe(1)
  })

  it('is a request without an answer in time', async () => {
    server.script(() => {})
    expect((await failureOf(http.send(post(server.origin, { deadlineMs: 1500 })))).answer).toBe(
      'lost',
    )
    expect(faults()).toEqual(['deadline_passed'])
  })

  it('is a request whose answer stops after its head', async () => {
    server.script((_request, response) => {
      response.writeHead(200, { 'content-type': 'application/json', 'content-length': '100' })
      response.write('{"access_token":')
    })
    expect((await failureOf(http.send(post(server.origin, { deadlineMs: 1500 })))).answer).toBe(
      'lost',
    )
  })

  it('is a request whose answer drips past the deadline', async () => {
    server.script((_request, response) => {
      response.writeHead(200)
      const drip = setInterval(() => response.write(' '), 20)
      response.on('close', () => clearInterval(drip))
    })
    expect((await failureOf(http.send(post(server.origin, { deadlineMs: 1500 })))).answer).toBe(
      'lost',
    )
  })

  it.each([
    ['a content-length', 'HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"access_token"'],
    ['chunks', 'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\n{"ac\r\n'],
    ['a head', 'HTTP/1.1 200 OK\r\ncontent-type: appl'],
    ['no HTTP at all', 'SSH-2.0-OpenSSH_9.6\r\n'],
  ])('C20: is a request whose answer breaks off within %s', async (_what, bytes) => {
    const url = await rawServer((socket) => {
      socket.once('data', () => socket.end(bytes))
    })
    expect((await failureOf(http.send(post(url)))).answer).toBe('lost')
  })
})

describe('size', () => {
  it('C20: cuts an answer of 1 GB at the cap', async () => {
    let written = 0
    const chunk = Buffer.alloc(64 * 1024, 'a')
    const closed = new Promise<void>((resolve) => {
      server.script((_request, response) => {
        response.writeHead(200)
        const push = () => {
          while (written < 1024 ** 3 && !response.destroyed) {
            written += chunk.length
            if (!response.write(chunk)) return
          }
          response.end()
        }
        response.on('drain', push).on('close', resolve)
        push()
      })
    })
    expect((await failureOf(http.send(post(server.origin)))).answer).toBe('lost')
    await closed
    expect(faults()).toEqual(['answer_too_large'])
    expect(written).toBeLessThan(100 * 1024 ** 2)
  })

  it('does not even read an answer that announces too much', async () => {
    server.script((_request, response) => {
      response.writeHead(200, { 'content-length': String(1024 ** 3) }).flushHeaders()
    })
    expect((await failureOf(http.send(post(server.origin)))).answer).toBe('lost')
    expect(faults()).toEqual(['answer_too_large'])
  })

  it('C20: does not unpack a compressed answer, asked for or not', async () => {
    const bomb = gzipSync(Buffer.alloc(50 * 1024 ** 2))
    server.script((_request, response) => {
      response.writeHead(200, { 'content-encoding': 'gzip' }).end(bomb)
    })
    const answer = await http.send(post(server.origin, { maxBytes: 256 * 1024 }))
    expect(answer.body.length).toBeLessThanOrEqual(bomb.length)
    expect((await failureOf(http.send(post(server.origin)))).answer).toBe('lost')
  })

  it('takes an answer of exactly the cap', async () => {
    server.script(text('a'.repeat(1000), 'text/plain'))
    expect((await http.send(post(server.origin))).body).toHaveLength(1000)
    server.script(text('a'.repeat(1001), 'text/plain'))
    expect((await failureOf(http.send(post(server.origin)))).answer).toBe('lost')
  })

  it('refuses a head without end', async () => {
    server.script((_request, response) => {
      response.writeHead(200, { 'x-long': 'a'.repeat(100_000) }).end()
    })
    expect((await failureOf(http.send(post(server.origin)))).answer).toBe('lost')
  })
})

describe('F12: a process that stood still', () => {
  it('sends nothing any more when it went on after the deadline', async () => {
    const late = createHttpClient({
      log: (line) => log.push(line),
      lookup: (_name, callback) => {
        standStill(300)
        callback(null, [{ address: '127.0.0.1', family: 4 }])
      },
    })
    const url = `http://localhost:${server.port}/`
    expect((await failureOf(late.send(post(url, { deadlineMs: 100 })))).answer).toBe('not_sent')
    expect(faults()).toEqual(['deadline_passed'])
    expect(server.requests).toEqual([])
  })

  it('takes the answer that came meanwhile', async () => {
    const { port, received, answer } = await answeringThread()
    const sent = http.send(post(`http://127.0.0.1:${port}/`, { deadlineMs: 1500 }))
    await received
    answer()
    standStill(2500)
    expect(await sent).toMatchObject({ status: 200, body: 'came meanwhile' })
  })
})

/** Stops this thread, as a stopped process would be. */
function standStill(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms)
}

function wake(signal: Int32Array): void {
  Atomics.store(signal, 0, 1)
  Atomics.notify(signal, 0)
}

/** A server in a thread of its own, which goes on while this one stands still. */
async function answeringThread(): Promise<{
  port: number
  received: Promise<unknown>
  answer: () => void
}> {
  const signal = new Int32Array(new SharedArrayBuffer(4))
  const worker = new Worker(
    `const { parentPort, workerData } = require('node:worker_threads')
     const { createServer } = require('node:http')
     const server = createServer((request, response) => {
       request.resume().on('end', () => {
         parentPort.postMessage('received')
         Atomics.wait(workerData, 0, 0)
         response.end('came meanwhile')
       })
     })
     server.listen(0, '127.0.0.1', () => parentPort.postMessage(server.address().port))`,
    { eval: true, workerData: signal },
  )
  closers.push(() => worker.terminate())
  const next = () => new Promise<unknown>((resolve) => worker.once('message', resolve))
  const port = Number(await next())
  return { port, received: next(), answer: () => wake(signal) }
}
