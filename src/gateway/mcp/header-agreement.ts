import { headerOf } from '../forward.ts'
import { isObject, type McpMessage } from './json-rpc.ts'
import { metaKey } from './revisions.ts'

/** The revision that a message claims for itself in its `_meta`. */
export function claimedRevision(message: McpMessage): string | undefined {
  const meta = message.params['_meta']
  const claimed = isObject(meta) ? meta[metaKey.protocolVersion] : undefined
  return typeof claimed === 'string' ? claimed : undefined
}

/** What of the head and the body of a 2026-07-28 message disagree, as the name of the header; undefined where they agree. */
export function disagreement(
  headers: readonly string[],
  message: McpMessage,
): 'MCP-Protocol-Version' | 'Mcp-Method' | 'Mcp-Name' | undefined {
  // Whoever decides by the head and whoever runs the body must mean the same call.
  if (headerOf(headers, 'mcp-protocol-version') !== claimedRevision(message)) {
    return 'MCP-Protocol-Version'
  }
  if (headerOf(headers, 'mcp-method') !== message.method) return 'Mcp-Method'
  const name = nameOf(message)
  if (name === undefined) return undefined
  return plain(headerOf(headers, 'mcp-name')) === name ? undefined : 'Mcp-Name'
}

function nameOf({ method, params }: McpMessage): unknown {
  switch (method) {
    case 'tools/call':
    case 'prompts/get':
      return params['name']
    case 'resources/read':
      return params['uri']
    case undefined:
    default:
      return undefined
  }
}

/** Values that no header may hold are sent in Base64 between markers. */
function plain(value: string | undefined): string | undefined {
  const encoded = value === undefined ? undefined : /^=\?base64\?(.*)\?=$/.exec(value)?.[1]
  return encoded === undefined ? value : Buffer.from(encoded, 'base64').toString('utf8')
}
