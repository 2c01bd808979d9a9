import { randomUUID } from 'node:crypto'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import {
  type NodeIncomingMessageLike,
  NodeStreamableHTTPServerTransport,
  toNodeHandler,
} from '@modelcontextprotocol/node'
import {
  acceptedContent,
  completable,
  createMcpHandler,
  inputRequired,
  isInitializeRequest,
  McpServer,
  ResourceTemplate,
} from '@modelcontextprotocol/server'
import { createRemoteJWKSet, jwtVerify } from 'jose'
import { z } from 'zod'

export type RichMcpUpstream = {
  readonly url: string
  /** `sub` of the token of each request, oldest first. */
  readonly holders: readonly unknown[]
  /** How many sessions were opened, and by whose token each is used. */
  readonly sessions: ReadonlyMap<string, Set<unknown>>
  /** Calls of `slow` that have begun, that were cancelled, and that ran to their end, which comes when it is told. */
  readonly slow: { begun: number; cancelled: number; finished: number; end: () => void }
  /** Everything that it knows of a session, as after its restart. */
  forgetSessions(): void
  /** From here on it takes only tokens that are whole, of this issuer, and for it; others get 401. */
  checkTokensOf(issuer: string): void
  /** Says something in every session without being asked. */
  readonly speak: () => Promise<void>
  readonly stop: () => Promise<void>
}

/**
 * An MCP server with a bit of everything, on the official SDK: stateful sessions for the 2025 revisions with their GET stream, and
 * 2026-07-28 unless `eras` says otherwise. It takes any bearer until it is told to check them, and writes down whose it was.
 */
export async function startRichMcpUpstream(
  options: {
    readonly eras?: 'both' | 'session'
    /** The scope that a token needs for a tool. */
    readonly toolScopes?: Readonly<Record<string, string>>
  } = {},
): Promise<RichMcpUpstream> {
  const holders: unknown[] = []
  const sessions = new Map<string, Set<unknown>>()
  const transports = new Map<string, NodeStreamableHTTPServerTransport>()
  const servers: McpServer[] = []
  const slow = { begun: 0, cancelled: 0, finished: 0, end: () => {} }
  const modern = toNodeHandler(createMcpHandler(() => richServer(slow), { legacy: 'reject' }))

  let isGood = async (_token: string): Promise<boolean> => true

  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const holder = holderOf(request)
    const token = request.headers.authorization?.split(' ')[1] ?? ''
    if (holder === undefined || !(await isGood(token))) {
      response.writeHead(401).end()
      return
    }
    holders.push(holder)
    const body = request.method === 'POST' ? await bodyOf(request) : undefined
    const needed = options.toolScopes?.[toolIn(body) ?? '']
    if (needed !== undefined && !scopesOf(request).includes(needed)) {
      const challenge = `Bearer error="insufficient_scope", scope="${needed}", error_description="more"`
      response.writeHead(403, { 'www-authenticate': challenge, 'content-type': 'application/json' })
      response.end('{"error":"insufficient_scope"}')
      return
    }
    const isModern =
      request.headers['mcp-method'] !== undefined ||
      request.headers['mcp-protocol-version'] === '2026-07-28'
    if (isModern && options.eras !== 'session') {
      await modern(request as unknown as NodeIncomingMessageLike, response, body)
      return
    }
    const id = request.headers['mcp-session-id']
    if (typeof id === 'string') {
      const transport = transports.get(id)
      sessions.get(id)?.add(holder)
      if (transport === undefined) response.writeHead(404).end()
      else await transport.handleRequest(request, response, body)
      return
    }
    if (!isInitializeRequest(body)) {
      response.writeHead(400, { 'content-type': 'application/json' })
      response.end('{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"no session"}}')
      return
    }
    const transport = new NodeStreamableHTTPServerTransport({
      sessionIdGenerator: () => randomUUID(),
      onsessioninitialized(session) {
        transports.set(session, transport)
        sessions.set(session, new Set([holder]))
      },
      onsessionclosed: (session) => void transports.delete(session),
    })
    const own = richServer(slow)
    servers.push(own)
    await own.connect(transport)
    await transport.handleRequest(request, response, body)
  }

  const server = createServer((request, response) => {
    answer(request, response).catch(() => response.destroy())
  })
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve)
  })
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/mcp`
  return {
    url,
    checkTokensOf(issuer) {
      const keys = createRemoteJWKSet(new URL(`${issuer}/jwks`))
      isGood = (token) =>
        jwtVerify(token, keys, { issuer, audience: url, typ: 'at+jwt' }).then(
          () => true,
          () => false,
        )
    },
    holders,
    sessions,
    slow,
    forgetSessions: () => transports.clear(),
    async speak() {
      for (const one of servers) await one.sendLoggingMessage({ level: 'error', data: 'a word' })
    },
    async stop() {
      server.closeAllConnections()
      await new Promise((resolve) => {
        server.close(resolve)
      })
    },
  }
}

function richServer(slow: RichMcpUpstream['slow']): McpServer {
  const server = new McpServer(
    { name: 'rich', version: '1.0.0' },
    { capabilities: { logging: {} }, instructions: 'Use it.' },
  )
  server.registerTool(
    'echo',
    { description: 'Gives back what it gets.', inputSchema: z.object({ text: z.string() }) },
    ({ text }) => ({ content: [{ type: 'text', text }] }),
  )
  server.registerTool('fail', { description: 'Fails.' }, () => {
    throw new Error('it failed')
  })
  server.registerTool('count', { description: 'Counts, and says how far it is.' }, async (ctx) => {
    const progressToken = ctx.mcpReq._meta?.progressToken
    await ctx.mcpReq.log('warning', { counting: true }, 'counter')
    for (const progress of progressToken === undefined ? [] : [1, 2, 3]) {
      await ctx.mcpReq.notify({
        method: 'notifications/progress',
        params: { progressToken: progressToken ?? 0, progress, total: 3 },
      })
    }
    return { content: [{ type: 'text', text: 'counted' }] }
  })
  server.registerTool('slow', { description: 'Takes its time.' }, async (ctx) => {
    await new Promise<void>((resolve) => {
      slow.end = resolve
      slow.begun += 1
      ctx.mcpReq.signal.addEventListener('abort', () => {
        slow.cancelled += 1
        resolve()
      })
    })
    if (!ctx.mcpReq.signal.aborted) slow.finished += 1
    return { content: [{ type: 'text', text: 'done' }] }
  })
  server.registerTool('link', { description: 'Sends somewhere.' }, (ctx) => {
    const answer = ctx.mcpReq.inputResponses?.['link']
    if (answer !== undefined) return { content: [{ type: 'text', text: JSON.stringify(answer) }] }
    const url = 'https://files.example.com/sign'
    return inputRequired({
      inputRequests: { link: inputRequired.elicitUrl({ message: 'Sign this.', url }) },
    })
  })
  server.registerTool('ask', { description: 'Asks for a name.' }, (ctx) => {
    const given = acceptedContent<{ name: string }>(ctx.mcpReq.inputResponses, 'name')
    if (given === undefined) {
      return inputRequired({
        inputRequests: {
          name: inputRequired.elicit({
            message: 'Who are you?',
            requestedSchema: { type: 'object', properties: { name: { type: 'string' } } },
          }),
        },
        requestState: 'the-state-of-the-upstream',
      })
    }
    const state = String(ctx.mcpReq.requestState())
    return { content: [{ type: 'text', text: `${given.name} ${state}` }] }
  })
  server.registerPrompt(
    'greet',
    {
      description: 'A greeting.',
      argsSchema: z.object({ name: completable(z.string(), namesLike) }),
    },
    ({ name }) => ({
      messages: [{ role: 'user', content: { type: 'text', text: `Hello ${name}` } }],
    }),
  )
  server.registerResource('fixed', 'rich://fixed', { mimeType: 'text/plain' }, (uri) => ({
    contents: [{ uri: uri.href, text: 'a fixed text' }],
  }))
  server.registerResource(
    'named',
    new ResourceTemplate('rich://named/{name}', { list: undefined }),
    {},
    (uri, { name }) => ({ contents: [{ uri: uri.href, text: `the text of ${String(name)}` }] }),
  )
  return server
}

function namesLike(beginning: string): string[] {
  return ['Ada', 'Alan', 'Grace'].filter((name) => name.startsWith(beginning))
}

async function bodyOf(request: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(chunk as Buffer)
  const text = Buffer.concat(chunks).toString()
  return text === '' ? undefined : JSON.parse(text)
}

function toolIn(body: unknown): string | undefined {
  const { method, params } = (body ?? {}) as { method?: string; params?: { name?: string } }
  return method === 'tools/call' ? params?.name : undefined
}

type Claims = { readonly sub?: unknown; readonly scope?: string }

function claimsOf(request: IncomingMessage): Claims | undefined {
  const payload = request.headers.authorization?.split('.')[1]
  if (payload === undefined) return undefined
  return JSON.parse(Buffer.from(payload, 'base64url').toString()) as Claims
}

function holderOf(request: IncomingMessage): unknown {
  return claimsOf(request)?.sub
}

function scopesOf(request: IncomingMessage): readonly string[] {
  return claimsOf(request)?.scope?.split(' ') ?? []
}
