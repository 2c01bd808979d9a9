import type { ResolvedCredential } from '../../core/ports/broker-services.ts'
import { BrokerError } from '../../core/errors.ts'
import type { GatewayCall, StreamedAnswer } from '../../core/ports/gateway.ts'
import type {
  GatewaySessionRecord,
  GatewaySessionRecords,
} from '../../core/ports/gateway-session-records.ts'
import type { Upstream } from '../../core/upstream.ts'
import type { Forwarder } from '../forward.ts'
import { beginEvents, sendEvent } from './answers.ts'
import type { ConnectionStart, ConnectionWait } from './connection-wait.ts'
import type { Elicitations } from './elicitations.ts'
import { listChanged, listNames, promisedCapabilities } from './healthy-server.ts'
import {
  goingOn,
  hasMoved,
  type HeldStream,
  type HeldStreams,
  isNoStream,
  keepAlive,
  newStream,
} from './held-streams.ts'
import type { JsonObject } from './json-rpc.ts'
import type { KnownServers } from './known-servers.ts'
import { isPlainEvents } from './leavable.ts'
import { sessionHeaders, type Sessions, type UpstreamSession } from './sessions.ts'
import { mcpTarget } from './target.ts'

/** The GET streams of sessions, which say what changed when there is a connection, or another one, and go on with it. */
export type SessionStreams = {
  /** That of a person who is not connected. */
  readonly get: (call: GatewayCall, session: GatewaySessionRecord) => Promise<void>
  /** That of a person who is connected: `open` gives it to the upstream. @throws what `open` throws */
  readonly follow: (
    call: GatewayCall,
    session: GatewaySessionRecord,
    open: (
      answer: StreamedAnswer,
      goesTo: (at: UpstreamSession | undefined) => void,
    ) => Promise<void>,
  ) => Promise<void>
  /**
   * Hands over the streams of a session that this replica holds, where the person is connected now: what the first call causes
   * must find its stream. Never rejects.
   */
  readonly handOver: (session: GatewaySessionRecord) => Promise<void>
}

export function createSessionStreams(ports: {
  readonly forwarder: Forwarder
  readonly connectionWait: ConnectionWait
  readonly knownServers: KnownServers
  readonly sessions: Sessions
  readonly records: Pick<GatewaySessionRecords, 'find'>
  readonly elicitations: Elicitations
  readonly heldStreams: HeldStreams
}): SessionStreams {
  const { forwarder, connectionWait, knownServers, sessions, records } = ports
  const { elicitations, heldStreams } = ports
  /** By the hash of the session's id. */
  const held = new Map<string, Set<SessionStream>>()

  /** A stream that goes on where its session does, and ends with it. */
  function streamOf(session: GatewaySessionRecord, seen: ConnectionStart | undefined) {
    const stream: SessionStream = {
      ...newStream(seen),
      at: undefined,
      async findPlace() {
        const now = await records.find(session.idHash, session)
        if (now === undefined) return 'over'
        return stream.at === undefined || stream.at.id === sessions.current(now)?.id
          ? 'same'
          : 'another'
      },
    }
    return stream
  }

  const get: SessionStreams['get'] = async (call, session) => {
    beginEvents(call.answer)
    // A head alone reaches no client through some proxies.
    call.answer.write(keepAlive)
    await holding(session, streamOf(session, undefined), (stream) =>
      keepSession(call, session, stream),
    )
  }

  const follow: SessionStreams['follow'] = async (call, session, open) => {
    // Read before anything is opened with it: a connection that comes meanwhile is another one.
    const start = (await connectionWait.newStart(call, undefined)) ?? neverBegun
    // The person may be done since before the client opened the stream: it had another, or opens it late.
    const done = await elicitations.takeDone(session, start)
    const changed = done.length === 0 ? [] : await changedLists(call.upstream)
    await holding(session, streamOf(session, start), async (stream) => {
      const outcome = await heldStreams.untilReplaced(call, stream, async (answer) => {
        await open(beginningWith(answer, session, { done, changed }), (at) => {
          stream.at = at
        })
        return 'over' as const
      })
      if (outcome === 'kept') await keepSession(call, session, stream)
    })
  }

  async function changedLists(upstream: Upstream): Promise<readonly JsonObject[]> {
    const promised = promisedCapabilities(await knownServers.find(upstream.name))
    const names = listNames.filter((name) => promised[name] !== undefined)
    return names.map((name) => listChanged(name))
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
    its: SessionStream,
  ): Promise<void> {
    const { answer, upstream } = call
    return heldStreams.keep(call, its, async (credential, stream) => {
      // As it is now: its upstream's session may be another, or open already.
      const session = await records.find(idHash, key)
      if (session === undefined) throw new BrokerError('not_found')
      const at = await sessions.atUpstream(session, call, credential)
      its.at = at
      for (const id of await elicitations.takeDone(session, stream.seen ?? neverBegun)) {
        sendEvent(answer, elicitationComplete(id))
      }
      for (const message of await changedLists(upstream)) sendEvent(answer, message)
      const going = { ...call, answer: goingOn(answer, () => hasMoved(stream)) }
      return heldStreams.untilReplaced(going, stream, (to) =>
        openGet({ ...call, answer: to }, at, credential),
      )
    })
  }

  async function holding(
    { idHash }: GatewaySessionRecord,
    stream: SessionStream,
    run: (stream: SessionStream) => Promise<void>,
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
        isStale: isNoStream,
      },
      credential,
    )
    return outcome === 'done' ? 'over' : 'kept'
  }

  return {
    get,
    follow,
    async handOver(session) {
      const streams = [...(held.get(Buffer.from(session.idHash).toString('hex')) ?? [])]
      // One that is the upstream's has a reason to go on only where nobody has opened its session anew, or it did so itself.
      const concerned = streams.filter(
        ({ seen, isMoving }) => seen === undefined || isMoving || session.at === undefined,
      )
      if (concerned.length > 0) await heldStreams.handOver(concerned)
    },
  }
}

/** `at`: the upstream's session that it is in, once it is. */
type SessionStream = HeldStream & { at: UpstreamSession | undefined }

/** Of a connection that nobody had to begin. */
const neverBegun: ConnectionStart = { at: undefined }

function elicitationComplete(elicitationId: string): JsonObject {
  return { jsonrpc: '2.0', method: 'notifications/elicitation/complete', params: { elicitationId } }
}
