import type { PersonId } from '../../core/caller.ts'
import type { Connections } from '../../core/ports/broker-services.ts'
import type { GatewayCall } from '../../core/ports/gateway.ts'
import type { Notices } from '../../core/ports/notices.ts'
import type { Upstream } from '../../core/upstream.ts'

/** Waits for a person to finish connecting, in a browser and on whichever replica. */
export type ConnectionWait = {
  /**
   * Resolves when the person is connected (`replaces`: by a connection other than the one that began then), when 20 s have passed,
   * or when the caller went away.
   */
  readonly untilConnected: (call: GatewayCall, replaces: Date | undefined) => Promise<void>
  readonly isConnected: (call: GatewayCall, replaces?: Date) => Promise<boolean>
  /** Calls `look` whenever the connection may have changed, and every few seconds. Gives what ends it. */
  readonly watch: (person: PersonId, upstream: Upstream, look: () => void) => () => void
}

const longestMs = 20_000
/** A notice can be lost; within 5 s a stream goes on as the upstream's all the same. */
const lookEveryMs = 2500

export function createConnectionWait(ports: {
  readonly connections: Pick<Connections, 'find'>
  readonly notices: Notices
}): ConnectionWait {
  const { connections, notices } = ports

  async function isConnected({ person, upstream }: GatewayCall, replaces?: Date): Promise<boolean> {
    const { status, connectedAt } = await connections.find(person, upstream, true)
    if (status !== 'connected') return false
    return replaces === undefined || connectedAt?.getTime() !== replaces.getTime()
  }

  const watch: ConnectionWait['watch'] = (person, upstream, look) => {
    const { issuer, userId } = person
    const subject = notices.subjectOf({ issuer, userId, upstream: upstream.name })
    const endNotices = notices.on('credential', (about) => {
      if (about === subject) look()
    })
    const timer = setInterval(look, lookEveryMs)
    timer.unref()
    return () => {
      endNotices()
      clearInterval(timer)
    }
  }

  return {
    isConnected,
    watch,
    async untilConnected(call, replaces) {
      if (await isConnected(call, replaces)) return
      await new Promise<void>((resolve) => {
        const done = () => {
          endWatch()
          clearTimeout(timer)
          resolve()
        }
        const timer = setTimeout(done, longestMs)
        const look = async (): Promise<void> => {
          // A database that cannot be asked says nothing; it is asked again.
          const connected = await isConnected(call, replaces).catch(() => false)
          if (connected) done()
        }
        const endWatch = watch(call.person, call.upstream, () => void look())
        call.answer.onGone(done)
      })
    },
  }
}
