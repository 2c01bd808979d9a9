import type { Clock } from '../../src/core/ports/clock.ts'

/** A clock that stands until it is moved. */
export type FakeClock = Clock & { advance(seconds: number): void }

export function createFakeClock(start = '2026-11-21T12:00:00Z'): FakeClock {
  let nowMs = Date.parse(start)
  return {
    now: () => new Date(nowMs),
    advance(seconds) {
      nowMs += seconds * 1000
    },
  }
}
