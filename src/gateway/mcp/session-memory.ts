import { LRUCache } from 'lru-cache'
import type { GatewaySessionRecord } from '../../core/ports/gateway-session-records.ts'

/**
 * Sessions that are open at their upstream, so that a call in one reads no row: by what the memory of credentials is kept by, a
 * person and an upstream, and forgotten with it on every replica.
 */
export type SessionMemory = {
  /** The session as it is remembered, else as `find` finds it. What is forgotten while it is looked for is not remembered. */
  readonly load: (
    key: string,
    id: string,
    find: () => Promise<GatewaySessionRecord | undefined>,
  ) => GatewaySessionRecord | Promise<GatewaySessionRecord | undefined>
  readonly forget: (key: string) => void
  readonly forgetAll: () => void
}

const mostKeys = 10_000
const mostAKey = 20
/** Then its row is read again, which notes that it is in use. */
const keptMs = 10_000

export function createSessionMemory(): SessionMemory {
  const remembered = new LRUCache<string, Map<string, GatewaySessionRecord>>({
    max: mostKeys,
    ttl: keptMs,
  })

  function sessionsOf(key: string): Map<string, GatewaySessionRecord> {
    const known = remembered.get(key)
    if (known !== undefined) return known
    const none = new Map<string, GatewaySessionRecord>()
    remembered.set(key, none)
    return none
  }

  async function look(
    key: string,
    id: string,
    find: () => Promise<GatewaySessionRecord | undefined>,
  ): Promise<GatewaySessionRecord | undefined> {
    const sessions = sessionsOf(key)
    const found = await find()
    const isCurrent = remembered.get(key) === sessions
    if (found?.at !== undefined && isCurrent && sessions.size < mostAKey) sessions.set(id, found)
    return found
  }

  return {
    load: (key, id, find) => remembered.get(key)?.get(id) ?? look(key, id, find),
    forget: (key) => void remembered.delete(key),
    forgetAll: () => remembered.clear(),
  }
}
