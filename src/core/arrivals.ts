/**
 * Stands between a server's answer and the store, so that a token which arrives after its person disconnected is not stored.
 * Of one process: a key is the same string as in the memory.
 */
export interface Arrivals {
  /**
   * Asks, and keeps the answer unless the key was refused meanwhile. `refused` carries the answer that must not stay: nobody
   * else knows of it, so the caller revokes it.
   */
  receive<Answer, Kept>(
    key: string,
    work: { readonly ask: () => Promise<Answer>; readonly keep: (answer: Answer) => Promise<Kept> },
  ): Promise<{ readonly kept: Kept } | { readonly refused: Answer }>

  /**
   * Refuses every answer that is being waited for. Resolves when those that were just being kept are, so that whoever removes
   * the row afterwards removes theirs.
   */
  refuse(key: string): Promise<void>
}

type Arrival = { refused: boolean; keeping: Promise<unknown> | undefined }

export function createArrivals(): Arrivals {
  const expected = new Map<string, Set<Arrival>>()

  function expect(key: string): Arrival {
    const arrival: Arrival = { refused: false, keeping: undefined }
    const arrivals = expected.get(key) ?? new Set()
    arrivals.add(arrival)
    expected.set(key, arrivals)
    return arrival
  }

  function forget(key: string, arrival: Arrival): void {
    const arrivals = expected.get(key)
    arrivals?.delete(arrival)
    if (arrivals?.size === 0) expected.delete(key)
  }

  return {
    async receive(key, { ask, keep }) {
      const arrival = expect(key)
      try {
        const answer = await ask()
        if (arrival.refused) return { refused: answer }
        const keeping = keep(answer)
        arrival.keeping = keeping
        return { kept: await keeping }
      } finally {
        forget(key, arrival)
      }
    },
    async refuse(key) {
      const arrivals = [...(expected.get(key) ?? [])]
      for (const arrival of arrivals) arrival.refused = true
      await Promise.allSettled(arrivals.map(async ({ keeping }) => keeping))
    },
  }
}
