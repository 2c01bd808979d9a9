import {
  type IncomingHttpHeaders,
  type IncomingMessage,
  request as sendRequest,
  type ServerResponse,
} from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { bindLoopback, type LoopbackServer } from '../../src/demo/loopback-server.ts'

/** What reached the front, raw. */
export type FrontRequest = {
  readonly method: string
  /** Path and query. */
  readonly target: string
  readonly path: string
  readonly headers: IncomingHttpHeaders
  /** Names and values in the order and case that they came in. */
  readonly rawHeaders: readonly string[]
  readonly body: Buffer
}

export type FrontAnswer = {
  readonly status: number
  readonly headers: Readonly<Record<string, string | string[]>>
  readonly body: Buffer
}

/**
 * What goes wrong with a request.
 *
 * - `delay`: the server gets it and answers, later.
 * - `hold`: the server gets it and answers once that is settled; `worked`: it does the work at once, its answer comes then.
 * - `answer`: the server never sees it.
 * - `hang`: the server does the work; nothing is answered until the front stops. `afterHeaders`: but for the status line.
 * - `lose`: the server does the work; the connection ends without a byte.
 * - `cut`: the connection ends after so many bytes of the body.
 * - `rewrite`: the server's answer, changed.
 */
export type Fault =
  | { readonly kind: 'delay'; readonly ms: number }
  | { readonly kind: 'hold'; readonly until: Promise<unknown>; readonly worked: boolean }
  | {
      readonly kind: 'answer'
      readonly status: number
      readonly headers?: Readonly<Record<string, string>>
      readonly body?: string
    }
  | { readonly kind: 'hang'; readonly afterHeaders?: boolean }
  | { readonly kind: 'lose' }
  | { readonly kind: 'cut'; readonly afterBytes: number }
  | { readonly kind: 'rewrite'; readonly change: (answer: FrontAnswer) => FrontAnswer }

/** Stands before a real server, records what comes and breaks what it is told to break. */
export type FaultyFront = {
  readonly url: string
  /** The server behind it, to be served on. */
  readonly behind: LoopbackServer
  /** Breaks the requests to a path, all of them or the next so many. Gives what ends it. The newest fault wins. */
  readonly fail: (path: string | RegExp, fault: Fault, times?: number) => () => void
  /** Everything that came, oldest first; of one path where named. */
  readonly received: (path?: string) => readonly FrontRequest[]
  readonly stop: () => Promise<void>
}

type ArmedFault = { readonly path: string | RegExp; readonly fault: Fault; times: number }

export async function startFaultyFront(
  options: { readonly host?: string } = {},
): Promise<FaultyFront> {
  const front = await bindLoopback(options)
  const behind = await bindLoopback()
  const received: FrontRequest[] = []
  const armed: ArmedFault[] = []

  function takeFault(path: string): Fault | undefined {
    const found = armed.findLast((one) => one.times > 0 && isFor(one, path))
    if (found !== undefined) found.times -= 1
    return found?.fault
  }

  front.serve(async (incoming, response) => {
    const request = await readRequest(incoming)
    received.push(request)
    const fault = takeFault(request.path)
    if (fault?.kind === 'answer') {
      response.writeHead(fault.status, fault.headers).end(fault.body)
      return
    }
    if (fault?.kind === 'delay') await sleep(fault.ms)
    const isHeld = fault?.kind === 'hold' && !fault.worked
    if (isHeld) await fault.until
    if (fault === undefined || fault.kind === 'delay' || isHeld) {
      passThrough(behind, request, response)
      return
    }
    const answer = await forward(behind, request)
    if (fault.kind === 'hold') await fault.until
    deliver(answer, fault, response)
  })
  return {
    url: front.url,
    behind,
    fail(path, fault, times = Number.POSITIVE_INFINITY) {
      const one = { path, fault, times }
      armed.push(one)
      return () => {
        one.times = 0
      }
    },
    received: (path) => received.filter((one) => path === undefined || one.path === path),
    async stop() {
      await Promise.all([front.stop(), behind.stop()])
    },
  }
}

function isFor({ path: wanted }: ArmedFault, path: string): boolean {
  return typeof wanted === 'string' ? wanted === path : wanted.test(path)
}

async function readRequest(incoming: IncomingMessage): Promise<FrontRequest> {
  const chunks: Buffer[] = []
  for await (const chunk of incoming as AsyncIterable<Buffer>) chunks.push(chunk)
  const target = incoming.url ?? '/'
  return {
    method: incoming.method ?? '',
    target,
    path: target.split('?')[0] ?? '',
    headers: incoming.headers,
    rawHeaders: incoming.rawHeaders,
    body: Buffer.concat(chunks),
  }
}

function ask(behind: LoopbackServer, request: FrontRequest) {
  const headers = [...request.rawHeaders]
  // The body is sent in one piece, whatever it came in.
  const chunked = headers.findIndex((name, i) => i % 2 === 0 && /^transfer-encoding$/i.test(name))
  if (chunked !== -1) headers.splice(chunked, 2, 'content-length', String(request.body.length))
  const { port } = behind
  const { method, target: path } = request
  return sendRequest({ host: '127.0.0.1', port, method, path, headers, agent: false })
}

/** Streams the answer as it comes: an MCP stream may stay open. */
function passThrough(
  behind: LoopbackServer,
  request: FrontRequest,
  response: ServerResponse,
): void {
  const asked = ask(behind, request)
  response.on('close', () => asked.destroy())
  asked.on('error', () => response.destroy())
  asked.on('response', (answer) => {
    response.writeHead(answer.statusCode ?? 0, answer.rawHeaders)
    answer.pipe(response)
  })
  asked.end(request.body)
}

function forward(behind: LoopbackServer, request: FrontRequest): Promise<FrontAnswer> {
  return new Promise((resolve, reject) => {
    const asked = ask(behind, request)
    asked.on('error', reject)
    asked.on('response', (answer) => {
      const chunks: Buffer[] = []
      answer.on('data', (chunk: Buffer) => chunks.push(chunk))
      answer.on('error', reject)
      answer.on('end', () => {
        const headers = Object.fromEntries(
          Object.entries(answer.headers).map(([name, value]) => [name, value ?? '']),
        )
        resolve({ status: answer.statusCode ?? 0, headers, body: Buffer.concat(chunks) })
      })
    })
    asked.end(request.body)
  })
}

function deliver(
  answer: FrontAnswer,
  fault: Exclude<Fault, { kind: 'answer' }>,
  response: ServerResponse,
): void {
  switch (fault.kind) {
    case 'hang':
      if (fault.afterHeaders === true)
        response.writeHead(answer.status, answer.headers).flushHeaders()
      return
    case 'lose':
      response.destroy()
      return
    case 'cut':
      // The length still promises the whole body.
      response.writeHead(answer.status, {
        ...answer.headers,
        'content-length': String(answer.body.length),
      })
      response.write(answer.body.subarray(0, fault.afterBytes), () => response.destroy())
      return
    case 'delay':
    case 'hold':
    case 'rewrite': {
      const { 'transfer-encoding': _framing, ...headers } = answer.headers
      const whole = { ...answer, headers }
      const changed = fault.kind === 'rewrite' ? fault.change(whole) : whole
      response
        .writeHead(changed.status, {
          ...changed.headers,
          'content-length': String(changed.body.length),
        })
        .end(changed.body)
    }
  }
}

/** Keeps a request waiting for as long as the test needs, however slow its machine is. */
export function holdRequest(worked = false): {
  readonly fault: Fault
  readonly release: () => void
} {
  let release = () => {}
  const until = new Promise<void>((resolve) => {
    release = resolve
  })
  return { fault: { kind: 'hold', until, worked }, release: () => release() }
}

/** Changes a JSON answer, such as metadata or tokens. */
export function rewriteJson(
  change: (body: Record<string, unknown>) => Record<string, unknown>,
): Fault {
  return {
    kind: 'rewrite',
    change: (answer) => ({
      ...answer,
      body: Buffer.from(
        JSON.stringify(change(JSON.parse(answer.body.toString()) as Record<string, unknown>)),
      ),
    }),
  }
}
