import { LRUCache } from 'lru-cache'
import type { GatewaySessionRecord } from '../../core/ports/gateway-session-records.ts'

/**
 * Sessions that are open at their upstream, so that a call in one reads no row: by what the memory of credentials is kept by, a
 * person and an upstream, and forgotten with it on every replica. So it needs no end: a database that is away for a moment ends no
 * session.
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
/** Its row is read again, beside a call, to note that it is in use: those that are not end after days. */
const readAgainMs = 10 * 60_000

type Remembered = { readonly session: GatewaySessionRecord; readAgainAtMs: number }

export function createSessionMemory(): SessionMemory {
  const remembered = new LRUCache<string, Map<string, Remembered>>({ max: mostKeys })

  function sessionsOf(key: string): Map<string, Remembered> {
    const known = remembered.get(key)
    if (known !== undefined) return known
    const none = new Map<string, Remembered>()
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
    if (remembered.get(key) !== sessions) return found
    sessions.delete(id)
    if (found?.at === undefined) return found
    const [oldest] = sessions.keys()
    if (oldest !== undefined && sessions.size === mostAKey) sessions.delete(oldest)
    sessions.set(id, { session: found, readAgainAtMs: performance.now() + readAgainMs })
    return found
  }

  return {
    load(key, id, find) {
      const known = remembered.get(key)?.get(id)
      if (known === undefined) return look(key, id, find)
      const nowMs = performance.now()
      if (nowMs >= known.readAgainAtMs) {
        known.readAgainAtMs = nowMs + readAgainMs
        look(key, id, find).catch(() => {})
      }
      return known.session
    },
    forget: (key) => void remembered.delete(key),
    forgetAll: () => remembered.clear(),
  }
}
