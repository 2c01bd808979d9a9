import type { Clock } from '../../src/core/ports/clock.ts'
import type { Timer } from '../../src/core/ports/timer.ts'

/** Time that passes as quickly as there is something to do: hours in seconds. */
export type SimulatedTime = {
  readonly clock: Clock
  readonly timer: Timer
  readonly nowMs: () => number
  /** Resolves when so much time has passed. */
  readonly wait: (ms: number) => Promise<void>
  /** Lets everything happen that is due within so much time. */
  readonly pass: (ms: number) => Promise<void>
}

type Entry = { readonly atMs: number; readonly order: number; run: (() => void) | undefined }

export function createSimulatedTime(start = '2026-11-21T12:00:00Z'): SimulatedTime {
  let nowMs = Date.parse(start)
  let order = 0
  const heap: Entry[] = []

  const isBefore = (a: Entry | undefined, b: Entry | undefined) =>
    a !== undefined &&
    b !== undefined &&
    (a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order))

  function swap(a: number, b: number): void {
    const entry = heap[a]
    const other = heap[b]
    if (entry === undefined || other === undefined) return
    heap[a] = other
    heap[b] = entry
  }

  function push(entry: Entry): void {
    heap.push(entry)
    for (let at = heap.length - 1; at > 0; ) {
      const parent = (at - 1) >> 1
      if (!isBefore(heap[at], heap[parent])) return
      swap(at, parent)
      at = parent
    }
  }

  function pop(): Entry | undefined {
    const first = heap[0]
    const last = heap.pop()
    if (last === undefined || first === last) return first
    heap[0] = last
    for (let at = 0; ; ) {
      const left = 2 * at + 1
      const child = isBefore(heap[left + 1], heap[left]) ? left + 1 : left
      if (!isBefore(heap[child], heap[at])) return first
      swap(at, child)
      at = child
    }
  }

  const after: Timer['after'] = (ms, run) => {
    const entry: Entry = { atMs: Math.ceil(nowMs + Math.max(0, ms)), order, run }
    order += 1
    push(entry)
    return () => {
      entry.run = undefined
    }
  }

  return {
    clock: { now: () => new Date(nowMs) },
    timer: { after },
    nowMs: () => nowMs,
    wait: (ms) => new Promise((resolve) => void after(ms, resolve)),
    async pass(ms) {
      const untilMs = nowMs + ms
      for (;;) {
        const next = heap[0]
        if (next === undefined || next.atMs > untilMs) break
        pop()
        nowMs = next.atMs
        next.run?.()
        // What waits for a promise goes on before the clock does.
        await new Promise((resolve) => setImmediate(resolve))
      }
      nowMs = untilMs
    },
  }
}
