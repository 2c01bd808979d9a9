import { describe, expect, it } from 'vitest'
import { createDatabaseClock } from '../../../src/storage/database-clock.ts'

describe('the database’s clock', () => {
  const start = Date.parse('2026-11-21T12:00:00Z')

  function replica(options: { readonly wallOffMs: number; readonly bootedMs: number }) {
    let passedMs = 0
    let setMs = 0
    const clock = createDatabaseClock({
      monotonicMs: () => options.bootedMs + passedMs,
      wallMs: () => start + passedMs + options.wallOffMs + setMs,
    })
    return {
      clock,
      pass: (ms: number) => {
        passedMs += ms
      },
      set: (ms: number) => {
        setMs += ms
      },
      hear: () => {
        const sentAtMs = options.bootedMs + passedMs
        const now = new Date(start + passedMs + 1)
        passedMs += 2
        clock.heard({ sentAtMs, now })
      },
    }
  }

  it('V17: two machines whose clocks are ten minutes apart agree by it', () => {
    const [ahead, behind] = [
      replica({ wallOffMs: 300_000, bootedMs: 5_000 }),
      replica({ wallOffMs: -300_000, bootedMs: 9_000_000 }),
    ]
    for (const { hear, pass } of [ahead, behind]) {
      hear()
      pass(60_000)
    }
    expect(ahead.clock.now()).toEqual(behind.clock.now())
    expect(ahead.clock.now().getTime()).toBe(start + 60_002)
  })

  it('V17: goes on evenly when a machine’s own clock is set', () => {
    const { clock, hear, set, pass } = replica({ wallOffMs: 0, bootedMs: 1000 })
    hear()
    const before = clock.now().getTime()
    set(-3_600_000)
    pass(10)
    expect(clock.now().getTime()).toBe(before + 10)
  })

  it('is the machine’s own until the database has said something', () => {
    expect(replica({ wallOffMs: 7, bootedMs: 0 }).clock.now().getTime()).toBe(start + 7)
  })

  it('takes a statement that had to wait for what it is: sent long before', () => {
    let monotonic = 1000
    const clock = createDatabaseClock({ monotonicMs: () => monotonic, wallMs: () => 0 })
    monotonic = 6000
    clock.heard({ sentAtMs: 1000, now: new Date(start) })
    expect(clock.now().getTime()).toBe(start + 5000 - 25)
  })

  it('is moved by no slow answer that fits what a quick one said, and by one that does not', () => {
    let monotonic = 1000
    const clock = createDatabaseClock({ monotonicMs: () => monotonic, wallMs: () => 0 })
    const hear = (tookMs: number, now: number) => {
      monotonic += tookMs
      clock.heard({ sentAtMs: monotonic - tookMs, now: new Date(now) })
      return clock.now().getTime()
    }
    // The first may be as slow as it likes, and a quicker one knows better.
    expect(hear(4000, start + 3990)).toBe(start + 7965)
    expect(hear(2, start + 4001)).toBe(start + 4002)
    // This statement reached the database two seconds after it was sent.
    expect(hear(2100, start + 6010)).toBe(start + 6102)
    // Somebody has set the database's clock.
    expect(hear(100, start + 3_600_000)).toBe(start + 3_600_075)
  })
})
