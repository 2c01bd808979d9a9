import { connect, type Socket } from 'node:net'

/** What a slice of load came to. */
export type Slice = {
  readonly requestsPerSecond: number
  readonly latenciesMs: Float64Array
  readonly failures: number
}

/**
 * Keeps `connections` keep-alive connections busy with prepared requests for `ms`. Requests are bytes made beforehand, so the
 * generator costs little of the two cores that it shares with the server.
 */
export async function load(options: {
  readonly port: number
  readonly connections: number
  readonly ms: number
  readonly requests: readonly Buffer[]
}): Promise<Slice> {
  const latencies: number[] = []
  let failures = 0
  let next = 0
  const startMs = performance.now()
  const endMs = startMs + options.ms
  const workers = Array.from({ length: options.connections }, () => worker())
  await Promise.all(workers)
  const seconds = (performance.now() - startMs) / 1000
  return {
    requestsPerSecond: latencies.length / seconds,
    latenciesMs: Float64Array.from(latencies).sort(),
    failures,
  }

  function worker(): Promise<void> {
    return new Promise((resolve, reject) => {
      const socket: Socket = connect({ port: options.port, host: '127.0.0.1', noDelay: true })
      let answer: Buffer | undefined
      let answerBytes = 0
      let receivedBytes = 0
      let sentMs = 0
      const send = () => {
        if (performance.now() >= endMs) {
          socket.end()
          resolve()
          return
        }
        const request = options.requests[next++ % options.requests.length]
        sentMs = performance.now()
        if (request !== undefined) socket.write(request)
      }
      const done = () => {
        latencies.push(performance.now() - sentMs)
        receivedBytes = 0
        send()
      }
      socket.on('connect', send)
      socket.on('error', reject)
      socket.on('data', (chunk: Buffer) => {
        if (receivedBytes === 0 && !isGood(chunk)) failures += 1
        receivedBytes += chunk.length
        // The first answer is read to learn how long they are; from then on bytes are counted, which costs next to nothing.
        if (answerBytes === 0) {
          answer = answer === undefined ? chunk : Buffer.concat([answer, chunk])
          answerBytes = lengthOf(answer)
        }
        if (answerBytes === 0 || receivedBytes < answerBytes) return
        if (receivedBytes === answerBytes) done()
        else reject(new Error('answers are not all of one length'))
      })
    })
  }
}

/** `HTTP/1.1 200` */
function isGood(beginning: Buffer): boolean {
  return beginning[9] === 0x32 && beginning[10] === 0x30 && beginning[11] === 0x30
}

/** The whole length of an answer, 0 while its head is not there. */
function lengthOf(answer: Buffer): number {
  const head = answer.indexOf('\r\n\r\n')
  if (head < 0) return 0
  const length = /content-length: (\d+)/i.exec(answer.toString('latin1', 0, head))?.[1]
  if (length === undefined) throw new Error('the answer has no content-length')
  return head + 4 + Number(length)
}

export function postRequest(path: string, headers: Record<string, string>, body: string): Buffer {
  const lines = Object.entries({
    host: '127.0.0.1',
    'content-type': 'application/json',
    'content-length': String(Buffer.byteLength(body)),
    ...headers,
  }).map(([name, value]) => `${name}: ${value}\r\n`)
  return Buffer.from(`POST ${path} HTTP/1.1\r\n${lines.join('')}\r\n${body}`)
}

export function quantile(sorted: Float64Array, q: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))] ?? Number.NaN
}

export function median(values: readonly number[]): number {
  return quantile(Float64Array.from(values).sort(), 0.5)
}
