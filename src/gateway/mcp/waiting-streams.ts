import type { CredentialResolver, ResolvedCredential } from '../../core/ports/broker-services.ts'
import type { GatewayCall, StreamedAnswer } from '../../core/ports/gateway.ts'
import type {
  GatewaySessionRecord,
  GatewaySessionRecords,
} from '../../core/ports/gateway-session-records.ts'
import { isBrokerError } from '../../core/errors.ts'
import { type Forwarder, resolution, withoutHeaders } from '../forward.ts'
import type { OpenCalls } from '../open-calls.ts'
import { beginEvents, sendEvent, sendJson } from './answers.ts'
import type { ConnectionWait } from './connection-wait.ts'
import { listNames, promisedCapabilities } from './healthy-server.ts'
import { errorCode, errorOf, isObject, type JsonObject, type McpMessage } from './json-rpc.ts'
import type { KnownServers } from './known-servers.ts'
import { metaKey } from './revisions.ts'
import { sessionHeaders, type Sessions, type UpstreamSession } from './sessions.ts'
import { mcpTarget } from './target.ts'

/**
 * Streams that clients opened before their person was connected. The gateway keeps them open itself; once the person is connected
 * it says what changed and lets the upstream go on in the same stream.
 */
export type WaitingStreams = {
  /** `subscriptions/listen` of 2026-07-28. */
  readonly listen: (call: GatewayCall, message: McpMessage) => Promise<void>
  /** The GET stream of a session. */
  readonly get: (call: GatewayCall, session: GatewaySessionRecord) => Promise<void>
  /**
   * Hands over the streams of a session that this replica holds, where the person is connected now: what the first call causes
   * must find its stream. Never rejects.
   */
  readonly handOver: (session: GatewaySessionRecord) => Promise<void>
}

const keepAliveMs = 15_000
/** A call does not wait longer than this for its client's stream. */
const handOverMs = 2000

export function createWaitingStreams(ports: {
  readonly resolver: CredentialResolver
  readonly forwarder: Forwarder
  readonly openCalls: OpenCalls
  readonly connectionWait: ConnectionWait
  readonly knownServers: KnownServers
  readonly sessions: Sessions
  readonly records: Pick<GatewaySessionRecords, 'takeElicitations'>
}): WaitingStreams {
  const { resolver, forwarder, openCalls, connectionWait, knownServers, sessions, records } = ports
  /** What hands a session's streams over, by the hash of its id. */
  const waiting = new Map<string, Set<() => Promise<void>>>()

  /**
   * Keeps a stream open until its person is connected, then runs `goOn` once. Resolves when the stream is over.
   */
  function keep(
    call: GatewayCall,
    goOn: (credential: ResolvedCredential) => Promise<'over' | 'kept'>,
    register: (look: () => Promise<void>) => () => void,
  ): Promise<void> {
    const { answer, person, upstream } = call
    return new Promise((resolve) => {
      let looking: Promise<void> | undefined
      let isDone = false
      let alive: NodeJS.Timeout | undefined
      let isReleased = false
      let close = (): void => {}
      const end = (): void => {
        if (isDone) return
        isDone = true
        release()
        endWatch()
        unregister()
        resolve()
      }
      /** The stream is the gateway's own: it keeps it alive, and ends it when it is told to. */
      function hold(usesCredential: boolean): void {
        alive = setInterval(() => answer.write(keepAlive), keepAliveMs)
        alive.unref()
        close = openCalls.add(person, {
          upstream: upstream.name,
          usesCredential,
          cut() {
            answer.cut()
            end()
          },
        })
        answer.onGone(end)
      }
      /** Somebody else's words follow, between which none of ours may come. */
      function release(): void {
        clearInterval(alive)
        close()
      }
      async function look(): Promise<void> {
        if (isDone || !(await connectionWait.isConnected(call))) return
        let credential: ResolvedCredential
        try {
          credential = await resolver.resolve({ ...resolution(call), mayGoOnUnconnected: true })
        } catch (error) {
          if (isBrokerError(error, 'connect_required')) return
          throw error
        }
        endWatch()
        unregister()
        release()
        isReleased = true
        if ((await goOn(credential)) === 'over') return end()
        // A disconnect ends it, and so it is opened again and waits for the next connection.
        if (!isDone) hold(true)
      }
      /** One at a time. What fails ends the stream, as an upstream would that fails: its client opens another. */
      function lookOnce(): Promise<void> {
        looking ??= look()
          .catch((error: unknown) => {
            // Nothing of it has ended yet: what could not be asked is asked again.
            if (isBrokerError(error, 'storage_unavailable') && !isReleased) return
            if (isDone) return
            answer.end()
            end()
          })
          .finally(() => {
            looking = undefined
          })
        return looking
      }
      const endWatch = connectionWait.watch(person, upstream, () => void lookOnce())
      const unregister = register(lookOnce)
      hold(false)
    })
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
    const goOn = async (credential: ResolvedCredential): Promise<'over' | 'kept'> => {
      for (const name of honored) sendEvent(answer, listChanged(name, { _meta }))
      const content = Buffer.from(JSON.stringify(message.source))
      const outcome = await forwarder.forward(
        {
          call,
          method: 'POST',
          target: mcpTarget(upstream),
          headers: withoutHeaders(call.headers, sessionHeaderNames),
          body: { kind: 'whole', content },
          answer: withoutAcknowledgement(goingOn(answer)),
          whenGone: 'abort',
          isStale: isNoStream,
        },
        credential,
      )
      return outcome === 'done' ? 'over' : 'kept'
    }
    await keep(call, goOn, () => () => {})
  }

  async function get(call: GatewayCall, session: GatewaySessionRecord): Promise<void> {
    const { answer, upstream } = call
    beginEvents(answer)
    // A head alone reaches no client through some proxies.
    answer.write(keepAlive)
    const goOn = async (credential: ResolvedCredential): Promise<'over' | 'kept'> => {
      const at = await sessions.atUpstream(session, call, credential)
      for (const elicitationId of await records.takeElicitations(session)) {
        const params = { elicitationId }
        sendEvent(answer, { jsonrpc: '2.0', method: 'notifications/elicitation/complete', params })
      }
      const promised = promisedCapabilities(await knownServers.find(upstream.name))
      for (const name of listNames) {
        if (promised[name] !== undefined) sendEvent(answer, listChanged(name, undefined))
      }
      return openGet(call, at, credential)
    }
    const key = Buffer.from(session.idHash).toString('hex')
    await keep(call, goOn, (look) => {
      const looks = waiting.get(key) ?? new Set()
      waiting.set(key, looks.add(look))
      return () => {
        looks.delete(look)
        if (looks.size === 0 && waiting.get(key) === looks) waiting.delete(key)
      }
    })
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
        answer: goingOn(call.answer),
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
    async handOver(session) {
      const looks = [...(waiting.get(Buffer.from(session.idHash).toString('hex')) ?? [])]
      if (looks.length === 0) return
      let timer: NodeJS.Timeout | undefined
      const late = new Promise((resolve) => {
        timer = setTimeout(resolve, handOverMs)
      })
      await Promise.race([late, Promise.all(looks.map((look) => look()))])
      clearTimeout(timer)
    },
  }
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
function goingOn(answer: StreamedAnswer): StreamedAnswer {
  return { ...answer, begin: () => {} }
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
