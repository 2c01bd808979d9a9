import type { IncomingMessage, ServerResponse } from 'node:http'
import type { GatewayDoors } from './gateway-doors.ts'
import { answerOnSocket } from './streamed-answer.ts'

/** How long an answered caller that still sends is read on, so that it comes to read its answer. */
const lastWordsMs = 500

/**
 * Takes a request from a socket through the gateway's doors, past the application: what a framework does for a call costs as
 * much as what the gateway does (docs/performance.md). Resolves when the call is over; never rejects.
 */
export async function enterFromSocket(
  doors: GatewayDoors,
  incoming: IncomingMessage,
  outgoing: ServerResponse,
): Promise<void> {
  const { method = '', url: target = '', headers, rawHeaders } = incoming
  const sendsBody =
    headers['transfer-encoding'] !== undefined || (headers['content-length'] ?? '0') !== '0'
  const refusal = await doors.enter(
    { method, target, headers, rawHeaders, body: sendsBody ? incoming : undefined },
    (added) => answerOnSocket(outgoing, added),
  )
  if (refusal !== undefined) await refuse(outgoing, refusal)
  const isUnread = sendsBody && !incoming.readableEnded
  if (isUnread || !incoming.complete) letFinish(incoming, outgoing)
}

async function refuse(outgoing: ServerResponse, refusal: Response): Promise<void> {
  const body = await refusal.text()
  // What has begun meanwhile is not followed by the text of another answer.
  if (outgoing.headersSent) return void outgoing.destroy()
  for (const [name, value] of refusal.headers) outgoing.setHeader(name, value)
  if (body !== '') outgoing.setHeader('content-length', Buffer.byteLength(body))
  outgoing.writeHead(refusal.status).end(body)
}

/** Reads a body that nobody needs any more: until it is read, its sender may not look for the answer, nor send anything else. */
function letFinish(incoming: IncomingMessage, outgoing: ServerResponse): void {
  // Whoever began to read it would keep it, or stop in the middle.
  incoming.removeAllListeners('data').removeAllListeners('readable').resume()
  if (incoming.complete) return
  const hangUp = () => {
    setTimeout(() => incoming.complete || incoming.destroy(), lastWordsMs).unref()
  }
  if (outgoing.closed) hangUp()
  else outgoing.once('close', hangUp)
}
