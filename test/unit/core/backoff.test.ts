import { describe, expect, it } from 'vitest'
import { lastingPauseSeconds, passingPauseSeconds } from '../../../src/core/backoff.ts'

const failures = Array.from({ length: 12 }, (_, at) => at + 1)

describe('pauses between tries', () => {
  it('V3: pause with full jitter, from 1 s up to 30 s', () => {
    expect(failures.map((count) => passingPauseSeconds(count, () => 0))).toEqual(
      failures.map(() => 1),
    )
    const longest = failures.map((count) => passingPauseSeconds(count, () => 1))
    expect(longest.slice(0, 5)).toEqual([2, 4, 8, 16, 30])
    expect(Math.max(...longest)).toBe(30)
    expect(passingPauseSeconds(3, () => 0.5)).toBe(4.5)
  })

  it('what no waiting mends is tried again soon, and never rarely', () => {
    expect(failures.slice(0, 6).map(lastingPauseSeconds)).toEqual([0.25, 0.5, 1, 2, 4, 5])
    expect(lastingPauseSeconds(1000)).toBe(5)
  })
})
