import { LRUCache } from 'lru-cache'
import type { Clock } from './ports/clock.ts'

const perMinute = 5
const minuteMs = 60_000

/**
 * Limits renewals that callers force by naming a rejected credential, so that an upstream that refuses everything cannot burn
 * refresh tokens: at most 5 a minute per connection.
 */
export function createForcedRenewalLimit(ports: { readonly clock: Clock }): {
  take(connection: string): boolean
} {
  const recent = new LRUCache<string, readonly number[]>({ max: 10_000 })
  return {
    take(connection) {
      const nowMs = ports.clock.now().getTime()
      const within = (recent.get(connection) ?? []).filter((atMs) => atMs > nowMs - minuteMs)
      if (within.length >= perMinute) return false
      recent.set(connection, [...within, nowMs])
      return true
    },
  }
}
