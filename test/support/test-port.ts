import { createSocket } from 'node:dgram'
import { randomInt } from 'node:crypto'
import net from 'node:net'

/**
 * A loopback port that stays free until it is listened on: below those that systems give to whoever does not ask for one, among
 * them every outgoing connection. No other test gets it, in whatever process: as long as this one lives, it holds the same
 * number for UDP, where nobody listens.
 */
export async function findTestPort(): Promise<number> {
  for (;;) {
    const port = randomInt(15_000, 32_000)
    if ((await isFree(port)) && (await hold(port))) return port
  }
}

function isFree(port: number): Promise<boolean> {
  const server = net.createServer()
  return new Promise((resolve) => {
    server.once('error', () => resolve(false))
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)))
  })
}

function hold(port: number): Promise<boolean> {
  const socket = createSocket('udp4')
  return new Promise((resolve) => {
    socket.once('error', () => resolve(false))
    socket.bind({ port, address: '127.0.0.1', exclusive: true }, () => {
      socket.unref()
      resolve(true)
    })
  })
}
