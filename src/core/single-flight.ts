/** One flight: a piece of work that several callers wait for and none of them can cancel. */
export type Flight<T> = {
  readonly result: Promise<T>
  /** This caller's call started the work. */
  readonly started: boolean
}

/**
 * Joins concurrent callers of one key into one piece of work. The work belongs to no caller: one that goes away leaves it
 * running for the others.
 */
export function createSingleFlight<T>(): {
  join(key: string, work: () => Promise<T>): Flight<T>
  /** Resolves when no work is running, however each ended. */
  idle(): Promise<void>
} {
  const flights = new Map<string, Promise<T>>()
  return {
    join(key, work) {
      const running = flights.get(key)
      if (running !== undefined) return { result: running, started: false }
      const result = work().finally(() => flights.delete(key))
      // Everyone who waits sees a failure; this keeps one that nobody waits for any more from ending the process.
      result.catch(() => {})
      flights.set(key, result)
      return { result, started: true }
    },
    async idle() {
      while (flights.size > 0) await Promise.allSettled(flights.values())
    },
  }
}

/** Waits for a result for so long and no longer; `late` when it did not come. The work goes on. */
export async function waitAtMost<T>(result: Promise<T>, ms: number): Promise<T | 'late'> {
  let timer: ReturnType<typeof setTimeout> | undefined
  const late = new Promise<'late'>((resolve) => {
    timer = setTimeout(() => resolve('late'), ms)
  })
  try {
    return await Promise.race([result, late])
  } finally {
    clearTimeout(timer)
  }
}
