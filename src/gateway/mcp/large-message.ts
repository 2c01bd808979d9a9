import {
  isObject,
  type JsonObject,
  type McpMessage,
  parseBody,
  type ParsedBody,
} from './json-rpc.ts'
import { promptName } from './request-state.ts'

/** A body up to this size is a message as it stands. */
export const smallBytes = 64 * 1024

/**
 * Values that a body may hold. Each costs many times its bytes once it is parsed: 64 MiB of `{},` would keep a process from
 * everything else for half a minute, and fill its memory.
 */
const mostValues = 500_000
const mostMessages = 1000

/** Counts the values of a JSON text as it comes, without making any of them. */
export function createValueCount(): {
  /** False where there are too many. */
  readonly add: (chunk: Uint8Array) => boolean
} {
  let values = 0
  let isInString = false
  let isEscaped = false
  return {
    add(chunk) {
      for (let at = 0; at < chunk.length; at += 1) {
        const byte = chunk[at]
        if (isEscaped) isEscaped = false
        else if (byte === quote) isInString = !isInString
        else if (isInString) isEscaped = byte === backslash
        else if (byte === comma || byte === bracket || byte === brace) values += 1
      }
      return values <= mostValues
    },
  }
}

const quote = 0x22
const backslash = 0x5c
const comma = 0x2c
const bracket = 0x5b
const brace = 0x7b

/**
 * The messages of a large body, with what the gateway itself reads of them: the rest would lie in memory for as long as the call
 * lasts, as often as calls are open. Undefined where it is no JSON-RPC.
 */
export function parseLargeBody(body: Uint8Array): ParsedBody | undefined {
  const parsed = parseBody(body)
  if (parsed === undefined || parsed.messages.length > mostMessages) return undefined
  if (parsed.messages.some(({ id, method }) => !isShort(id) || !isShort(method))) return undefined
  const messages = parsed.messages.map((message, index) => lightened(message, body, index))
  return { messages, isBatch: parsed.isBatch }
}

function lightened({ id, method, params }: McpMessage, body: Uint8Array, at: number): McpMessage {
  return {
    id,
    method,
    params: readHere(params),
    get source() {
      return parseBody(body)?.messages[at]?.source ?? {}
    },
  }
}

/** Null in the place of what is there and too large to be what it should be: it equals nothing that a head can say. */
function readHere(params: JsonObject): JsonObject {
  const read: Record<string, unknown> = {}
  for (const name of ['name', 'uri', 'protocolVersion', '_meta', 'notifications']) {
    if (params[name] !== undefined) read[name] = isSmall(params[name]) ? params[name] : null
  }
  const { requestState: state, inputResponses: responses } = params
  // One that is written like ours must be known as such, however long it is; ours are short.
  if (typeof state === 'string') read['requestState'] = copyOf(state.slice(0, mostCharacters))
  const own = isObject(responses) ? responses[promptName] : undefined
  if (isSmall(own)) read['inputResponses'] = { [promptName]: own }
  return read
}

const mostCharacters = 4096

function isShort(value: unknown): boolean {
  return typeof value !== 'string' || value.length <= mostCharacters
}

/** Whether it takes little memory. Its text is made only of what can be short. */
function isSmall(value: unknown): boolean {
  let left = 1000
  function fits(one: unknown): boolean {
    left -= 1
    if (left < 0 || !isShort(one)) return false
    if (typeof one !== 'object' || one === null) return true
    return Object.entries(one).every(([name, member]) => isShort(name) && fits(member))
  }
  return fits(value)
}

/** A part of a text keeps the whole of it in memory. */
function copyOf(text: string): string {
  return Buffer.from(text, 'utf8').toString('utf8')
}
