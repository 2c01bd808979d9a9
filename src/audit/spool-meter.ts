/**
 * What the thread that appends to a spool and the one that empties it tell each other, without a message: each number has one
 * side that sets it.
 */
export type SpoolMeter = {
  /** Behind it, for the other thread. */
  readonly shared: SharedArrayBuffer
  /** Records that may be read: they are written, and on disk where that is asked for. */
  readonly written: SpoolCounter
  /** Of them, those that are stored or set aside, and their bytes in the spool. */
  readonly settled: SpoolCounter
  readonly settledBytes: SpoolCounter
  /** Bytes of earlier runs' spools that are not stored yet. */
  readonly leftoverBytes: SpoolCounter
  /** When the oldest record was made that is on its way into the database, in ms; 0 while none is. */
  readonly oldestMs: SpoolCounter
}

export type SpoolCounter = {
  readonly get: () => number
  readonly set: (value: number) => void
}

const counters = 5

export function createSpoolMeter(
  shared: SharedArrayBuffer = new SharedArrayBuffer(counters * BigInt64Array.BYTES_PER_ELEMENT),
): SpoolMeter {
  const values = new BigInt64Array(shared)
  const counter = (index: number): SpoolCounter => ({
    get: () => Number(Atomics.load(values, index)),
    set: (value) => void Atomics.store(values, index, BigInt(value)),
  })
  return {
    shared,
    written: counter(0),
    settled: counter(1),
    settledBytes: counter(2),
    leftoverBytes: counter(3),
    oldestMs: counter(4),
  }
}
