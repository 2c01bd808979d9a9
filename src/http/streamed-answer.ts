import type { ServerResponse } from 'node:http'
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response'
import type { StreamedAnswer } from '../core/ports/gateway.ts'

/** An answer written as it comes, and the `Response` that a handler returns for it. */
export type StreamingAnswer = {
  readonly answer: StreamedAnswer
  /** Resolves as soon as there is something to return; never where nothing ever begins. */
  readonly response: Promise<Response>
}

/** Straight to the socket: through a web stream each call costs twice as much (measured, docs/performance.md). */
export function answerOnSocket(
  outgoing: ServerResponse,
  added: Readonly<Record<string, string>>,
): StreamingAnswer {
  let resume = () => {}
  let gone = () => {}
  outgoing.on('drain', () => resume())
  let isGone = false
  const response = new Promise<Response>((resolve) => {
    outgoing.once('close', () => {
      isGone = !outgoing.writableFinished
      if (isGone) gone()
      resolve(RESPONSE_ALREADY_SENT)
    })
  })
  return {
    response,
    answer: {
      begin(status, headers) {
        for (const [name, value] of Object.entries(added)) outgoing.setHeader(name, value)
        for (const [name, value] of Object.entries(headers)) outgoing.setHeader(name, value)
        outgoing.writeHead(status)
        // A stream may have nothing to say for long, and its reader waits for the head.
        outgoing.flushHeaders()
      },
      write: (chunk) => outgoing.write(chunk),
      end: () => outgoing.end(),
      cut: () => outgoing.destroy(),
      onDrain(listener) {
        resume = listener
      },
      onGone(listener) {
        gone = listener
        if (isGone) listener()
      },
    },
  }
}

/** For an embedder that mounts the application without our server. */
export function answerAsResponse(added: Readonly<Record<string, string>>): StreamingAnswer {
  let resume = () => {}
  let gone = () => {}
  let respond: (response: Response) => void
  let controller: ReadableStreamDefaultController<Uint8Array> | undefined
  const response = new Promise<Response>((resolve) => {
    respond = resolve
  })
  const body = new ReadableStream<Uint8Array>({
    start(started) {
      controller = started
    },
    pull: () => resume(),
    cancel: () => gone(),
  })
  return {
    response,
    answer: {
      begin(status, received) {
        const headers = new Headers(added)
        for (const [name, value] of Object.entries(received)) {
          headers.delete(name)
          for (const one of typeof value === 'string' ? [value] : value) headers.append(name, one)
        }
        const empty = status === 204 || status === 205 || status === 304
        respond(new Response(empty ? null : body, { status, headers }))
      },
      write(chunk) {
        controller?.enqueue(chunk)
        return (controller?.desiredSize ?? 0) > 0
      },
      end: () => controller?.close(),
      cut: () => controller?.error(new Error('the upstream went away')),
      onDrain(listener) {
        resume = listener
      },
      onGone(listener) {
        gone = listener
      },
    },
  }
}
