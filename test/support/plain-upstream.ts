import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

/** A request as an upstream got it. */
export type UpstreamHit = {
  readonly method: string
  readonly target: string
  /** As sent: names and values by turns. */
  readonly rawHeaders: readonly string[]
  readonly headers: IncomingMessage['headers']
  readonly body: Buffer
}

export type PlainUpstream = {
  readonly url: string
  readonly hits: readonly UpstreamHit[]
  /** How many exchanges were broken off by the other side. */
  readonly aborted: () => number
  /** What happens from here on, before a body is read; by default an echo of the body. */
  answerWith(
    answer: ((request: IncomingMessage, response: ServerResponse) => void) | undefined,
  ): void
  readonly stop: () => Promise<void>
}

/** An HTTP server that writes down exactly what reaches it. */
export async function startPlainUpstream(): Promise<PlainUpstream> {
  const hits: UpstreamHit[] = []
  let aborted = 0
  let answer: ((request: IncomingMessage, response: ServerResponse) => void) | undefined

  const server = createServer((request, response) => {
    response.on('close', () => {
      if (!response.writableFinished) aborted += 1
    })
    void readAll(request).then((body) => {
      const { method = '', url = '', rawHeaders, headers } = request
      hits.push({ method, target: url, rawHeaders, headers, body })
      if (answer !== undefined) return answer(request, response)
      response.writeHead(200, { 'content-type': 'application/octet-stream' }).end(body)
    })
  })
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve)
  })
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    hits,
    aborted: () => aborted,
    answerWith(next) {
      answer = next
    },
    async stop() {
      server.closeAllConnections()
      await new Promise((resolve) => {
        server.close(resolve)
      })
    },
  }
}

async function readAll(request: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = []
  try {
    for await (const chunk of request) chunks.push(chunk as Buffer)
  } catch {
    // Broken off by the sender: what came is what there is.
  }
  return Buffer.concat(chunks)
}
