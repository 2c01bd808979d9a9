import type { StreamedAnswer } from '../../core/ports/gateway.ts'
import type { JsonObject } from './json-rpc.ts'

/** Answers with one JSON document. */
export function sendJson(
  answer: StreamedAnswer,
  status: number,
  body: JsonObject,
  headers: Readonly<Record<string, string>> = {},
): void {
  answer.begin(status, { ...noStore, 'content-type': 'application/json', ...headers })
  answer.write(Buffer.from(JSON.stringify(body)))
  answer.end()
}

/** 202 without a body: a notification or an answer was taken. */
export function sendAccepted(answer: StreamedAnswer): void {
  answer.begin(202, noStore)
  answer.end()
}

/** Begins a stream of events. */
export function beginEvents(
  answer: StreamedAnswer,
  headers: Readonly<Record<string, string>> = {},
): void {
  answer.begin(200, {
    'cache-control': 'no-cache, no-transform',
    'content-type': 'text/event-stream',
    'x-accel-buffering': 'no',
    ...headers,
  })
}

export function sendEvent(answer: StreamedAnswer, message: JsonObject): void {
  answer.write(Buffer.from(`event: message\ndata: ${JSON.stringify(message)}\n\n`))
}

const noStore = { 'cache-control': 'no-store' }
