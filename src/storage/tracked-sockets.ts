import type { Socket } from 'node:net'

/** The sockets of a pool, watched for two faults that postgres.js does not notice. */
export type TrackedSockets = {
  readonly add: (socket: Socket) => void
  /** Remembers how much each socket has received. */
  readonly mark: () => void
  /** Destroys the sockets that have received nothing since the mark, so that what waits on them fails. */
  readonly destroySilent: () => void
  /**
   * Resolves when no socket is between its death and the end of its close. A statement handed to such a connection
   * leaves its bytes in the driver's buffer, and every later connect of that slot sends nothing until it times out.
   */
  readonly settled: () => Promise<void>
}

/** The driver hears of a close in the same turn, over TLS some turns later. */
const AFTERMATH_MS = 5

export function trackSockets(): TrackedSockets {
  const received = new Map<Socket, number>()
  const anyDying = () => {
    for (const socket of received.keys()) if (socket.destroyed) return true
    return false
  }
  return {
    add(socket) {
      received.set(socket, -1)
      socket.once('close', () => {
        setTimeout(() => received.delete(socket), AFTERMATH_MS)
      })
    },
    mark() {
      for (const socket of received.keys()) received.set(socket, socket.bytesRead)
    },
    destroySilent() {
      for (const [socket, bytes] of received) {
        if (socket.bytesRead === bytes) socket.destroy()
      }
    },
    async settled() {
      while (anyDying()) await new Promise((resolve) => setTimeout(resolve, 1))
    },
  }
}
