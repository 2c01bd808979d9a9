import type { UpstreamServerRecord } from '../../core/ports/gateway-session-records.ts'
import type { Upstream } from '../../core/upstream.ts'
import { connectToolName } from './connect-prompt.ts'
import { isObject, isRequest, type JsonObject, type McpMessage, resultOf } from './json-rpc.ts'
import {
  type Era,
  metaKey,
  modernRevision,
  newestSessionRevision,
  sessionRevisions,
} from './revisions.ts'

/**
 * What a client sees before its person is connected: a server that is well and has one tool, which leads to the connect link.
 * Gives the result of a request; undefined for one that needs the person.
 */
export function healthyResult(
  message: McpMessage,
  era: Era,
  upstream: Upstream,
  known: UpstreamServerRecord,
): JsonObject | undefined {
  // Nobody may keep a list: it is true until this person connects.
  const cacheable = era === 'modern' ? { ttlMs: 0, cacheScope: 'private' } : {}
  const result = healthyResultOf(message, upstream, known, cacheable)
  return result === undefined ? undefined : resultOf(message.id, era, result)
}

const answeredHere: ReadonlySet<string> = new Set([
  'initialize',
  'logging/setLevel',
  'ping',
  'prompts/list',
  'resources/list',
  'resources/templates/list',
  'server/discover',
  'subscriptions/listen',
  'tools/list',
])

/** Whether the gateway answers it in the place of a person who is not connected; anything else asks for the person. */
export function isAnsweredHere(message: McpMessage): boolean {
  return !isRequest(message) || answeredHere.has(message.method)
}

function healthyResultOf(
  { method, params }: McpMessage,
  upstream: Upstream,
  known: UpstreamServerRecord,
  cacheable: JsonObject,
): JsonObject | undefined {
  switch (method) {
    case 'server/discover':
      return {
        ...cacheable,
        supportedVersions: known.revisions ?? [modernRevision],
        capabilities: promisedCapabilities(known),
        _meta: { [metaKey.serverInfo]: serverInfo(upstream) },
      }
    case 'initialize':
      return {
        protocolVersion: sessionRevisionFor(params['protocolVersion']),
        capabilities: promisedCapabilities(known),
        serverInfo: serverInfo(upstream),
      }
    case 'ping':
    case 'logging/setLevel':
      return {}
    case 'tools/list':
      return { ...cacheable, tools: [connectTool(upstream)] }
    case 'prompts/list':
      return { ...cacheable, prompts: [] }
    case 'resources/list':
      return { ...cacheable, resources: [] }
    case 'resources/templates/list':
      return { ...cacheable, resourceTemplates: [] }
    case undefined:
    default:
      return undefined
  }
}

/** The revision in which the gateway answers an `initialize`. */
export function sessionRevisionFor(asked: unknown): string {
  const isKnown = typeof asked === 'string' && sessionRevisions.includes(asked)
  return isKnown ? asked : newestSessionRevision
}

/**
 * A client asks only for what it was promised at the beginning, so what the upstream will have is promised before it can be
 * asked: as it last said to anyone, and `tools` always, for the one that connects.
 */
export function promisedCapabilities({ capabilities }: UpstreamServerRecord): JsonObject {
  const named = capabilities ?? { tools: {}, prompts: {}, resources: {} }
  const promised: Record<string, unknown> = { ...named, tools: named['tools'] ?? {} }
  for (const name of listNames) {
    const capability = promised[name]
    if (isObject(capability)) promised[name] = { ...capability, listChanged: true }
  }
  return promised
}

/** Capabilities that are lists, and so can change. */
export const listNames = ['tools', 'prompts', 'resources'] as const

/** The notice that a list has changed; `params` where the stream of one subscription says it. */
export function listChanged(name: string, params?: JsonObject): JsonObject {
  const method = `notifications/${name}/list_changed`
  return { jsonrpc: '2.0', method, ...(params === undefined ? {} : { params }) }
}

function serverInfo(upstream: Upstream): JsonObject {
  return { name: upstream.name, title: upstream.displayName, version: '1' }
}

function connectTool(upstream: Upstream): JsonObject {
  return {
    name: connectToolName(upstream),
    title: `Connect ${upstream.displayName}`,
    description: `Connects your ${upstream.displayName} account. Its own tools are here once that is done.`,
    inputSchema: { type: 'object', properties: {} },
  }
}
