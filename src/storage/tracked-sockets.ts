import type { Socket } from 'node:net'
import { performance } from 'node:perf_hooks'

/** The sockets of a pool, watched for two faults that postgres.js does not notice. */
export type TrackedSockets = {
  readonly add: (socket: Socket) => void
  /** Remembers how much each socket has received. */
  readonly mark: () => void
  /** Destroys the sockets that have received nothing since the mark, so that what waits on them fails. */
  readonly destroySilent: () => void
  readonly destroyAll: () => void
  /**
   * Resolves when no socket is between its death and the end of its close. A statement handed to such a connection
   * is never answered, or leaves its bytes in the driver's buffer, and every later connect of that slot sends nothing
   * until it times out.
   */
  readonly settled: () => Promise<void>
}

/** The driver hears of a close in the same turn, over TLS some turns later; on a busy machine a turn takes as long as it takes. */
const aftermathMs = 5
const aftermathTurns = 10

export function trackSockets(): TrackedSockets {
  const open = new Map<Socket, Tracked>()

  // Also forgets those whose close is over. Looked at, not listened to: over TLS the driver removes every listener of the socket below.
  const anyDying = () => {
    let dying = false
    for (const [socket, state] of open) {
      if (!socket.destroyed) continue
      const now = performance.now()
      if (socket.closed && state.closedAt === undefined) {
        state.closedAt = now
        countTurns(state)
      }
      const isOver = state.closedAt !== undefined && now - state.closedAt > aftermathMs
      if (isOver && state.turns >= aftermathTurns) open.delete(socket)
      else dying = true
    }
    return dying
  }

  return {
    add(socket) {
      open.set(socket, { received: -1, closedAt: undefined, turns: 0 })
    },
    mark() {
      // Forgets the closed ones too.
      anyDying()
      for (const [socket, state] of open) state.received = socket.bytesRead
    },
    destroySilent() {
      for (const [socket, state] of open) {
        if (socket.bytesRead === state.received) socket.destroy()
      }
    },
    destroyAll() {
      for (const socket of open.keys()) socket.destroy()
    },
    async settled() {
      while (anyDying()) await new Promise((resolve) => setTimeout(resolve, 1))
    },
  }
}

type Tracked = {
  received: number
  closedAt: number | undefined
  /** Of the event loop, since it was seen closed. */
  turns: number
}

function countTurns(state: Tracked): void {
  setImmediate(() => {
    state.turns += 1
    if (state.turns < aftermathTurns) countTurns(state)
  })
}
