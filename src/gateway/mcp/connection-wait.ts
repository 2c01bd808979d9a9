import type { PersonId } from '../../core/caller.ts'
import type { Connections } from '../../core/ports/broker-services.ts'
import type { GatewayCall } from '../../core/ports/gateway.ts'
import type { Notices } from '../../core/ports/notices.ts'
import type { Upstream } from '../../core/upstream.ts'

/** When a connection began: what tells two of one person apart. Undefined for one that needs nobody to begin it. */
export type ConnectionStart = { readonly at: Date | undefined }

/** Waits for a person to finish connecting, in a browser and on whichever replica. */
export type ConnectionWait = {
  /**
   * Resolves when the person is connected (`replaces`: by a connection other than the one that began then), when 20 s have passed,
   * or when the caller went away.
   */
  readonly untilConnected: (call: GatewayCall, replaces: Date | undefined) => Promise<void>
  readonly isConnected: (call: GatewayCall, replaces?: Date) => Promise<boolean>
  /** Of the person's connection, where there is one that is not the `seen` one. */
  readonly newStart: (
    call: GatewayCall,
    seen: ConnectionStart | undefined,
  ) => Promise<ConnectionStart | undefined>
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

  const newStart: ConnectionWait['newStart'] = async ({ person, upstream }, seen) => {
    const { status, connectedAt } = await connections.find(person, upstream, true)
    if (status !== 'connected') return undefined
    const isSeen = seen !== undefined && seen.at?.getTime() === connectedAt?.getTime()
    return isSeen ? undefined : { at: connectedAt ?? undefined }
  }

  const isConnected: ConnectionWait['isConnected'] = async (call, replaces) =>
    (await newStart(call, replaces && { at: replaces })) !== undefined

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
    newStart,
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
