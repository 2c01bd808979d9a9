import { isBrokerError } from '../../core/errors.ts'
import type { CredentialResolver, ResolvedCredential } from '../../core/ports/broker-services.ts'
import type { GatewayCall } from '../../core/ports/gateway.ts'
import type { GatewayBody } from '../body.ts'
import { type Forwarder, resolution } from '../forward.ts'
import type { StepUpLinks } from '../step-up.ts'
import { sendAccepted, sendJson } from './answers.ts'
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
import { healthyResult } from './healthy-server.ts'
import { errorCode, errorOf, isObject, isRequest, type McpMessage } from './json-rpc.ts'
import type { KnownServers } from './known-servers.ts'
import { promptAnswer, type RequestStates, withoutPrompt } from './request-state.ts'
import { metaKey, modernRevision, sessionRevisions } from './revisions.ts'
import { mcpTarget } from './target.ts'
import type { WaitingStreams } from './waiting-streams.ts'

/** Where a person stands with an upstream, for one message. */
type Standing =
  | { readonly kind: 'connected'; readonly credential: ResolvedCredential }
  | { readonly kind: 'unconnected'; readonly link: string }

/** Messages of 2026-07-28: each stands for itself, says its revision, and has no session. */
export function createModernMcp(ports: {
  readonly resolver: CredentialResolver
  readonly forwarder: Forwarder
  readonly knownServers: KnownServers
  readonly requestStates: RequestStates
  readonly connectionWait: ConnectionWait
  readonly waitingStreams: WaitingStreams
  readonly stepUpLinks: StepUpLinks
}): (call: GatewayCall, body: GatewayBody, message: McpMessage) => Promise<void> {
  const { resolver, forwarder, knownServers, requestStates, connectionWait } = ports
  const { waitingStreams, stepUpLinks } = ports

  return async (call, received, message) => {
    const { answer, person, upstream } = call
    const differs = disagreement(call.headers, message)
    if (differs !== undefined) {
      const text = `${differs} and the body disagree.`
      return sendJson(answer, 400, errorOf(message.id, errorCode.headerMismatch, text))
    }
    const known = await knownServers.find(upstream.name)
    if (known.revisions?.length === 0) return refuseRevision(call, message)

    const state = requestStates.judge(person, upstream.name, message)
    const isRetry = state.kind === 'ours'
    const action = isRetry ? promptAnswer(message) : undefined
    const isRefused = action === 'decline' || action === 'cancel'
    if (isRetry && !isRefused) await connectionWait.untilConnected(call, state.replaces)
    const standing = await standingOf(call, message)
    if (standing.kind === 'unconnected') {
      if (isRefused) {
        return sendJson(answer, 200, promptAsText(message, 'modern', upstream, standing.link))
      }
      return answerUnconnected(call, message, standing.link, isRetry)
    }
    if (isConnectTool(message, upstream)) {
      return sendJson(answer, 200, alreadyConnected(message, 'modern', upstream))
    }
    await knownServers.ask(call, standing.credential)
    // What is ours of a retry is none of the upstream's business; everything else goes up as it came.
    const body: GatewayBody =
      state.kind === 'foreign'
        ? received
        : { kind: 'whole', content: Buffer.from(JSON.stringify(withoutPrompt(message))) }
    const outcome = await forwarder.forward(
      {
        call,
        method: 'POST',
        target: mcpTarget(upstream),
        headers: withoutSession(call.headers),
        body,
        answer,
        whenGone: 'abort',
        mayStepUp: isRequest(message),
      },
      standing.credential,
    )
    if (typeof outcome === 'string') return
    const stepUp = await stepUpLinks.offer(call, outcome.challenged)
    // Whoever said no to it gets what the upstream says.
    if (stepUp === undefined || isRefused) return outcome.pass()
    prompt(call, message, stepUp.link, { isRetry, replaces: stepUp.connectedAt })
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

  async function standingOf(call: GatewayCall, message: McpMessage): Promise<Standing> {
    try {
      const credential = await resolver.resolve({
        ...resolution(call),
        mayGoOnUnconnected: !mayPrompt(message.method),
      })
      return { kind: 'connected', credential }
    } catch (error) {
      const link = isBrokerError(error, 'connect_required') ? error.details.connectUrl : undefined
      if (link === undefined) throw error
      return { kind: 'unconnected', link }
    }
  }

  async function answerUnconnected(
    call: GatewayCall,
    message: McpMessage,
    link: string,
    isRetry: boolean,
  ): Promise<void> {
    const { answer, upstream } = call
    if (!isRequest(message)) return sendAccepted(answer)
    if (message.method === 'subscriptions/listen') return waitingStreams.listen(call, message)
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
function withoutSession(headers: readonly string[]): readonly string[] {
  return headers.filter((_, index) => {
    const name = headers[index - (index % 2)]?.toLowerCase()
    return name !== 'mcp-session-id' && name !== 'last-event-id'
  })
}
