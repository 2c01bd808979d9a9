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
  let early: NodeJS.Immediate | undefined
  let isGone = false
  const response = new Promise<Response>((resolve) => {
    outgoing.once('close', () => {
      clearImmediate(early)
      isGone = !outgoing.writableFinished
      if (isGone) gone()
      resolve(RESPONSE_ALREADY_SENT)
    })
  })
  return {
    response,
    answer: {
      begin(status, headers) {
        for (const [name, value] of Object.entries(withAdded(headers, added))) {
          outgoing.setHeader(name, value)
        }
        outgoing.writeHead(status)
        // A stream may have nothing to say for long, and its reader waits for the head. What comes in this turn goes with it: one
        // packet instead of two, a tenth of what a small call costs.
        early = setImmediate(() => outgoing.flushHeaders())
      },
      write(chunk) {
        clearImmediate(early)
        return outgoing.write(chunk)
      },
      end() {
        clearImmediate(early)
        outgoing.end()
      },
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
  let isOver = false
  let isGone = false
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
    cancel() {
      isOver = true
      isGone = true
      gone()
    },
  })
  return {
    response,
    answer: {
      begin(status, received) {
        const headers = new Headers()
        for (const [name, value] of Object.entries(withAdded(received, added))) {
          for (const one of typeof value === 'string' ? [value] : value) headers.append(name, one)
        }
        const empty = status === 204 || status === 205 || status === 304
        respond(new Response(empty ? null : body, { status, headers }))
      },
      // A stream that is over throws at whoever still writes to it.
      write(chunk) {
        if (isOver) return true
        controller?.enqueue(chunk)
        return (controller?.desiredSize ?? 0) > 0
      },
      end() {
        if (!isOver) controller?.close()
        isOver = true
      },
      cut() {
        if (!isOver) controller?.error(new Error('the upstream went away'))
        isOver = true
      },
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

type AnswerHeaders = Readonly<Record<string, string | readonly string[]>>

/** Ours stand: an upstream's own `X-Request-Id` would name no record of ours. What an answer varies by is both together. */
function withAdded(headers: AnswerHeaders, added: Readonly<Record<string, string>>): AnswerHeaders {
  const vary = [headers['vary'] ?? [], added['vary'] ?? []].flat().join(', ')
  return { ...headers, ...added, ...(vary === '' ? {} : { vary }) }
}
