import { setFlagsFromString } from 'node:v8'

/**
 * Has V8 make every object young. When many objects of one place in the code outlive a few clearings, as those of 200 calls
 * that wait for one exchange do, V8 makes all that come from there old from birth; each of these then keeps the young ones it
 * points to, and most of what a call made was found alive, moved and cleared late: 10 ms at a time instead of 1 (measured,
 * docs/performance.md). To be called before there is anything to clear, by a process that is the broker's own.
 */
export function startObjectsYoung(): void {
  setFlagsFromString('--no-allocation-site-pretenuring')
}
