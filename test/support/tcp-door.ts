import net from 'node:net'
import { Secret } from '../../src/core/secret.ts'
import { readDatabaseAddress } from '../../src/storage/database-address.ts'

/** Stands before a database and takes it away. */
export type TcpDoor = {
  /** The same database, through the door. */
  readonly url: string
  /** Ends every connection and lets none in. */
  readonly shut: () => void
  /** Connections stay, and nothing passes in either direction. */
  readonly stall: () => void
  readonly open: () => void
  readonly stop: () => Promise<void>
}

export async function startTcpDoor(databaseUrl: string): Promise<TcpDoor> {
  const address = readDatabaseAddress(new Secret(databaseUrl), () => {})
  let state: 'open' | 'shut' | 'stalled' = 'open'
  const pairs = new Set<readonly [net.Socket, net.Socket]>()

  async function letIn(outer: net.Socket): Promise<void> {
    outer.on('error', () => {})
    const inner = state === 'shut' ? undefined : await address.socket()
    if (inner === undefined || state === 'shut') {
      outer.destroy()
      inner?.destroy()
      return
    }
    const pair = [outer, inner] as const
    pairs.add(pair)
    for (const [from, to] of [
      [outer, inner],
      [inner, outer],
    ] as const) {
      from.on('error', () => to.destroy())
      from.on('close', () => {
        to.destroy()
        pairs.delete(pair)
      })
      from.on('data', (chunk) => to.write(chunk))
    }
    if (state === 'stalled') pause(pair)
  }

  const server = net.createServer((outer) => void letIn(outer))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const bound = server.address()
  if (bound === null || typeof bound === 'string') throw new Error('the door has no port')
  const url = new URL(databaseUrl)
  url.searchParams.delete('host')
  url.searchParams.delete('port')
  url.host = `127.0.0.1:${bound.port}`

  function pause(pair: readonly [net.Socket, net.Socket]): void {
    for (const socket of pair) socket.pause()
  }

  function shut(): void {
    state = 'shut'
    for (const [outer, inner] of pairs) {
      outer.destroy()
      inner.destroy()
    }
  }

  return {
    url: url.href,
    shut,
    stall() {
      state = 'stalled'
      for (const pair of pairs) pause(pair)
    },
    open() {
      state = 'open'
      for (const pair of pairs) for (const socket of pair) socket.resume()
    },
    async stop() {
      shut()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}
