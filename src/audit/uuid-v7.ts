import { randomUUID } from 'node:crypto'

/**
 * A UUIDv7 (RFC 9562 §5.7), so that ids sort by their time: its milliseconds, a counter from 0 to 4095 in rand_a (§6.2 method 1)
 * for those of one millisecond, 62 random bits.
 */
export function uuidV7(nowMs: number): string {
  return uuidV7At(uuidV7Time(nowMs), 0)
}

/** The part that all ids of a millisecond share. */
export function uuidV7Time(nowMs: number): string {
  const time = nowMs.toString(16).padStart(12, '0')
  return `${time.slice(0, 8)}-${time.slice(8)}-7`
}

export function uuidV7At(time: string, counter: number): string {
  return `${time}${counter.toString(16).padStart(3, '0')}${randomUUID().slice(18)}`
}
