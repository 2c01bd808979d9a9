import { Readable } from 'node:stream'
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response'
import type { StreamedAnswer } from '../../core/ports/gateway.ts'
import type { GatewayDoors } from '../gateway-doors.ts'
import { enterFromSocket } from '../gateway-socket.ts'
import type { HttpApp, HttpContext } from '../http-env.ts'
import { answerAsResponse } from '../streamed-answer.ts'

/**
 * The gateway for whoever mounts the application without our server, which leads what is the gateway's there by itself, and for
 * targets that only a resolved path leads here.
 */
export function addGatewayRoutes(app: HttpApp, doors: GatewayDoors): void {
  async function carry(c: HttpContext): Promise<Response> {
    const { incoming, outgoing } = c.env ?? {}
    // HTTP/2 answers are none that our server gives.
    if (incoming !== undefined && outgoing !== undefined && 'assignSocket' in outgoing) {
      await enterFromSocket(doors, incoming, outgoing)
      return RESPONSE_ALREADY_SENT
    }
    return enterFromFetch(doors, c.req.raw)
  }

  app.all('/proxy/:upstream', carry)
  app.all('/proxy/:upstream/*', carry)
  app.all('/mcp/:upstream', carry)
}

async function enterFromFetch(doors: GatewayDoors, request: Request): Promise<Response> {
  const { pathname, search } = new URL(request.url)
  const headers = [...request.headers]
  const body = request.body === null ? undefined : Readable.fromWeb(request.body)
  // One that breaks off when nobody reads it any more is nobody's fault.
  body?.on('error', () => {})
  return new Promise((resolve) => {
    let begun: StreamedAnswer | undefined
    const over = doors.enter(
      {
        method: request.method,
        target: `${pathname}${search}`,
        headers: Object.fromEntries(headers),
        rawHeaders: headers.flat(),
        body,
      },
      (added) => {
        begun = answerAsResponse(added, request.signal, resolve)
        return begun
      },
    )
    void over.then((refusal) => {
      // Where an answer has begun it stands; where none ever will, nobody waits for it any more.
      resolve(refusal ?? new Response(null, { status: 502 }))
      if (refusal !== undefined) begun?.cut()
    })
  })
}
