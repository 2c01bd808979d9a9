import { setFlagsFromString } from 'node:v8'

/**
 * Lets every thread clear its own young objects alone. V8 would share that out to helper threads, and the calls wait until each
 * of them got a core. Measured on two busy cores only, see docs/performance.md. To be called before there is anything to clear, by
 * a process that is the broker's own.
 */
export function clearYoungObjectsAlone(): void {
  setFlagsFromString('--no-parallel-scavenge')
}
