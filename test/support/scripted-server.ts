import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

/** What reached the server. */
export type ReceivedRequest = {
  readonly method: string
  readonly path: string
  readonly headers: IncomingMessage['headers']
  readonly body: string
  readonly form: URLSearchParams
}

export type Script = (request: ReceivedRequest, response: ServerResponse) => void

/** A server on a loopback port that records what it gets and answers as it is told. */
export type ScriptedServer = {
  readonly origin: string
  readonly port: number
  readonly requests: ReceivedRequest[]
  /** Connections, also those that sent nothing. */
  readonly connections: () => number
  /** Sets what every later request is answered with. */
  script(script: Script): void
  close(): Promise<void>
}

export async function startScriptedServer(script: Script = json({})): Promise<ScriptedServer> {
  const requests: ReceivedRequest[] = []
  let current = script
  let connections = 0
  const server = createServer((incoming, response) => {
    const chunks: Buffer[] = []
    incoming.on('data', (chunk: Buffer) => chunks.push(chunk))
    incoming.on('end', () => {
      const body = Buffer.concat(chunks).toString()
      const request = {
        method: incoming.method ?? '',
        path: incoming.url ?? '',
        headers: incoming.headers,
        body,
        form: new URLSearchParams(body),
      }
      requests.push(request)
      current(request, response)
    })
  })
  server.on('connection', () => {
    connections += 1
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  return {
    origin: `http://127.0.0.1:${port}`,
    port,
    requests,
    connections: () => connections,
    script(next) {
      current = next
    },
    close() {
      server.closeAllConnections()
      return new Promise((resolve) => {
        server.close(() => resolve())
      })
    },
  }
}

/** A form's fields, each of which must be there once. */
export function fieldsOf(form: URLSearchParams | undefined): Readonly<Record<string, string>> {
  const fields = Object.fromEntries(form ?? [])
  if (form?.size !== Object.keys(fields).length) throw new Error('a field came twice')
  return fields
}

/** Answers with JSON. */
export function json(
  body: unknown,
  status = 200,
  headers: Readonly<Record<string, string>> = {},
): Script {
  return text(JSON.stringify(body), 'application/json', status, headers)
}

export function text(
  body: string,
  contentType: string,
  status = 200,
  headers: Readonly<Record<string, string>> = {},
): Script {
  return (_request, response) => {
    response.writeHead(status, { 'content-type': contentType, ...headers }).end(body)
  }
}

/** Picks the script by path; everything else is 404. */
export function byPath(scripts: Readonly<Record<string, Script>>): Script {
  return (request, response) => {
    const script = scripts[request.path.split('?', 1)[0] ?? '']
    if (script === undefined) response.writeHead(404).end()
    else script(request, response)
  }
}
