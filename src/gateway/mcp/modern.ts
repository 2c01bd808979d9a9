import type { CredentialResolver } from '../../core/ports/broker-services.ts'
import type { GatewayCall } from '../../core/ports/gateway.ts'
import type { GatewayBody } from '../body.ts'
import { type Forwarder, linkIn } from '../forward.ts'
import type { StepUpLinks } from '../step-up.ts'
import { sendAccepted, sendJson } from './answers.ts'
import { answerTo, type CollectedAnswer, copied, resultIn } from './collected-answer.ts'
import type { ConnectionWait } from './connection-wait.ts'
import {
  alreadyConnected,
  inputRequired,
  isConnectTool,
  mayPrompt,
  promptAsText,
  takesLinks,
} from './connect-prompt.ts'
import { disagreement } from './header-agreement.ts'
import { healthyResult, isAnsweredHere } from './healthy-server.ts'
import { errorCode, errorOf, isObject, isRequest, type McpMessage } from './json-rpc.ts'
import { jsonText } from './json-text.ts'
import type { KnownServers } from './known-servers.ts'
import { promptAnswer, type RequestStates, withoutPrompt } from './request-state.ts'
import { metaKey, modernRevision, sessionRevisions } from './revisions.ts'
import { standingOf } from './standing.ts'
import { mcpTarget } from './target.ts'

/** Messages of 2026-07-28: each stands for itself, says its revision, and has no session. */
export function createModernMcp(ports: {
  readonly resolver: CredentialResolver
  readonly forwarder: Forwarder
  readonly knownServers: KnownServers
  readonly requestStates: RequestStates
  readonly connectionWait: ConnectionWait
  readonly listen: (call: GatewayCall, message: McpMessage) => Promise<void>
  readonly stepUpLinks: StepUpLinks
}): (call: GatewayCall, body: GatewayBody, message: McpMessage) => Promise<void> {
  const { resolver, forwarder, knownServers, requestStates, connectionWait } = ports
  const { listen, stepUpLinks } = ports

  return async (call, received, message) => {
    const { answer, person, upstream } = call
    const differs = disagreement(call, message)
    if (differs !== undefined) {
      const text = `${differs} and the body disagree.`
      return sendJson(answer, 400, errorOf(message.id, errorCode.headerMismatch, text))
    }
    const found = knownServers.find(upstream.name)
    const known = found instanceof Promise ? await found : found
    if (known.revisions?.length === 0) return refuseRevision(call, message)

    const state = requestStates.judge(person, upstream.name, message)
    const isRetry = state.kind === 'ours'
    const action = isRetry ? promptAnswer(message) : undefined
    const isRefused = action === 'decline' || action === 'cancel'
    if (isRetry && !isRefused) await connectionWait.untilConnected(call, state.replaces)
    // Nothing is handed over for what the gateway says itself, and so nothing recorded.
    if (isConnectTool(message, upstream) && (await connectionWait.isConnected(call))) {
      return sendJson(answer, 200, alreadyConnected(message, 'modern', upstream))
    }
    const standing = await standingOf(resolver, call, isAnsweredHere(message))
    const askForPerson = (link: string): Promise<void> | void => {
      if (isRefused) return sendJson(answer, 200, promptAsText(message, 'modern', upstream, link))
      return answerUnconnected(call, message, link, isRetry)
    }
    if (standing.kind === 'unconnected') return askForPerson(standing.link)
    if (isConnectTool(message, upstream)) {
      return sendJson(answer, 200, alreadyConnected(message, 'modern', upstream))
    }
    const asked = knownServers.ask(call, standing.credential)
    const server = asked instanceof Promise ? await asked : asked
    // The call that asks for the first time is refused as those after it.
    if (server.revisions?.length === 0) return refuseRevision(call, message)
    // What is ours of a retry is none of the upstream's business; everything else goes up as it came.
    const body: GatewayBody =
      state.kind === 'foreign'
        ? received
        : { kind: 'whole', content: Buffer.from(jsonText(withoutPrompt(message))) }
    const asksWho = message.method === 'server/discover'
    let outcome: Awaited<ReturnType<Forwarder['forward']>>
    try {
      outcome = await forwarder.forward(
        {
          call,
          method: 'POST',
          target: mcpTarget(upstream),
          headers: call.headers,
          withheld: asksWho ? ownReadNames : sessionHeaderNames,
          body,
          answer: asksWho ? copied(answer, (copy) => void noteServer(call, message, copy)) : answer,
          whenGone: 'abort',
          mayStepUp: isRequest(message),
        },
        standing.credential,
      )
    } catch (error) {
      // The upstream refused the credential and nothing can renew it, or the person has disconnected meanwhile.
      return askForPerson(linkIn(error))
    }
    if (typeof outcome === 'string') return
    const stepUp = await stepUpLinks.offer(call, outcome.challenged)
    // Whoever said no to it gets what the upstream says.
    if (stepUp === undefined || isRefused) return outcome.pass()
    prompt(call, message, stepUp.link, { isRetry, replaces: stepUp.connectedAt })
  }

  /** What an upstream says of itself to one is what others see before they are connected. */
  async function noteServer(
    { upstream }: GatewayCall,
    message: McpMessage,
    copy: CollectedAnswer,
  ): Promise<void> {
    const response = message.id === undefined ? undefined : answerTo(message.id, copy)
    const result = resultIn(response)
    if (result === undefined) return
    try {
      await knownServers.note(upstream.name, result)
    } catch {
      // A database that is away learns of it with the next answer.
    }
  }

  /** Asks for the person in the form that the client takes. */
  function prompt(
    { answer, person, upstream }: GatewayCall,
    message: McpMessage,
    link: string,
    asked: { readonly isRetry: boolean; readonly replaces: Date | undefined },
  ): void {
    if (!mayPrompt(message.method) || !takesLinks(capabilitiesOf(message))) {
      return sendJson(answer, 200, promptAsText(message, 'modern', upstream, link))
    }
    const state = requestStates.issue(person, upstream.name, message, asked.replaces)
    // Whoever accepted has the link; asked again at once, a client would open it again and again.
    const shown = asked.isRetry ? undefined : { upstream, link }
    sendJson(answer, 200, inputRequired(message, state, shown))
  }

  async function answerUnconnected(
    call: GatewayCall,
    message: McpMessage,
    link: string,
    isRetry: boolean,
  ): Promise<void> {
    const { answer, upstream } = call
    if (!isRequest(message)) return sendAccepted(answer)
    if (message.method === 'subscriptions/listen') return listen(call, message)
    const known = await knownServers.find(upstream.name)
    const healthy = healthyResult(message, 'modern', upstream, known)
    if (healthy !== undefined) return sendJson(answer, 200, healthy)
    prompt(call, message, link, { isRetry, replaces: undefined })
  }
}

function refuseRevision({ answer }: GatewayCall, message: McpMessage): void {
  const data = { supported: sessionRevisions, requested: modernRevision }
  const text = 'This server does not speak that revision.'
  sendJson(answer, 400, errorOf(message.id, errorCode.unsupportedRevision, text, data))
}

function capabilitiesOf({ params }: McpMessage): unknown {
  const meta = params['_meta']
  return isObject(meta) ? meta[metaKey.clientCapabilities] : undefined
}

/** There are none in this revision, and a server must not be led to look for one. */
const sessionHeaderNames: ReadonlySet<string> = new Set(['mcp-session-id', 'last-event-id'])
/** Of an answer that the gateway reads too: it unpacks nothing. */
const ownReadNames: ReadonlySet<string> = new Set([...sessionHeaderNames, 'accept-encoding'])
