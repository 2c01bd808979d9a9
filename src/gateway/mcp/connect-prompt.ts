import { randomUUID } from 'node:crypto'
import type { Upstream } from '../../core/upstream.ts'
import {
  errorCode,
  errorOf,
  isObject,
  isRequest,
  type JsonObject,
  type McpMessage,
  resultOf,
} from './json-rpc.ts'
import { promptName } from './request-state.ts'
import type { Era } from './revisions.ts'

/** Methods for which a client can be asked to send its person somewhere (2026-07-28, "Multi round-trip requests"). */
export function mayPrompt(method: string | undefined): boolean {
  return method === 'tools/call' || method === 'prompts/get' || method === 'resources/read'
}

/** The name of the gateway's own tool, which a person can call to connect. */
export function connectToolName(upstream: Upstream): string {
  return `connect_${upstream.name}`.slice(0, 64)
}

export function isConnectTool(message: McpMessage, upstream: Upstream): boolean {
  if (!isRequest(message) || message.method !== 'tools/call') return false
  return message.params['name'] === connectToolName(upstream)
}

/** Whether `elicitation` of a client's capabilities takes links. */
export function takesLinks(capabilities: unknown): boolean {
  const elicitation = isObject(capabilities) ? capabilities['elicitation'] : undefined
  return isObject(elicitation) && isObject(elicitation['url'])
}

/** 2026-07-28: the call waits for its person; `state` comes back with the retry. */
export function inputRequired(
  message: McpMessage,
  state: string,
  prompt: { readonly upstream: Upstream; readonly link: string } | undefined,
): JsonObject {
  const inputRequests =
    prompt === undefined
      ? {}
      : {
          inputRequests: {
            [promptName]: {
              method: 'elicitation/create',
              params: { mode: 'url', message: invitation(prompt.upstream), url: prompt.link },
            },
          },
        }
  return resultOf(message.id, 'modern', {
    resultType: 'input_required',
    ...inputRequests,
    requestState: state,
  })
}

/** 2025-11-25: an error that carries the link; the client calls again when it was told that it is done. */
export function urlElicitationRequired(
  message: McpMessage,
  upstream: Upstream,
  link: string,
): { readonly body: JsonObject; readonly elicitationId: string } {
  const elicitationId = randomUUID()
  const text = invitation(upstream)
  const elicitations = [{ mode: 'url', elicitationId, url: link, message: text }]
  const body = errorOf(message.id, errorCode.urlElicitationRequired, text, { elicitations })
  return { body, elicitationId }
}

/** For a client that takes no links: the link as text, where a model or a person will read it. */
export function promptAsText(
  message: McpMessage,
  era: Era,
  upstream: Upstream,
  link: string,
): JsonObject {
  const text = `${invitation(upstream)} Then try again. ${link}`
  if (message.method !== 'tools/call') {
    return errorOf(message.id, errorCode.connectRequired, text, { connect_url: link })
  }
  return resultOf(message.id, era, {
    isError: true,
    content: [{ type: 'text', text }],
  })
}

/** What the connect tool says once there is nothing left to do. */
export function alreadyConnected(message: McpMessage, era: Era, upstream: Upstream): JsonObject {
  return resultOf(message.id, era, {
    content: [{ type: 'text', text: `${upstream.displayName} is connected.` }],
  })
}

function invitation(upstream: Upstream): string {
  return `Open this link to connect your ${upstream.displayName} account.`
}
