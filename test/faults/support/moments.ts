import type { Replica } from './replica.ts'
import type { Scene } from './scene.ts'

/** The statements of a refresh, known by their text as it goes over the wire. */
export const isClaim = (text: string) =>
  /lease_epoch\s*=\s*(credential\.)?lease_epoch\s*\+\s*1/.test(text)
export const isCommit = (text: string) => /\brenewed\s*=\s*true/.test(text)

/** The points of a refresh at which a process can die or stand still. */
export const moments = [
  'the claim is sent',
  'the claim is acknowledged',
  'it connects to the server',
  'its request is at the server',
  'one byte of the answer has arrived',
  'all of the answer but its last byte has arrived',
  'the whole answer has arrived',
  'the commit is sent',
  'the commit is acknowledged',
] as const

export type Moment = (typeof moments)[number]

/**
 * Does something to a replica at one moment of its next refresh. Resolves when it is done. What the replica had sent by then goes on to where it was
 * sent.
 */
export function at(
  scene: Scene,
  replica: Replica,
  moment: Moment,
  act: () => Promise<void>,
): Promise<void> {
  return new Promise((resolve, reject) => {
    const once = async () => {
      replica.wire.hook(undefined)
      await act().then(resolve, reject)
    }
    const onStatement = (phase: 'sent' | 'answered', is: (text: string) => boolean) =>
      replica.wire.hook(async (now, text) => {
        if (now === phase && is(text)) await once()
        return 'forward' as const
      })
    const { server } = scene
    switch (moment) {
      case 'the claim is sent':
        return onStatement('sent', isClaim)
      case 'the claim is acknowledged':
        return onStatement('answered', isClaim)
      case 'it connects to the server':
        return server.onConnection((socket) => {
          server.onConnection(undefined)
          // What it may have written already is not read.
          const done = once()
          socket.destroy()
          return void done
        })
      case 'its request is at the server':
        return server.next(async (visit) => {
          await once()
          await visit.send(visit.consume())
        })
      case 'one byte of the answer has arrived':
        return server.next(async (visit) => {
          await visit.send(visit.consume(), 1)
          await once()
        })
      case 'all of the answer but its last byte has arrived':
        return server.next(async (visit) => {
          await visit.send(visit.consume(), -1)
          await once()
        })
      case 'the whole answer has arrived':
        return server.next(async (visit) => {
          await visit.send(visit.consume())
          await once()
        })
      case 'the commit is sent':
        return onStatement('sent', isCommit)
      case 'the commit is acknowledged':
        return onStatement('answered', isCommit)
    }
  })
}
