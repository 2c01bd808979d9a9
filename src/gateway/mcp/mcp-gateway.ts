import { BrokerError } from '../../core/errors.ts'
import type { GatewayCall } from '../../core/ports/gateway.ts'
import { type GatewayBody, mostBytes, readBody } from '../body.ts'
import { announcedBytes } from '../forward.ts'
import { sendJson } from './answers.ts'
import { claimedRevision, isAmbiguous } from './header-agreement.ts'
import { createBodyRoom } from './body-room.ts'
import { errorCode, errorOf, type McpMessage, parseBody, type ParsedBody } from './json-rpc.ts'
import { isKeepable } from './keepable.ts'
import { createValueCount, parseLargeBody, smallBytes } from './large-message.ts'
import { modernRevision, sessionRevisions } from './revisions.ts'
import { hasRepeatedMember } from './repeated-members.ts'
import type { SessionEraMcp } from './session-era.ts'

/** The one address of an MCP server: tells the two eras of the protocol apart, and goes no further. */
export function createMcpGateway(ports: {
  readonly modern: (call: GatewayCall, body: GatewayBody, message: McpMessage) => Promise<void>
  readonly sessionEra: SessionEraMcp
}): (call: GatewayCall) => Promise<void> {
  const { modern, sessionEra } = ports
  const bodyRoom = createBodyRoom()

  /** Reads it to its end: nothing can be said of a message before. */
  async function post(call: GatewayCall): Promise<void> {
    const body = await readBody(call.body, announcedBytes(call), smallBytes)
    if (body.kind === 'whole') return carry(call, body, parseBody(body.content))
    const room = await bodyRoom.take(call.person, announcedBytes(call) ?? mostBytes)
    try {
      const content = await readLarge(body.content)
      room.keep(content.length)
      await carry(call, { kind: 'whole', content }, parseLargeBody(content))
    } finally {
      room.leave()
    }
  }

  async function carry(
    call: GatewayCall,
    body: GatewayBody,
    parsed: ParsedBody | undefined,
  ): Promise<void> {
    const { answer } = call
    const [first] = parsed?.messages ?? []
    if (parsed === undefined || first === undefined) {
      return sendJson(answer, 400, errorOf(undefined, errorCode.parseError, 'This is no JSON-RPC.'))
    }
    if (body.kind === 'whole' && body.content !== undefined && hasRepeatedMember(body.content)) {
      const text = 'A member came twice.'
      return sendJson(answer, 400, errorOf(first.id, errorCode.invalidRequest, text))
    }
    const named = call.header('mcp-protocol-version')
    const claimed = claimedRevision(first)
    if (claimed === modernRevision || named === modernRevision) {
      if (!parsed.isBatch) return modern(call, body, first)
      const text = 'This revision has no batches.'
      return sendJson(answer, 400, errorOf(undefined, errorCode.invalidRequest, text))
    }
    const unknown = [claimed, named].find(
      (revision) => revision !== undefined && !sessionRevisions.includes(revision),
    )
    if (unknown !== undefined) return refuseRevision(call, first, unknown)
    if (first.method === 'initialize' && !parsed.isBatch) {
      // What it says is kept in a row for as long as the session.
      if (isLarge(body)) throw new BrokerError('payload_too_large')
      if (!isKeepable(first.params)) {
        const text = 'Its parameters cannot be kept.'
        return sendJson(answer, 400, errorOf(first.id, errorCode.invalidParams, text))
      }
    }
    return sessionEra.post(call, body, parsed)
  }

  return async (call) => {
    if (isAmbiguous(call.headers)) {
      const text = 'A header came twice.'
      return sendJson(call.answer, 400, errorOf(undefined, errorCode.headerMismatch, text))
    }
    const isModern = call.header('mcp-protocol-version') === modernRevision
    if (call.method === 'POST') return post(call)
    if ((call.method === 'GET' || call.method === 'DELETE') && !isModern) {
      const named = call.header('mcp-protocol-version')
      if (named !== undefined && !sessionRevisions.includes(named)) {
        return refuseRevision(call, undefined, named)
      }
      return call.method === 'GET' ? sessionEra.get(call) : sessionEra.remove(call)
    }
    const allowedMethods = isModern ? ['POST'] : ['GET', 'POST', 'DELETE']
    throw new BrokerError('method_not_allowed', { allowedMethods })
  }
}

function isLarge({ kind, content }: GatewayBody): boolean {
  return kind === 'whole' && content !== undefined && content.length > smallBytes
}

/** @throws BrokerError payload_too_large, by its bytes or by what it holds */
async function readLarge(chunks: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  const read: Uint8Array[] = []
  const values = createValueCount()
  let isReadable = true
  for await (const chunk of chunks) {
    isReadable &&= values.add(chunk)
    // To its end all the same: who is still sending may not look for an answer.
    if (isReadable) read.push(chunk)
  }
  if (!isReadable) throw new BrokerError('payload_too_large')
  return Buffer.concat(read)
}

function refuseRevision(
  { answer }: GatewayCall,
  message: McpMessage | undefined,
  requested: string,
): void {
  const data = { supported: [modernRevision, ...sessionRevisions], requested }
  const text = 'That revision is not known here.'
  sendJson(answer, 400, errorOf(message?.id, errorCode.unsupportedRevision, text, data))
}
