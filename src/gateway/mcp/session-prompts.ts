import type { GatewayCall } from '../../core/ports/gateway.ts'
import type { GatewaySessionRecord } from '../../core/ports/gateway-session-records.ts'
import type { StepUpLink } from '../step-up.ts'
import { mayPrompt, promptAsText, takesLinks, urlElicitationRequired } from './connect-prompt.ts'
import type { Elicitations } from './elicitations.ts'
import { healthyResult } from './healthy-server.ts'
import { isRequest, type JsonObject, type McpMessage } from './json-rpc.ts'
import type { KnownServers } from './known-servers.ts'

/** What a session's messages are answered with until its person has done something. */
export type SessionPrompts = {
  /** Undefined for a message that has no answer. `link`: where the person connects. */
  readonly answerUnconnected: (
    call: GatewayCall,
    session: GatewaySessionRecord,
    message: McpMessage,
    link: string,
  ) => Promise<JsonObject | undefined>
  /** Asks for the person in the form that the client takes. */
  readonly prompt: (
    call: GatewayCall,
    session: GatewaySessionRecord,
    message: McpMessage,
    to: StepUpLink,
  ) => Promise<JsonObject>
}

const elicitingRevision = '2025-11-25'

export function createSessionPrompts(ports: {
  readonly knownServers: KnownServers
  readonly elicitations: Elicitations
}): SessionPrompts {
  const { knownServers, elicitations } = ports

  async function answerUnconnected(
    call: GatewayCall,
    session: GatewaySessionRecord,
    message: McpMessage,
    link: string,
  ): Promise<JsonObject | undefined> {
    const { upstream } = call
    if (!isRequest(message)) return undefined
    const known = await knownServers.find(upstream.name)
    const healthy = healthyResult(message, 'session', upstream, known)
    if (healthy !== undefined) return healthy
    return prompt(call, session, message, { link, connectedAt: undefined })
  }

  async function prompt(
    { upstream }: GatewayCall,
    session: GatewaySessionRecord,
    message: McpMessage,
    { link, connectedAt }: StepUpLink,
  ): Promise<JsonObject> {
    const mayElicit =
      session.revision === elicitingRevision && takesLinks(session.initialize['capabilities'])
    if (!mayPrompt(message.method) || !mayElicit) {
      return promptAsText(message, 'session', upstream, link)
    }
    const { body, elicitationId } = urlElicitationRequired(message, upstream, link)
    await elicitations.add(session, elicitationId, connectedAt)
    return body
  }

  return { answerUnconnected, prompt }
}
