import { isBrokerError } from '../../core/errors.ts'
import type { CredentialResolver, ResolvedCredential } from '../../core/ports/broker-services.ts'
import type { GatewayCall, StreamedAnswer } from '../../core/ports/gateway.ts'
import { resolution } from '../forward.ts'
import type { OpenCalls } from '../open-calls.ts'
import type { ConnectionStart, ConnectionWait } from './connection-wait.ts'
import { leavable } from './leavable.ts'

/** A stream that this replica holds for a client. */
export type HeldStream = {
  /** The connection that it went on with last; undefined before the first. */
  seen: ConnectionStart | undefined
  /** Whether there is another now, or another place, with which it goes on. */
  look: () => Promise<boolean>
  /** Whether what it belongs to besides the connection is where it was; `over`: there is nothing left of that. */
  readonly findPlace: () => Promise<'same' | 'another' | 'over'>
  /** It is to be ended. */
  isOver: boolean
  /** It has left the old one, and is not in the new one yet. */
  isMoving: boolean
  /** Called when it has gone on. */
  readonly moved: Set<() => void>
}

/** What goes on in a stream. `over`: it has ended. `kept`: it is the gateway's own again. */
export type GoOn = (credential: ResolvedCredential, stream: HeldStream) => Promise<'over' | 'kept'>

/**
 * Streams that outlive a connection. While their person is not connected the gateway keeps them open itself; once there is a
 * connection, or another one, it is given to the upstream, and goes on for the client.
 */
export type HeldStreams = {
  /** Keeps a stream open, which becomes the upstream's with every connection that is new to it. Resolves when it is over. */
  readonly keep: (call: GatewayCall, stream: HeldStream, goOn: GoOn) => Promise<void>
  /** The stream is the upstream's, until there is another connection than the one that it was opened with. */
  readonly untilReplaced: <Outcome>(
    call: GatewayCall,
    stream: HeldStream,
    open: (answer: StreamedAnswer) => Promise<Outcome>,
  ) => Promise<Outcome | 'kept'>
  /** Resolves when these streams have gone on, have no reason to, or take too long. Never rejects. */
  readonly handOver: (streams: readonly HeldStream[]) => Promise<void>
  /** Ends those that are the gateway's own, from here on: nobody else would. */
  readonly end: () => void
}

const keepAliveMs = 15_000
/** A call does not wait longer than this for its client's stream. */
const handOverMs = 2000

export function createHeldStreams(ports: {
  readonly resolver: CredentialResolver
  readonly openCalls: OpenCalls
  readonly connectionWait: ConnectionWait
}): HeldStreams {
  const { resolver, openCalls, connectionWait } = ports
  /** What ends a stream of the gateway's own. */
  const own = new Set<() => void>()
  let isEnding = false

  async function keep(call: GatewayCall, stream: HeldStream, goOn: GoOn): Promise<void> {
    for (;;) {
      if (stream.isOver) return call.answer.end()
      const connected = await untilConnected(call, stream)
      if (connected === undefined) return
      stream.seen = connected.start
      stream.isMoving = true
      try {
        if ((await goOn(connected.credential, stream)) === 'over') return
      } catch {
        // As an upstream would that fails: its client opens another.
        call.answer.end()
        return
      } finally {
        hasMoved(stream)
      }
    }
  }

  /** The stream is the gateway's own until there is a connection that is new to it. Undefined where it ended before. */
  function untilConnected(
    call: GatewayCall,
    stream: HeldStream,
  ): Promise<
    { readonly start: ConnectionStart; readonly credential: ResolvedCredential } | undefined
  > {
    const { answer, person, upstream } = call
    return new Promise((resolve) => {
      let isDone = false
      function finish(connected: Parameters<typeof resolve>[0]): void {
        if (isDone) return
        isDone = true
        // Somebody else's words follow, between which none of ours may come.
        clearInterval(alive)
        own.delete(stop)
        close()
        endChange()
        endWait()
        resolve(connected)
      }
      function stop(): void {
        if (!isDone) answer.end()
        finish(undefined)
      }
      async function look(): Promise<boolean> {
        try {
          const start = await connectionWait.newStart(call, stream.seen)
          if (isDone || start === undefined) return false
          const request = resolution(call, { mayGoOnUnconnected: true })
          finish({ start, credential: await resolver.resolve(request) })
          return true
        } catch (error) {
          // Nothing of it has ended yet: what could not be asked is asked again.
          if (!isBrokerError(error, 'connect_required', 'storage_unavailable')) stop()
          return false
        }
      }
      let looking: Promise<boolean> | undefined
      stream.look = () => {
        looking ??= look().finally(() => {
          looking = undefined
        })
        return looking
      }
      const alive = setInterval(() => answer.write(keepAlive), keepAliveMs)
      alive.unref()
      async function lookAround(): Promise<void> {
        // A database that is away for long cuts the stream; what it would say is asked with the next change.
        const place = await stream.findPlace().catch(() => 'same')
        if (place === 'over') return stop()
        if (place === 'another' && !isDone) stream.seen = undefined
        // One that was begun before the change knows nothing of it.
        await looking
        await stream.look()
      }
      const endChange = openCalls.onChange(person, upstream.name, () => void lookAround())
      const endWait =
        stream.seen === undefined
          ? connectionWait.watch(person, upstream, () => void stream.look())
          : () => {}
      const close = openCalls.add(person, {
        upstream: upstream.name,
        // A disconnect ends it, so that it is opened again and waits for the next connection.
        usesCredential: stream.seen !== undefined,
        cut() {
          answer.cut()
          finish(undefined)
        },
      })
      own.add(stop)
      answer.onGone(() => finish(undefined))
      if (isEnding) stop()
      // What has changed while it was between two.
      else void lookAround()
    })
  }

  async function untilReplaced<Outcome>(
    call: GatewayCall,
    stream: HeldStream,
    open: (answer: StreamedAnswer) => Promise<Outcome>,
  ): Promise<Outcome | 'kept'> {
    const { answer, person, upstream } = call
    const leaving = leavable(answer)
    let isElsewhere = false
    async function isPast(): Promise<boolean> {
      const place = await stream.findPlace()
      if (place === 'same') {
        return (await connectionWait.newStart(call, stream.seen)) !== undefined
      }
      if (!leaving.hasLeft()) {
        isElsewhere = true
        stream.isOver = place === 'over'
      }
      return true
    }
    stream.look = async () => {
      // A database that is away for long cuts the stream; who is asked again meanwhile is the next call.
      const mustLeave = await isPast().catch(() => false)
      // It may have been found so by another look, which came first.
      if (leaving.hasLeft()) return stream.isMoving
      if (!mustLeave || !leaving.leave()) return false
      stream.isMoving = !stream.isOver
      return stream.isMoving
    }
    const endWatch = openCalls.onChange(person, upstream.name, () => void stream.look())
    try {
      const outcome = await open(leaving.answer)
      // With the same connection, too, it goes on anew.
      if (isElsewhere) stream.seen = undefined
      return leaving.hasLeft() ? 'kept' : outcome
    } finally {
      endWatch()
    }
  }

  /** Resolves when the stream has gone on, or has no reason to. */
  async function handOverOne(stream: HeldStream): Promise<void> {
    let done = (): void => {}
    const moved = new Promise<void>((resolve) => {
      done = resolve
    })
    stream.moved.add(done)
    if (stream.isMoving || (await stream.look())) await moved
    stream.moved.delete(done)
  }

  return {
    keep,
    untilReplaced,
    async handOver(streams) {
      let timer: NodeJS.Timeout | undefined
      const late = new Promise((resolve) => {
        timer = setTimeout(resolve, handOverMs)
      })
      await Promise.race([late, Promise.all(streams.map(handOverOne))])
      clearTimeout(timer)
      // Where it took too long, calls after this one do not wait again.
      for (const stream of streams) stream.isMoving = false
    },
    end() {
      isEnding = true
      for (const stop of own) stop()
    },
  }
}

/** A stream that goes on with each connection that is not the `seen` one. */
export function newStream(seen: ConnectionStart | undefined): HeldStream {
  return {
    seen,
    look: async () => false,
    findPlace: async () => 'same',
    isOver: false,
    isMoving: false,
    moved: new Set(),
  }
}

/** Says that it is in the new one, or over. */
export function hasMoved(stream: HeldStream): void {
  stream.isMoving = false
  for (const listener of stream.moved) listener()
  stream.moved.clear()
}

/** A comment, which no client takes for an event. */
export const keepAlive = Buffer.from(': keep-alive\n\n')

/** An answer whose head is out already. */
export function goingOn(answer: StreamedAnswer, begun: () => void = () => {}): StreamedAnswer {
  return { ...answer, begin: begun }
}

/**
 * Many upstreams have no such stream (405): the gateway's own stays open then. So it does where its own bytes would come in
 * between those of a coding.
 */
export function isNoStream(head: {
  readonly status: number
  readonly headers: Readonly<Record<string, string | readonly string[]>>
}): boolean {
  const { 'content-type': type, 'content-encoding': coding = 'identity' } = head.headers
  const isPacked = coding !== 'identity'
  return head.status !== 200 || isPacked || !String(type).startsWith('text/event-stream')
}
