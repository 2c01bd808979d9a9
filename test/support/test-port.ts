import { randomInt } from 'node:crypto'
import net from 'node:net'

/**
 * A free loopback port that stays free until it is listened on: below those that systems give to whoever does not ask for one,
 * among them every outgoing connection.
 */
export async function findTestPort(): Promise<number> {
  for (;;) {
    const port = randomInt(15_000, 32_000)
    if (await isFree(port)) return port
  }
}

function isFree(port: number): Promise<boolean> {
  const server = net.createServer()
  return new Promise((resolve) => {
    server.once('error', () => resolve(false))
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)))
  })
}
