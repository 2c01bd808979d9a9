import type { GatewayCall, StreamedAnswer } from '../../core/ports/gateway.ts'
import type { Forwarder } from '../forward.ts'
import { beginEvents, sendEvent, sendJson } from './answers.ts'
import { listChanged, listNames, promisedCapabilities } from './healthy-server.ts'
import { goingOn, type GoOn, type HeldStreams, isNoStream, newStream } from './held-streams.ts'
import { errorCode, errorOf, isObject, type McpMessage } from './json-rpc.ts'
import { jsonText } from './json-text.ts'
import type { KnownServers } from './known-servers.ts'
import { metaKey } from './revisions.ts'
import { mcpTarget } from './target.ts'

/** `subscriptions/listen` of 2026-07-28 for a person who is not connected: it goes on as the upstream's once they are. */
export function createListenStream(ports: {
  readonly forwarder: Forwarder
  readonly knownServers: KnownServers
  readonly heldStreams: HeldStreams
}): (call: GatewayCall, message: McpMessage) => Promise<void> {
  const { forwarder, knownServers, heldStreams } = ports
  return async (call, message) => {
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
      const content = Buffer.from(jsonText(message.source))
      const outcome = await forwarder.forward(
        {
          call,
          method: 'POST',
          target: mcpTarget(upstream),
          headers: call.headers,
          withheld: withheldNames,
          body: { kind: 'whole', content },
          answer: withoutAcknowledgement(goingOn(answer)),
          whenGone: 'abort',
          isStale: isNoStream,
        },
        credential,
      )
      return outcome === 'done' ? 'over' : 'kept'
    }
    await heldStreams.keep(call, newStream(undefined), goOn)
  }
}

/**
 * There are no sessions where there is `listen`, and ours are no business of the upstream's. And what goes on in a stream of ours
 * is not packed: its head is out.
 */
const withheldNames: ReadonlySet<string> = new Set([
  'mcp-session-id',
  'last-event-id',
  'accept-encoding',
])

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
