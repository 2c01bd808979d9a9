import { BrokerError } from '../../core/errors.ts'
import type { CredentialResolver, ResolvedCredential } from '../../core/ports/broker-services.ts'
import type { GatewayCall, StreamedAnswer } from '../../core/ports/gateway.ts'
import type { GatewaySessionRecord } from '../../core/ports/gateway-session-records.ts'
import type { GatewayBody } from '../body.ts'
import { type Forwarder, linkIn, resolution } from '../forward.ts'
import type { StepUpLinks } from '../step-up.ts'
import { sendAccepted, sendJson } from './answers.ts'
import { alreadyConnected, isConnectTool } from './connect-prompt.ts'
import type { ConnectionWait } from './connection-wait.ts'
import type { Elicitations } from './elicitations.ts'
import { isAnsweredHere } from './healthy-server.ts'
import { createInitialization } from './initialization.ts'
import { errorCode, errorOf, isRequest, type JsonObject, type McpMessage } from './json-rpc.ts'
import type { KnownServers } from './known-servers.ts'
import { batchRevision } from './revisions.ts'
import { createSessionPrompts } from './session-prompts.ts'
import type { SessionStreams } from './session-streams.ts'
import {
  ownReadNames,
  sessionHeaderNames,
  sessionHeaders,
  type Sessions,
  type UpstreamSession,
} from './sessions.ts'
import { standingOf } from './standing.ts'
import { mcpTarget } from './target.ts'

/** Calls of the revisions before 2026-07-28, which begin with `initialize` and go on in a session. */
export type SessionEraMcp = {
  readonly post: (
    call: GatewayCall,
    body: GatewayBody,
    messages: { readonly messages: readonly McpMessage[]; readonly isBatch: boolean },
  ) => Promise<void>
  readonly get: (call: GatewayCall) => Promise<void>
  readonly remove: (call: GatewayCall) => Promise<void>
}

export function createSessionEraMcp(ports: {
  readonly resolver: CredentialResolver
  readonly forwarder: Forwarder
  readonly knownServers: KnownServers
  readonly sessions: Sessions
  readonly elicitations: Elicitations
  readonly connectionWait: ConnectionWait
  readonly sessionStreams: SessionStreams
  readonly stepUpLinks: StepUpLinks
}): SessionEraMcp {
  const { resolver, forwarder, sessions, connectionWait, sessionStreams, stepUpLinks } = ports
  const { initialize } = createInitialization(ports)
  const { answerUnconnected, prompt } = createSessionPrompts(ports)

  /** Undefined where the call was answered: a session that is missing, unknown, or somebody else's. */
  async function sessionOf(call: GatewayCall): Promise<GatewaySessionRecord | undefined> {
    const id = call.header('mcp-session-id')
    if (id === undefined) {
      const text = 'Mcp-Session-Id is missing.'
      sendJson(call.answer, 400, errorOf(undefined, errorCode.invalidRequest, text))
      return undefined
    }
    const session = await sessions.find(id, call)
    if (session !== undefined) return session
    const text = 'There is no such session.'
    sendJson(call.answer, 404, errorOf(undefined, errorCode.invalidRequest, text))
    return undefined
  }

  async function forwardInSession(
    call: GatewayCall,
    session: GatewaySessionRecord,
    credential: ResolvedCredential,
    sent: {
      readonly method: 'POST' | 'GET'
      readonly body: GatewayBody
      /** The request that a 403 for want of scope would be about. */
      readonly request?: McpMessage
      /** Told of the upstream's session that it goes to. */
      readonly goesTo?: (at: UpstreamSession | undefined) => void
    },
  ): Promise<void> {
    let seen: GatewaySessionRecord = session
    for (let attempt = 0; ; attempt += 1) {
      const at = await sessions.atUpstream(seen, call, credential)
      sent.goesTo?.(at)
      const outcome = await forwarder.forward(
        {
          call,
          method: sent.method,
          target: mcpTarget(call.upstream),
          headers: call.headers,
          withheld: sent.method === 'GET' ? ownReadNames : sessionHeaderNames,
          added: sessionHeaders(at),
          body: sent.body,
          answer: withoutSessionHeader(call.answer),
          whenGone: sent.method === 'GET' ? 'abort' : 'drain',
          // The upstream forgot its session. Clients do not begin anew by themselves, so the gateway does, once.
          isStale: ({ status }) =>
            status === 404 && at.id !== undefined && attempt === 0 && sent.body.kind === 'whole',
          mayStepUp: sent.request !== undefined,
        },
        credential,
      )
      if (outcome === 'done') return
      if (outcome !== 'stale') {
        const stepUp = await stepUpLinks.offer(call, outcome.challenged)
        if (stepUp === undefined || sent.request === undefined) return outcome.pass()
        return sendJson(call.answer, 200, await prompt(call, session, sent.request, stepUp))
      }
      sent.goesTo?.(undefined)
      await sessions.forgetUpstream(seen, at)
      seen = { ...seen, at: undefined }
      if (sent.method === 'POST') await sessionStreams.handOver(seen)
    }
  }

  const post: SessionEraMcp['post'] = async (call, body, { messages, isBatch }) => {
    const { answer, upstream } = call
    const [first] = messages
    // Of a batch it must not be part (2025-03-26, "Lifecycle").
    if (first?.method === 'initialize' && !isBatch) return initialize(call, body, first)
    const session = await sessionOf(call)
    if (session === undefined || first === undefined) return
    if (isBatch && session.revision !== batchRevision) {
      const text = 'This revision has no batches.'
      return sendJson(answer, 400, errorOf(undefined, errorCode.invalidRequest, text))
    }
    // One record a call: of a batch, that of the message that could ask for the person.
    const leading = messages.find((message) => !isAnsweredHere(message)) ?? first
    // Nothing is handed over for what the gateway says itself, and so nothing recorded.
    const isConnecting = isConnectTool(first, upstream) && !isBatch
    if (isConnecting && (await connectionWait.isConnected(call))) {
      return sendJson(answer, 200, alreadyConnected(first, 'session', upstream))
    }
    const askForPerson = async (link: string): Promise<void> => {
      const answers: JsonObject[] = []
      for (const message of messages) {
        const one = await answerUnconnected(call, session, message, link)
        if (one !== undefined) answers.push(one)
      }
      const [only] = answers
      if (only === undefined) return sendAccepted(answer)
      if (!isBatch) return sendJson(answer, 200, only)
      answer.begin(200, { 'cache-control': 'no-store', 'content-type': 'application/json' })
      answer.write(Buffer.from(JSON.stringify(answers)))
      return answer.end()
    }
    const standing = await standingOf(resolver, call, isAnsweredHere(leading))
    if (standing.kind === 'unconnected') return askForPerson(standing.link)
    if (isConnecting) {
      return sendJson(answer, 200, alreadyConnected(first, 'session', upstream))
    }
    await sessionStreams.handOver(session)
    const request = !isBatch && isRequest(first) ? { request: first } : {}
    const sent = { method: 'POST', body, ...request } as const
    try {
      await forwardInSession(call, session, standing.credential, sent)
    } catch (error) {
      // The upstream refused the credential and nothing can renew it, or the person has disconnected meanwhile.
      await askForPerson(linkIn(error))
    }
  }

  return {
    post,
    async get(call) {
      const session = await sessionOf(call)
      if (session === undefined) return
      // A stream can wait for its person.
      const standing = await standingOf(resolver, call, true)
      if (standing.kind === 'unconnected') return sessionStreams.get(call, session)
      const body: GatewayBody = { kind: 'whole', content: undefined }
      try {
        await sessionStreams.follow(call, session, (answer, goesTo) =>
          forwardInSession({ ...call, answer }, session, standing.credential, {
            method: 'GET',
            body,
            goesTo,
          }),
        )
      } catch (error) {
        linkIn(error)
        await sessionStreams.get(call, session)
      }
    },
    async remove(call) {
      const session = await sessionOf(call)
      if (session === undefined) return
      const removed = await sessions.remove(session)
      const at = removed && sessions.current(removed)
      if (at !== undefined) await endAtUpstream(call, at)
      call.answer.begin(204, { 'cache-control': 'no-store' })
      call.answer.end()
    },
  }

  /** The client is done with it, whatever the upstream says. */
  async function endAtUpstream(call: GatewayCall, at: UpstreamSession): Promise<void> {
    try {
      const credential = await resolver.resolve(resolution(call, { mayGoOnUnconnected: true }))
      await sessions.endAtUpstream(at, call, credential)
    } catch (error) {
      if (!(error instanceof BrokerError)) throw error
    }
  }
}

/** The upstream's session id stays inside. */
function withoutSessionHeader(answer: StreamedAnswer): StreamedAnswer {
  return {
    ...answer,
    begin(status, headers) {
      const { 'mcp-session-id': _inside, ...others } = headers
      answer.begin(status, others)
    },
  }
}
