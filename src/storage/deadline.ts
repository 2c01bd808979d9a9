import { StorageFault } from './storage-fault.ts'

/** Longer than statement_timeout, so it ends a call only when the server or the network does not answer at all. */
export const callDeadlineMs = 10_000

/** The code of a StorageFault of ours. */
export const callTimedOut = 'CALL_TIMEOUT'

/** @throws StorageFault CALL_TIMEOUT; the statement itself may still run. */
export async function withDeadline<T>(statement: () => PromiseLike<T>, ms: number): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const deadline = new Promise<never>((_resolve, reject) => {
    const giveUp = () => reject(new StorageFault(callTimedOut, 'no answer in time'))
    // A process that stood still finds its timers due before it reads what has come meanwhile: that is read first.
    timer = setTimeout(() => setImmediate(giveUp), ms)
  })
  try {
    return await Promise.race([statement(), deadline])
  } finally {
    clearTimeout(timer)
  }
}
