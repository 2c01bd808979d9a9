import { randomBytes } from 'node:crypto'
import { promisify } from 'node:util'
import { describe, expect, it } from 'vitest'
import { withDeadline } from '../../../src/storage/deadline.ts'

/** As a process does that is stopped, or a machine that sleeps: time passes, and nothing is read. */
function standStill(ms: number): void {
  const until = performance.now() + ms
  while (performance.now() < until);
}

describe('a deadline', () => {
  it('ends what has no answer', async () => {
    await expect(withDeadline(() => new Promise(() => {}), 20)).rejects.toThrow('no answer in time')
  })

  it('V10: does not end what was answered while the process stood still', async () => {
    const answer = withDeadline(() => promisify(randomBytes)(8), 20)
    // Where timers come next, and what was read only after them.
    setImmediate(() => standStill(60))
    expect(await answer).toHaveLength(8)
  })
})
