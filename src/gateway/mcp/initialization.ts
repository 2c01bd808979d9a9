import type { CredentialResolver, ResolvedCredential } from '../../core/ports/broker-services.ts'
import type { GatewayCall } from '../../core/ports/gateway.ts'
import type { ConnectionMark } from '../../core/ports/gateway-session-records.ts'
import type { GatewayBody } from '../body.ts'
import { type Forwarder, linkIn } from '../forward.ts'
import { sendJson } from './answers.ts'
import { answerTo, collect, resultIn } from './collected-answer.ts'
import { healthyResult, isAnsweredHere, sessionRevisionFor } from './healthy-server.ts'
import type { McpMessage } from './json-rpc.ts'
import type { KnownServers } from './known-servers.ts'
import { ownReadNames, sessionIn, type Sessions } from './sessions.ts'
import { standingOf } from './standing.ts'
import { mcpTarget } from './target.ts'

/** `initialize`: answered by the upstream, or here where its person is yet to connect. Opens a session of ours in both cases. */
export type Initialization = {
  readonly initialize: (call: GatewayCall, body: GatewayBody, message: McpMessage) => Promise<void>
}

export function createInitialization(ports: {
  readonly resolver: CredentialResolver
  readonly forwarder: Forwarder
  readonly knownServers: KnownServers
  readonly sessions: Sessions
}): Initialization {
  const { resolver, forwarder, knownServers, sessions } = ports

  async function initialize(
    call: GatewayCall,
    body: GatewayBody,
    message: McpMessage,
  ): Promise<void> {
    const standing = await standingOf(resolver, call, isAnsweredHere(message))
    if (standing.kind === 'unconnected') return initializeHere(call, message)
    const connection = await sessions.connectionOf(call)
    await knownServers.ask(call, standing.credential)
    try {
      await initializeAtUpstream(call, body, message, { ...standing, connection })
    } catch (error) {
      // The upstream refused the credential, and nothing can renew it.
      linkIn(error)
      await initializeHere(call, message)
    }
  }

  async function initializeHere(call: GatewayCall, message: McpMessage): Promise<void> {
    const { upstream, answer } = call
    const known = await knownServers.find(upstream.name)
    const result = healthyResult(message, 'session', upstream, known)
    const id = await sessions.open(call, {
      initialize: message.params,
      revision: sessionRevisionFor(message.params['protocolVersion']),
      at: undefined,
    })
    if (result !== undefined) sendJson(answer, 200, result, { 'mcp-session-id': id })
  }

  /** The upstream's own answer, under a session of ours. */
  async function initializeAtUpstream(
    call: GatewayCall,
    body: GatewayBody,
    message: McpMessage,
    using: { readonly credential: ResolvedCredential; readonly connection: ConnectionMark },
  ): Promise<void> {
    const { upstream, answer } = call
    const { credential, connection } = using
    const collected = await collect(
      (to) =>
        forwarder.forward(
          {
            call,
            method: 'POST',
            target: mcpTarget(upstream),
            headers: call.headers,
            withheld: ownReadNames,
            body,
            answer: to,
            whenGone: 'abort',
          },
          credential,
        ),
      message.id,
    )
    const response = message.id === undefined ? undefined : answerTo(message.id, collected)
    const result = resultIn(response)
    const headers = { ...collected.headers }
    delete headers['mcp-session-id']
    delete headers['content-length']
    if (result !== undefined) {
      const at = sessionIn(collected, response)
      await knownServers.note(upstream.name, result)
      headers['mcp-session-id'] = await sessions.open(call, {
        initialize: message.params,
        revision: at.revision,
        at,
        connection,
      })
    }
    answer.begin(collected.status, headers)
    answer.write(collected.body)
    answer.end()
  }

  return { initialize }
}
