import type { StreamedAnswer } from '../../core/ports/gateway.ts'
import { BrokerError } from '../../core/errors.ts'
import { createEventScan } from './event-scan.ts'
import { isObject, type JsonObject, parseBody, type RequestId } from './json-rpc.ts'

/** The answer to a question of the gateway's own: nobody reads it but the gateway. */
export type CollectedAnswer = {
  readonly status: number
  readonly headers: Readonly<Record<string, string | readonly string[]>>
  readonly body: Buffer
}

const mostBytes = 4 * 1024 * 1024

/**
 * `ask` is given an answer to write to; resolves with all of it, or with a stream of events as soon as the answer to `id` is in
 * it: a server should end the stream then, and need not. @throws BrokerError what `ask` throws, upstream_unavailable
 */
export async function collect(
  ask: (answer: StreamedAnswer) => Promise<unknown>,
  id?: RequestId,
): Promise<CollectedAnswer> {
  const chunks: Uint8Array[] = []
  let head: Pick<CollectedAnswer, 'status' | 'headers'> | undefined
  let bytes = 0
  let isWhole = false
  let leave = () => {}
  const events = createEventScan()
  /** What came since the last event that was looked at. */
  let latest: Uint8Array[] = []

  function isAnswered(
    { status, headers }: Pick<CollectedAnswer, 'status' | 'headers'>,
    chunk: Uint8Array,
    to: RequestId,
  ): boolean {
    const length = events.scan(chunk)
    if (length === 0) {
      latest.push(chunk)
      return false
    }
    const body = Buffer.concat([...latest, chunk.subarray(0, length)])
    latest = [chunk.subarray(length)]
    return answerTo(to, { status, headers, body }) !== undefined
  }

  await ask({
    begin(status, headers) {
      head = { status, headers }
    },
    write(chunk) {
      bytes += chunk.length
      if (bytes > mostBytes) {
        leave()
        return true
      }
      chunks.push(chunk)
      if (head !== undefined && id !== undefined && isStream(head) && isAnswered(head, chunk, id)) {
        isWhole = true
        leave()
      }
      return true
    },
    end() {
      isWhole = true
    },
    cut() {},
    onDrain() {},
    onGone(gone) {
      leave = gone
    },
  })
  if (head === undefined || !isWhole) throw new BrokerError('upstream_unavailable')
  return { ...head, body: Buffer.concat(chunks) }
}

/** Passes an answer on as it comes; `whole` gets a copy of one that comes to its end and is not too long. */
export function copied(
  answer: StreamedAnswer,
  whole: (copy: CollectedAnswer) => void,
): StreamedAnswer {
  const chunks: Uint8Array[] = []
  let head: Pick<CollectedAnswer, 'status' | 'headers'> | undefined
  let bytes = 0
  return {
    ...answer,
    begin(status, headers) {
      head = { status, headers }
      answer.begin(status, headers)
    },
    write(chunk) {
      bytes += chunk.length
      if (bytes <= mostBytes) chunks.push(chunk)
      else chunks.length = 0
      return answer.write(chunk)
    },
    end() {
      answer.end()
      if (head !== undefined && bytes <= mostBytes) whole({ ...head, body: Buffer.concat(chunks) })
    },
  }
}

/** The JSON-RPC answer in it with that id, whether it came as JSON or as a stream of events. */
export function answerTo(
  id: RequestId,
  { headers, body }: CollectedAnswer,
): JsonObject | undefined {
  const texts = isStream({ headers }) ? eventsIn(body.toString('utf8')) : [body.toString('utf8')]
  const messages = texts.flatMap((text) => parseBody(Buffer.from(text))?.messages ?? [])
  return messages.find((message) => message.id === id && message.method === undefined)?.source
}

function isStream({ headers }: Pick<CollectedAnswer, 'headers'>): boolean {
  return String(headers['content-type'] ?? '').startsWith('text/event-stream')
}

/** The data of each event (HTML standard, "Server-sent events"). */
function eventsIn(stream: string): readonly string[] {
  return stream.split(/\r?\n\r?\n/).flatMap((event) => {
    const lines = event.split(/\r?\n/).filter((line) => line.startsWith('data:'))
    return lines.length === 0 ? [] : [lines.map((line) => line.slice(5).trimStart()).join('\n')]
  })
}

export function resultIn(answer: JsonObject | undefined): JsonObject | undefined {
  const result = answer?.['result']
  return isObject(result) ? result : undefined
}
