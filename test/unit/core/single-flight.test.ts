import { describe, expect, it } from 'vitest'
import { createSingleFlight } from '../../../src/core/single-flight.ts'
import { waitAtMost } from '../../../src/core/wait-at-most.ts'
import { deferred } from './deferred.ts'

describe('a flight', () => {
  it('is one piece of work for all who join while it is under way, and a new one afterwards', async () => {
    const flights = createSingleFlight<number>()
    let started = 0
    const land = deferred<void>()
    const work = async () => {
      started += 1
      const own = started
      await land.promise
      return own
    }
    const joined = Array.from({ length: 5 }, () => flights.join('ada', work))
    const other = flights.join('grace', work)
    expect(joined.map((flight) => flight.started)).toEqual([true, false, false, false, false])
    expect(other.started).toBe(true)
    land.resolve()
    expect(await Promise.all(joined.map(({ result }) => result))).toEqual([1, 1, 1, 1, 1])
    expect(await other.result).toBe(2)
    expect(await flights.join('ada', work).result).toBe(3)
  })

  it('that fails tells everyone, is over, and harms nobody when no one waits', async () => {
    const flights = createSingleFlight<number>()
    const fail = () => Promise.reject(new Error('no'))
    const waiting = flights.join('ada', fail)
    await expect(waiting.result).rejects.toThrow('no')
    flights.join('ada', fail)
    await new Promise((resolve) => setImmediate(resolve))
    expect(await flights.join('ada', () => Promise.resolve(1)).result).toBe(1)
  })
})

describe('waiting for so long and no longer', () => {
  it('gives the result, the failure, or late while the work goes on', async () => {
    expect(await waitAtMost(Promise.resolve(1), 1000)).toBe(1)
    await expect(waitAtMost(Promise.reject(new Error('no')), 1000)).rejects.toThrow('no')
    const slow = deferred<number>()
    expect(await waitAtMost(slow.promise, 1)).toBe('late')
    slow.resolve(2)
    expect(await slow.promise).toBe(2)
  })
})
