import { setTimeout as sleep } from 'node:timers/promises'
import type { Notices, NoticeTopic } from '../core/ports/notices.ts'
import type { Secret } from '../core/secret.ts'
import { connectListener } from './connections.ts'
import { readDatabaseAddress } from './database-address.ts'
import { withDeadline } from './deadline.ts'
import { credentialSubject, noticeChannel } from './notice-channel.ts'
import { trackSockets } from './tracked-sockets.ts'

/** How long a silent connection is believed before it is asked whether it is still there. */
const probeMs = 2000
const answerWithinMs = 5000
const firstPauseMs = 100
const longestPauseMs = 2000
const farewellMs = 500

/**
 * Listens on a connection of its own, and on another one when it breaks. Never rejects and costs nobody anything while it cannot:
 * then notices are missed, and who waits for one finds out by looking.
 * @throws OperatorError database_url_invalid
 */
export function startNotifications(options: { readonly url: Secret }): Notices & {
  readonly stop: () => Promise<void>
} {
  // Read here too, so that an address that cannot be used is said to whoever starts this.
  readDatabaseAddress(options.url, () => {})
  const listeners = new Map<NoticeTopic, Set<(subject: string) => void>>()
  const gapListeners = new Set<() => void>()
  const stopping = new AbortController()

  function onNotice(payload: string): void {
    const [topic = '', subject = ''] = payload.split(' ', 2)
    for (const listener of listeners.get(topic as NoticeTopic) ?? []) listener(subject)
  }

  /** One connection, from its first word to its end; a new one each time, because the driver's do not all come back. */
  async function listen(): Promise<'heard' | 'failed'> {
    const ended = new AbortController()
    const sockets = trackSockets()
    const address = readDatabaseAddress(options.url, sockets.add)
    const sql = connectListener(address, { onNotice, onClose: () => ended.abort() })
    let heard = false
    try {
      await withDeadline(() => sql`listen ${sql(noticeChannel)}`.simple(), answerWithinMs)
      heard = true
      // Whoever is told looks at its row, and what changes from here on is heard.
      for (const listener of gapListeners) listener()
      const either = AbortSignal.any([ended.signal, stopping.signal])
      while (!either.aborted) {
        await sleep(probeMs, undefined, { signal: either, ref: false })
        await withDeadline(() => sql`select 1`.simple(), answerWithinMs)
      }
    } catch {
      // Whatever it was, another connection is the answer to it.
    } finally {
      await sql.end({ timeout: 0 }).catch(() => {})
      // A server that does not answer the farewell would keep the process alive.
      setTimeout(sockets.destroyAll, farewellMs).unref()
    }
    return heard ? 'heard' : 'failed'
  }

  async function run(): Promise<void> {
    let pauseMs = firstPauseMs
    while (!stopping.signal.aborted) {
      const outcome = await listen()
      pauseMs = outcome === 'heard' ? firstPauseMs : Math.min(longestPauseMs, pauseMs * 2)
      await sleep(pauseMs, undefined, { signal: stopping.signal, ref: false }).catch(() => {})
    }
  }

  const running = run()

  return {
    on(topic, listener) {
      const same = listeners.get(topic) ?? new Set()
      listeners.set(topic, same)
      same.add(listener)
      return () => same.delete(listener)
    },
    onGap(listener) {
      gapListeners.add(listener)
      return () => gapListeners.delete(listener)
    },
    subjectOf: credentialSubject,
    async stop() {
      stopping.abort()
      await running
    },
  }
}
