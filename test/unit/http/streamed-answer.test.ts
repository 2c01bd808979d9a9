import { once } from 'node:events'
import { createServer, type Server, type ServerResponse } from 'node:http'
import { type AddressInfo, connect } from 'node:net'
import { getRequestListener } from '@hono/node-server'
import { afterAll, beforeAll, describe, expect, it, onTestFinished, vi } from 'vitest'
import { answerAsResponse, answerOnSocket } from '../../../src/http/streamed-answer.ts'
import { rawExchange } from '../../support/raw-exchange.ts'

describe('an answer on a socket', () => {
  let server: Server
  let handle: (outgoing: ServerResponse) => void = () => {}
  let port = 0

  beforeAll(async () => {
    server = createServer((_incoming, outgoing) => handle(outgoing))
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    port = (server.address() as AddressInfo).port
  })
  afterAll(() => {
    server.closeAllConnections()
    server.close()
  })

  const request = 'GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n'
  const bytesOf = async (answer: (outgoing: ServerResponse) => void) => {
    handle = answer
    return (await rawExchange({ host: '127.0.0.1', port }, request)).toString()
  }

  it('P17: that is cut in the turn in which it began is seen to have begun, and not to have ended', async () => {
    const bytes = await bytesOf((outgoing) => {
      const answer = answerOnSocket(outgoing, {})
      answer.begin(200, {})
      answer.write(Buffer.from('half'))
      answer.cut()
    })
    expect(bytes).toMatch(/^HTTP\/1\.1 200 OK\r\n/)
    expect(bytes).toMatch(/4\r\nhalf\r\n$/)
  })

  it('tells a caller who was gone before it was there', async () => {
    const socket = connect(port, '127.0.0.1')
    const arrived = new Promise<ServerResponse>((resolve) => {
      handle = resolve
    })
    socket.write(request)
    const outgoing = await arrived
    socket.destroy()
    await once(outgoing, 'close')
    let hasGone = false
    answerOnSocket(outgoing, {}).onGone(() => {
      hasGone = true
    })
    expect(hasGone).toBe(true)
  })

  it('tells a caller who was gone before it was there, behind another answer', async () => {
    const socket = connect(port, '127.0.0.1')
    const arrived: ServerResponse[] = []
    handle = (outgoing) => void arrived.push(outgoing)
    socket.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(2))
    await expect.poll(() => arrived.length).toBe(2)
    socket.destroy()
    await once(arrived[0] as ServerResponse, 'close')
    let hasGone = false
    answerOnSocket(arrived[1] as ServerResponse, {}).onGone(() => {
      hasGone = true
    })
    expect(hasGone).toBe(true)
  })

  it('has headers of the same name one by one, and what it varies by as one', async () => {
    const bytes = await bytesOf((outgoing) => {
      const answer = answerOnSocket(outgoing, { vary: 'Origin', 'x-request-id': 'ours' })
      answer.begin(204, { link: ['<a>', '<b>'], vary: ['A', 'B'], 'x-request-id': 'theirs' })
      answer.end()
    })
    expect(bytes.match(/^link: <.>\r$/gm)).toHaveLength(2)
    expect(bytes).toContain('vary: A, B, Origin\r\n')
    expect(bytes.match(/x-request-id: .*/g)).toEqual(['x-request-id: ours'])
  })
})

describe('an answer as a Response', () => {
  /** Begun, and with half of its body. */
  function half(signal: AbortSignal) {
    const begun: Response[] = []
    const answer = answerAsResponse({}, signal, (response) => begun.push(response))
    answer.begin(200, {})
    answer.write(Buffer.from('half'))
    return { answer, response: begun[0] }
  }

  it('breaks off for its reader where it is cut', async () => {
    const { answer, response } = half(new AbortController().signal)
    answer.cut()
    await expect(response?.text()).rejects.toThrow()
  })

  it.each(['cancels the body', 'aborts the request'])('tells of a caller who %s', async (how) => {
    const leaving = new AbortController()
    const { answer, response } = half(leaving.signal)
    let hasGone = 0
    answer.onGone(() => {
      hasGone += 1
    })
    if (how === 'cancels the body') await response?.body?.cancel()
    else leaving.abort()
    expect(hasGone).toBe(1)
    // Whoever still writes to it is not thrown at.
    expect(answer.write(Buffer.from('more'))).toBe(true)
  })

  it('breaks off for whoever reads on after the abort', async () => {
    const leaving = new AbortController()
    const { response } = half(leaving.signal)
    leaving.abort()
    await expect(response?.text()).rejects.toThrow()
  })

  it("P17: is no error of an embedder's own server where its caller just left", async () => {
    const printed = vi.spyOn(console, 'error').mockImplementation(() => {})
    onTestFinished(() => printed.mockRestore())
    let hasGone = false
    const listener = getRequestListener(
      ({ signal }) =>
        new Promise<Response>((respond) => {
          const answer = answerAsResponse({}, signal, respond)
          answer.onGone(() => {
            hasGone = true
          })
          answer.begin(200, { 'content-type': 'text/event-stream' })
          answer.write(Buffer.from('data: one\n\n'))
        }),
    )
    const over: Promise<unknown>[] = []
    const server = createServer((incoming, outgoing) => {
      over.push(listener(incoming, outgoing))
    })
    onTestFinished(() => void server.close())
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    const socket = connect((server.address() as AddressInfo).port, '127.0.0.1')
    socket.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n')
    await once(socket, 'data')
    socket.destroy()
    await expect.poll(() => hasGone).toBe(true)
    await Promise.all(over)
    expect(printed).not.toHaveBeenCalled()
  })
})
