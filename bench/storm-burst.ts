import { connect, type Socket } from 'node:net'
import type { StormResult } from './storm-child.ts'

/** Callers over HTTP: one keep-alive connection each, opened beforehand, all requests written at once. */
export type Burst = {
  send(request: Buffer): Promise<StormResult>
  close(): void
}

export async function openBurst(ports: readonly number[], callersEach: number): Promise<Burst> {
  const sockets: Socket[] = []
  for (const port of ports) {
    for (let opened = 0; opened < callersEach; opened += 100) {
      const some = Array.from({ length: Math.min(100, callersEach - opened) }, () => open(port))
      sockets.push(...(await Promise.all(some)))
    }
  }
  return {
    async send(request) {
      let failed = 0
      const waitsMs = await Promise.all(
        sockets.map(async (socket) => {
          const startMs = performance.now()
          if (!(await ask(socket, request))) failed += 1
          return performance.now() - startMs
        }),
      )
      return { waitsMs, failed }
    },
    close() {
      for (const socket of sockets) socket.destroy()
    },
  }
}

function open(port: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ port, host: '127.0.0.1', noDelay: true })
    socket.once('connect', () => resolve(socket))
    socket.once('error', reject)
  })
}

/** Whether it was answered 200. */
function ask(socket: Socket, request: Buffer): Promise<boolean> {
  return new Promise((resolve) => {
    let text = ''
    const onData = (chunk: Buffer) => {
      text += chunk.toString('latin1')
      const head = text.indexOf('\r\n\r\n')
      const length = /content-length: (\d+)/i.exec(text)?.[1]
      const isWhole =
        head >= 0 &&
        (length === undefined
          ? text.endsWith('\r\n0\r\n\r\n')
          : text.length >= head + 4 + Number(length))
      if (!isWhole) return
      socket.off('data', onData)
      resolve(text.startsWith('HTTP/1.1 200'))
    }
    socket.on('data', onData)
    socket.write(request)
  })
}
