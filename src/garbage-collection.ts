import { setFlagsFromString } from 'node:v8'

/**
 * Has V8 collect garbage as this program needs it. To be called before there is anything to clear, by a process that is the
 * broker's own. Measured, docs/performance.md:
 *
 * - Every object starts young. When many objects of one place in the code outlive a few clearings, as those of 200 calls that
 *   wait for one exchange do, V8 makes all that come from there old from birth; each of these then keeps the young ones it points
 *   to, and most of what a call made was found alive, moved and cleared late: 10 ms at a time instead of 1.
 * - Old ones are cleared when they have grown by 30%. Left to itself, V8 lets them grow to four times what was alive where the
 *   machine is large, and first calls of many people make many: those of 25,000 left a process of 336 MB, and leave one of 237.
 *   Warm calls leave hardly any.
 */
export function setGarbageCollection(): void {
  setFlagsFromString('--no-allocation-site-pretenuring')
  setFlagsFromString('--heap-growing-percent=30')
}
