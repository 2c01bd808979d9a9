import { createServer, type Server, type Socket } from 'node:net'
import type { AddressInfo } from 'node:net'

/** A request as its bytes arrived: the head, and what of the body was there with it. */
export type RawRequest = { readonly head: string; readonly connection: number }

/** A server below HTTP: each request is answered with whatever bytes it is told. */
export type RawUpstream = {
  readonly url: string
  readonly requests: readonly RawRequest[]
  /** What happens with each request from here on, once its head is there. */
  answerWith(answer: (socket: Socket, request: RawRequest) => void): void
  readonly stop: () => Promise<void>
}

export async function startRawUpstream(): Promise<RawUpstream> {
  const sockets = new Set<Socket>()
  const requests: RawRequest[] = []
  let answer: (socket: Socket, request: RawRequest) => void = (socket) => socket.destroy()
  let connection = 0

  const server: Server = createServer((socket) => {
    sockets.add(socket)
    connection += 1
    const own = connection
    socket.on('error', () => {})
    socket.on('close', () => sockets.delete(socket))
    let received = ''
    let bodyLeft = 0
    socket.on('data', (chunk: Buffer) => {
      received += chunk.toString('latin1')
      for (;;) {
        const skipped = Math.min(bodyLeft, received.length)
        received = received.slice(skipped)
        bodyLeft -= skipped
        const end = received.indexOf('\r\n\r\n')
        if (end === -1) return
        const request = { head: received.slice(0, end), connection: own }
        received = received.slice(end + 4)
        bodyLeft = Number(/^content-length: (\d+)$/im.exec(request.head)?.[1] ?? 0)
        requests.push(request)
        answer(socket, request)
      }
    })
  })
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve)
  })
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests,
    answerWith(next) {
      answer = next
    },
    async stop() {
      for (const socket of sockets) socket.destroy()
      await new Promise((resolve) => {
        server.close(resolve)
      })
    },
  }
}
