import type { CredentialResolver, ResolvedCredential } from '../../core/ports/broker-services.ts'
import type { GatewayCall, StreamedAnswer } from '../../core/ports/gateway.ts'
import type {
  GatewaySessionRecord,
  GatewaySessionRecords,
} from '../../core/ports/gateway-session-records.ts'
import { BrokerError, isBrokerError } from '../../core/errors.ts'
import type { Upstream } from '../../core/upstream.ts'
import { type Forwarder, resolution } from '../forward.ts'
import type { OpenCalls } from '../open-calls.ts'
import { beginEvents, sendEvent, sendJson } from './answers.ts'
import type { ConnectionStart, ConnectionWait } from './connection-wait.ts'
import type { Elicitations } from './elicitations.ts'
import { listNames, promisedCapabilities } from './healthy-server.ts'
import { errorCode, errorOf, isObject, type JsonObject, type McpMessage } from './json-rpc.ts'
import type { KnownServers } from './known-servers.ts'
import { isPlainEvents, leavable } from './leavable.ts'
import { metaKey } from './revisions.ts'
import { sessionHeaders, type Sessions, type UpstreamSession } from './sessions.ts'
import { mcpTarget } from './target.ts'

/**
 * Streams that outlive a connection. While their person is not connected the gateway keeps them open itself; once there is a
 * connection, or another one, it says what changed and lets the upstream go on in the same stream.
 */
export type WaitingStreams = {
  /** `subscriptions/listen` of 2026-07-28. */
  readonly listen: (call: GatewayCall, message: McpMessage) => Promise<void>
  /** The GET stream of a session. */
  readonly get: (call: GatewayCall, session: GatewaySessionRecord) => Promise<void>
  /** The GET stream of a session whose person is connected: `open` gives it to the upstream. @throws what `open` throws */
  readonly follow: (
    call: GatewayCall,
    session: GatewaySessionRecord,
    open: (answer: StreamedAnswer) => Promise<void>,
  ) => Promise<void>
  /**
   * Hands over the streams of a session that this replica holds, where the person is connected now: what the first call causes
   * must find its stream. Never rejects.
   */
  readonly handOver: (session: GatewaySessionRecord) => Promise<void>
  /** Ends those that are the gateway's own, from here on: nobody else would. */
  readonly end: () => void
}

const keepAliveMs = 15_000
/** A call does not wait longer than this for its client's stream. */
const handOverMs = 2000

/** A stream that this replica holds for a client. */
type HeldStream = {
  /** The connection that it went on with last; undefined before the first. */
  seen: ConnectionStart | undefined
  /** Whether there is another now, with which it goes on. */
  look: () => Promise<boolean>
  /** It has left the old one, and is not in the new one yet. */
  isMoving: boolean
  /** Called when it has gone on. */
  readonly moved: Set<() => void>
}

/** What goes on in a stream. `over`: it has ended. `kept`: it is the gateway's own again. */
type GoOn = (credential: ResolvedCredential, stream: HeldStream) => Promise<'over' | 'kept'>

export function createWaitingStreams(ports: {
  readonly resolver: CredentialResolver
  readonly forwarder: Forwarder
  readonly openCalls: OpenCalls
  readonly connectionWait: ConnectionWait
  readonly knownServers: KnownServers
  readonly sessions: Sessions
  readonly records: Pick<GatewaySessionRecords, 'find'>
  readonly elicitations: Elicitations
}): WaitingStreams {
  const { resolver, forwarder, openCalls, connectionWait, knownServers, sessions, records } = ports
  const { elicitations } = ports
  /** By the hash of the session's id. */
  const held = new Map<string, Set<HeldStream>>()
  /** What ends a stream of the gateway's own. */
  const own = new Set<() => void>()
  let isEnding = false

  /** Keeps a stream open, which becomes the upstream's with every connection that is new to it. Resolves when it is over. */
  async function keep(call: GatewayCall, stream: HeldStream, goOn: GoOn): Promise<void> {
    for (;;) {
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
        endWatch()
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
      const lookAgain = () => void stream.look()
      const endWatch =
        stream.seen === undefined
          ? connectionWait.watch(person, upstream, lookAgain)
          : openCalls.onChange(person, upstream.name, lookAgain)
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
      else if (stream.seen !== undefined) void stream.look()
    })
  }

  /** The stream is the upstream's, until there is another connection than the one that it was opened with. */
  async function untilReplaced<Outcome>(
    call: GatewayCall,
    stream: HeldStream,
    open: (answer: StreamedAnswer) => Promise<Outcome>,
  ): Promise<Outcome | 'kept'> {
    const { answer, person, upstream } = call
    const leaving = leavable(answer)
    stream.look = async () => {
      // A database that is away for long cuts the stream; who is asked again meanwhile is the next call.
      const start = await connectionWait.newStart(call, stream.seen).catch(() => undefined)
      if (start === undefined || !leaving.leave()) return false
      stream.isMoving = true
      return true
    }
    const endWatch = openCalls.onChange(person, upstream.name, () => void stream.look())
    try {
      const outcome = await open(leaving.answer)
      return leaving.hasLeft() ? 'kept' : outcome
    } finally {
      endWatch()
    }
  }

  function hasMoved(stream: HeldStream): void {
    stream.isMoving = false
    for (const listener of stream.moved) listener()
    stream.moved.clear()
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

  async function listen(call: GatewayCall, message: McpMessage): Promise<void> {
    const { answer, upstream } = call
    const wanted = message.params['notifications']
    if (!isObject(wanted) || message.id === undefined) {
      const text = 'notifications is missing.'
      return sendJson(answer, 200, errorOf(message.id, errorCode.invalidParams, text))
    }
    const known = await knownServers.find(upstream.name)
    const promised = promisedCapabilities(known)
    const honored = listNames.filter(
      (name) => wanted[`${name}ListChanged`] === true && promised[name] !== undefined,
    )
    const _meta = { [metaKey.subscriptionId]: message.id }
    beginEvents(answer)
    sendEvent(answer, {
      jsonrpc: '2.0',
      method: 'notifications/subscriptions/acknowledged',
      params: {
        notifications: Object.fromEntries(honored.map((name) => [`${name}ListChanged`, true])),
        _meta,
      },
    })
    const goOn: GoOn = async (credential) => {
      for (const name of honored) sendEvent(answer, listChanged(name, { _meta }))
      const content = Buffer.from(JSON.stringify(message.source))
      const outcome = await forwarder.forward(
        {
          call,
          method: 'POST',
          target: mcpTarget(upstream),
          headers: call.headers,
          withheld: sessionHeaderNames,
          body: { kind: 'whole', content },
          answer: withoutAcknowledgement(goingOn(answer)),
          whenGone: 'abort',
          isStale: isNoStream,
        },
        credential,
      )
      return outcome === 'done' ? 'over' : 'kept'
    }
    await keep(call, newStream(undefined), goOn)
  }

  const get: WaitingStreams['get'] = async (call, session) => {
    beginEvents(call.answer)
    // A head alone reaches no client through some proxies.
    call.answer.write(keepAlive)
    await holding(session, newStream(undefined), (stream) => keepSession(call, session, stream))
  }

  const follow: WaitingStreams['follow'] = async (call, session, open) => {
    // Read before anything is opened with it: a connection that comes meanwhile is another one.
    const start = (await connectionWait.newStart(call, undefined)) ?? neverBegun
    // The person may be done since before the client opened the stream: it had another, or opens it late.
    const done = await elicitations.takeDone(session, start)
    const changed = done.length === 0 ? [] : await changedLists(call.upstream)
    await holding(session, newStream(start), async (stream) => {
      const outcome = await untilReplaced(call, stream, async (answer) => {
        await open(beginningWith(answer, session, { done, changed }))
        return 'over' as const
      })
      if (outcome === 'kept') await keepSession(call, session, stream)
    })
  }

  async function changedLists(upstream: Upstream): Promise<readonly JsonObject[]> {
    const promised = promisedCapabilities(await knownServers.find(upstream.name))
    const names = listNames.filter((name) => promised[name] !== undefined)
    return names.map((name) => listChanged(name, undefined))
  }

  /** An answer that says first which links are done with; where it is no stream, the next one says it. */
  function beginningWith(
    answer: StreamedAnswer,
    session: GatewaySessionRecord,
    news: { readonly done: readonly string[]; readonly changed: readonly JsonObject[] },
  ): StreamedAnswer {
    return {
      ...answer,
      begin(status, headers) {
        answer.begin(status, headers)
        const isStream = isPlainEvents(status, headers)
        for (const id of news.done) {
          if (isStream) sendEvent(answer, elicitationComplete(id))
          else elicitations.add(session, id, undefined).catch(() => {})
        }
        for (const message of isStream ? news.changed : []) sendEvent(answer, message)
      },
    }
  }

  function keepSession(
    call: GatewayCall,
    { idHash, ...key }: GatewaySessionRecord,
    its: HeldStream,
  ): Promise<void> {
    const { answer, upstream } = call
    return keep(call, its, async (credential, stream) => {
      // As it is now: its upstream's session may be another, or open already.
      const session = await records.find(idHash, key)
      if (session === undefined) throw new BrokerError('not_found')
      const at = await sessions.atUpstream(session, call, credential)
      for (const id of await elicitations.takeDone(session, stream.seen ?? neverBegun)) {
        sendEvent(answer, elicitationComplete(id))
      }
      for (const message of await changedLists(upstream)) sendEvent(answer, message)
      const going = { ...call, answer: goingOn(answer, () => hasMoved(stream)) }
      return untilReplaced(going, stream, (to) => openGet({ ...call, answer: to }, at, credential))
    })
  }

  async function holding(
    { idHash }: GatewaySessionRecord,
    stream: HeldStream,
    run: (stream: HeldStream) => Promise<void>,
  ): Promise<void> {
    const key = Buffer.from(idHash).toString('hex')
    const streams = held.get(key) ?? new Set()
    held.set(key, streams.add(stream))
    try {
      await run(stream)
    } finally {
      hasMoved(stream)
      streams.delete(stream)
      if (streams.size === 0 && held.get(key) === streams) held.delete(key)
    }
  }

  async function openGet(
    call: GatewayCall,
    at: UpstreamSession,
    credential: ResolvedCredential,
  ): Promise<'over' | 'kept'> {
    const outcome = await forwarder.forward(
      {
        call,
        method: 'GET',
        target: mcpTarget(call.upstream),
        headers: ['Accept', 'text/event-stream', ...sessionHeaders(at)],
        body: { kind: 'whole', content: undefined },
        answer: call.answer,
        whenGone: 'abort',
        // Many upstreams have no such stream (405): the gateway's own stays open then.
        isStale: isNoStream,
      },
      credential,
    )
    return outcome === 'done' ? 'over' : 'kept'
  }

  return {
    listen,
    get,
    follow,
    async handOver(session) {
      const streams = [...(held.get(Buffer.from(session.idHash).toString('hex')) ?? [])]
      // One that is the upstream's has a reason to go on only where nobody has opened its session anew, or it did so itself.
      const concerned = streams.filter(
        ({ seen, isMoving }) => seen === undefined || isMoving || session.at === undefined,
      )
      if (concerned.length === 0) return
      let timer: NodeJS.Timeout | undefined
      const late = new Promise((resolve) => {
        timer = setTimeout(resolve, handOverMs)
      })
      await Promise.race([late, Promise.all(concerned.map(handOverOne))])
      clearTimeout(timer)
      // Where it took too long, calls after this one do not wait again.
      for (const stream of concerned) stream.isMoving = false
    },
    end() {
      isEnding = true
      for (const stop of own) stop()
    },
  }
}

/** Of a connection that nobody had to begin. */
const neverBegun: ConnectionStart = { at: undefined }

function elicitationComplete(elicitationId: string): JsonObject {
  return { jsonrpc: '2.0', method: 'notifications/elicitation/complete', params: { elicitationId } }
}

function newStream(seen: ConnectionStart | undefined): HeldStream {
  return { seen, look: async () => false, isMoving: false, moved: new Set() }
}

/** There are no sessions where there is `listen`, and ours are no business of the upstream's. */
const sessionHeaderNames: ReadonlySet<string> = new Set(['mcp-session-id', 'last-event-id'])

const keepAlive = Buffer.from(': keep-alive\n\n')

function listChanged(name: string, params: JsonObject | undefined): JsonObject {
  const method = `notifications/${name}/list_changed`
  return { jsonrpc: '2.0', method, ...(params === undefined ? {} : { params }) }
}

function isNoStream(head: {
  readonly status: number
  readonly headers: Readonly<Record<string, string | readonly string[]>>
}): boolean {
  return (
    head.status !== 200 || !String(head.headers['content-type']).startsWith('text/event-stream')
  )
}

/** An answer whose head is out already. */
function goingOn(answer: StreamedAnswer, begun: () => void = () => {}): StreamedAnswer {
  return { ...answer, begin: begun }
}

/** An acknowledgement is short; what goes on without an end is none. */
const longestAcknowledgement = 64 * 1024

/** Leaves the first event out where it is the upstream's acknowledgement: the client has the gateway's. */
function withoutAcknowledgement(answer: StreamedAnswer): StreamedAnswer {
  let held: Buffer | undefined = Buffer.alloc(0)
  function letGo(): boolean {
    const rest = held
    held = undefined
    return rest === undefined || rest.length === 0 || answer.write(rest)
  }
  return {
    ...answer,
    write(chunk) {
      if (held === undefined) return answer.write(chunk)
      held = Buffer.concat([held, chunk])
      for (;;) {
        // A byte a letter, so that places in the text are places in the bytes.
        const text = held.toString('latin1')
        const end = /\r?\n\r?\n/.exec(text)
        if (end === null) return held.length <= longestAcknowledgement || letGo()
        const length = end.index + end[0].length
        const first = text.slice(0, length)
        if (/^data:/m.test(first)) {
          const isAcknowledgement = first.includes('notifications/subscriptions/acknowledged')
          if (isAcknowledgement) held = held.subarray(length)
          return letGo()
        }
        // A comment before it is passed on, and the next event looked at.
        answer.write(held.subarray(0, length))
        held = held.subarray(length)
      }
    },
    end() {
      letGo()
      answer.end()
    },
  }
}
