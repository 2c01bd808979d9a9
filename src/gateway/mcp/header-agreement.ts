import type { GatewayCall } from '../../core/ports/gateway.ts'
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
  { header }: GatewayCall,
  message: McpMessage,
): 'MCP-Protocol-Version' | 'Mcp-Method' | 'Mcp-Name' | undefined {
  // Whoever decides by the head and whoever runs the body must mean the same call.
  if (header('mcp-protocol-version') !== claimedRevision(message)) {
    return 'MCP-Protocol-Version'
  }
  if (header('mcp-method') !== message.method) return 'Mcp-Method'
  const member = nameMembers[message.method ?? '']
  if (member === undefined) return undefined
  return plain(header('mcp-name')) === message.params[member] ? undefined : 'Mcp-Name'
}

/** Where the name stands that the head repeats. */
const nameMembers: Readonly<Record<string, string>> = {
  'prompts/get': 'name',
  'resources/read': 'uri',
  'tools/call': 'name',
}

const single: ReadonlySet<string> = new Set([
  'mcp-method',
  'mcp-name',
  'mcp-protocol-version',
  'mcp-session-id',
])

/** Whether a header that decides came more than once: this gateway and the upstream could read different ones. */
export function isAmbiguous(headers: readonly string[]): boolean {
  let seen = ''
  for (let index = 0; index < headers.length; index += 2) {
    const name = headers[index]?.toLowerCase() ?? ''
    if (!single.has(name)) continue
    if (seen.includes(`${name} `)) return true
    seen += `${name} `
  }
  return false
}

/** Values that no header may hold are sent in Base64 between markers. */
function plain(value: string | undefined): string | undefined {
  const encoded = value === undefined ? undefined : /^=\?base64\?(.*)\?=$/.exec(value)?.[1]
  return encoded === undefined ? value : Buffer.from(encoded, 'base64').toString('utf8')
}
