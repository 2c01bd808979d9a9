import { expect, it } from 'vitest'
import { createForcedRenewalLimit } from '../../../src/core/forced-renewals.ts'
import { createFakeClock } from '../../support/fake-clock.ts'

it('a connection is renewed by force at most 5 times within any minute', () => {
  const clock = createFakeClock()
  const limit = createForcedRenewalLimit({ clock })
  const taken = Array.from({ length: 7 }, () => {
    clock.advance(5)
    return limit.take('ada')
  })
  expect(taken).toEqual([true, true, true, true, true, false, false])
  expect(limit.take('grace')).toBe(true)
  // The first of the five was 30 s ago; refused ones do not count.
  clock.advance(29)
  expect(limit.take('ada')).toBe(false)
  clock.advance(1)
  expect(limit.take('ada')).toBe(true)
  expect(limit.take('ada')).toBe(false)
})
