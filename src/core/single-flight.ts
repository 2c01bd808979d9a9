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
  /** Nobody joins the flight under way any more: who comes later starts another. Without a key this goes for all of them. */
  closeDoors(key?: string): void
  /** Resolves when no work is running, however each ended. */
  idle(): Promise<void>
} {
  const flights = new Map<string, Promise<T>>()
  const running = new Set<Promise<T>>()
  return {
    join(key, work) {
      const underWay = flights.get(key)
      if (underWay !== undefined) return { result: underWay, started: false }
      const result: Promise<T> = work().finally(() => {
        running.delete(result)
        if (flights.get(key) === result) flights.delete(key)
      })
      // Everyone who waits sees a failure; this keeps one that nobody waits for any more from ending the process.
      result.catch(() => {})
      flights.set(key, result)
      running.add(result)
      return { result, started: true }
    },
    closeDoors(key) {
      if (key === undefined) flights.clear()
      else flights.delete(key)
    },
    async idle() {
      while (running.size > 0) await Promise.allSettled(running)
    },
  }
}
