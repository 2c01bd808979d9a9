import type { Era } from './revisions.ts'

/** Whatever a client may send: nothing of it is believed before it was looked at. */
export type JsonObject = { readonly [name: string]: unknown }

export type RequestId = string | number

/** A JSON-RPC 2.0 message. `id` without `method` is an answer to a request of the server's. */
export type McpMessage = {
  readonly id: RequestId | undefined
  readonly method: string | undefined
  /** Of a large message only what the gateway itself reads. */
  readonly params: JsonObject
  /** As it came. Of a large message it is read anew each time. */
  readonly source: JsonObject
}

/** Several, or one; a batch counts only where there are several or it is written as one. */
export type ParsedBody = { readonly messages: readonly McpMessage[]; readonly isBatch: boolean }

/** JSON-RPC 2.0, and the MCP specification's own (2026-07-28, "Error codes"). */
export const errorCode = {
  parseError: -32700,
  invalidRequest: -32600,
  methodNotFound: -32601,
  invalidParams: -32602,
  headerMismatch: -32020,
  unsupportedRevision: -32022,
  urlElicitationRequired: -32042,
  /** Ours, outside of what the specifications keep for themselves. */
  connectRequired: -31403,
} as const

export function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** The messages of a body; undefined where it is no JSON-RPC. */
export function parseBody(body: Uint8Array | undefined): ParsedBody | undefined {
  const parsed = parseJson(body ?? new Uint8Array())
  const list: readonly unknown[] = Array.isArray(parsed) ? parsed : [parsed]
  const messages = list.flatMap((one) => messageOf(one) ?? [])
  if (messages.length === 0 || messages.length !== list.length) return undefined
  return { messages, isBatch: Array.isArray(parsed) }
}

/** Undefined where it is none. */
export function parseJson({ buffer, byteOffset, byteLength }: Uint8Array): unknown {
  try {
    // Over the same bytes: a copy is a good part of what a small call costs.
    return JSON.parse(Buffer.from(buffer, byteOffset, byteLength).toString('utf8'))
  } catch {
    return undefined
  }
}

function messageOf(value: unknown): McpMessage | undefined {
  if (!isObject(value) || value['jsonrpc'] !== '2.0') return undefined
  const { id, method, params } = value
  if (method !== undefined && typeof method !== 'string') return undefined
  if (id !== undefined && typeof id !== 'string' && typeof id !== 'number') return undefined
  if (id === undefined && method === undefined) return undefined
  return { id, method, params: isObject(params) ? params : {}, source: value }
}

/** Whether somebody waits for an answer to it. */
export function isRequest(message: McpMessage): message is McpMessage & {
  readonly id: RequestId
  readonly method: string
} {
  return message.id !== undefined && message.method !== undefined
}

/** A result says whether it is whole in 2026-07-28, and must not say it before. */
export function resultOf(id: RequestId | undefined, era: Era, result: JsonObject): JsonObject {
  const type = era === 'modern' ? { resultType: 'complete' } : {}
  return { jsonrpc: '2.0', id: id ?? null, result: { ...type, ...result } }
}

export function errorOf(
  id: RequestId | undefined,
  code: number,
  message: string,
  data?: JsonObject,
): JsonObject {
  return {
    jsonrpc: '2.0',
    id: id ?? null,
    error: { code, message, ...(data === undefined ? {} : { data }) },
  }
}
