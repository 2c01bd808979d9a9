import type { IncomingMessage, ServerResponse } from 'node:http'
import { type NodeIncomingMessageLike, toNodeHandler } from '@modelcontextprotocol/node'
import { type AuthInfo, createMcpHandler, McpServer } from '@modelcontextprotocol/server'
import { createRemoteJWKSet, jwtVerify } from 'jose'
import { z } from 'zod'
import { type LoopbackServer, sendJson } from './loopback-server.ts'

/** The holder of the token of a request. */
export type UpstreamAccount = {
  readonly id: string
  readonly name: string
  readonly clientId: string
  readonly scopes: readonly string[]
}

export type McpUpstreamOptions = {
  readonly at: LoopbackServer
  /** Where people reach it, when something stands before it. Default: its own address. */
  readonly publicUrl?: string
  readonly displayName: string
  /** Whose access tokens it takes. */
  readonly issuer: string
  readonly scopes: readonly string[]
  /** Adds the tools for one account; `whoami` is there for all. */
  readonly addTools: (server: McpServer, account: UpstreamAccount) => void
}

export type SandboxMcpUpstream = {
  /** Its MCP endpoint, and the audience of the tokens that it takes. */
  readonly url: string
  /** Requests to the endpoint with a good token, and those that were answered 401. */
  counts(): { readonly accepted: number; readonly refused: number }
}

/**
 * Starts an MCP server (Streamable HTTP, 2025 and 2026-07-28 revisions) that needs each person's own access token: RFC 9068,
 * from `issuer`, for itself. It says so as RFC 9728 asks, and keeps no token.
 */
export async function startSandboxMcpUpstream(
  options: McpUpstreamOptions,
): Promise<SandboxMcpUpstream> {
  const { at, issuer, scopes } = options
  const origin = options.publicUrl ?? at.url
  const url = `${origin}/mcp`
  const metadataUrl = `${origin}/.well-known/oauth-protected-resource/mcp`
  const keys = createRemoteJWKSet(new URL(`${issuer}/jwks`), { cooldownDuration: 0 })
  let accepted = 0
  let refused = 0

  const handler = createMcpHandler(({ authInfo }) => {
    const server = new McpServer({ name: options.displayName, version: '1.0.0' })
    const account = accountOf(authInfo)
    server.registerTool(
      'whoami',
      { description: `Says whose ${options.displayName} account the access token belongs to.` },
      () => ({
        content: [{ type: 'text', text: account.name }],
        structuredContent: { ...account },
      }),
    )
    options.addTools(server, account)
    return server
  })
  const answerMcp = toNodeHandler(handler)

  async function verify(token: string): Promise<AuthInfo | undefined> {
    try {
      const { payload } = await jwtVerify(token, keys, {
        issuer,
        audience: url,
        typ: 'at+jwt',
        requiredClaims: ['exp', 'sub', 'client_id'],
      })
      return {
        token,
        clientId: String(payload['client_id']),
        scopes: typeof payload['scope'] === 'string' ? payload['scope'].split(' ') : [],
        extra: { sub: payload.sub, name: payload['name'] },
      }
    } catch {
      return undefined
    }
  }

  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { pathname } = new URL(request.url ?? '/', origin)
    if (pathname.startsWith('/.well-known/oauth-protected-resource')) {
      sendJson(response, 200, {
        resource: url,
        resource_name: options.displayName,
        authorization_servers: [issuer],
        scopes_supported: scopes,
        bearer_methods_supported: ['header'],
      })
      return
    }
    if (pathname !== '/mcp') {
      sendJson(response, 404, { error: 'not_found' })
      return
    }
    const [scheme = '', token = ''] = request.headers.authorization?.split(' ') ?? []
    const authInfo = scheme.toLowerCase() === 'bearer' ? await verify(token) : undefined
    if (authInfo === undefined) {
      refused += 1
      const error = token === '' ? '' : ', error="invalid_token"'
      sendJson(
        response,
        401,
        { error: token === '' ? 'unauthorized' : 'invalid_token' },
        {
          'www-authenticate': `Bearer resource_metadata="${metadataUrl}", scope="${scopes.join(' ')}"${error}`,
        },
      )
      return
    }
    accepted += 1
    const authenticated = Object.assign(request, { auth: authInfo })
    // The adapter's type leaves no room for Node's own optional members.
    await answerMcp(authenticated as unknown as NodeIncomingMessageLike, response)
  }

  at.serve(answer, { host: new URL(origin).host })
  return { url, counts: () => ({ accepted, refused }) }
}

function accountOf(authInfo: AuthInfo | undefined): UpstreamAccount {
  const { sub, name } = authInfo?.extra ?? {}
  const id = String(sub)
  return {
    id,
    name: typeof name === 'string' ? name : id,
    clientId: authInfo?.clientId ?? '',
    scopes: authInfo?.scopes ?? [],
  }
}

/** Tools of a place where every account has notes of its own. */
export function createNotesTools(): McpUpstreamOptions['addTools'] {
  const notes = new Map<string, string[]>()
  return (server, account) => {
    const own = notes.get(account.id) ?? []
    notes.set(account.id, own)
    server.registerTool(
      'list_notes',
      { description: 'Lists the notes of the account, oldest first.' },
      () => ({
        content: own.map((text) => ({ type: 'text', text })),
        structuredContent: { notes: own },
      }),
    )
    server.registerTool(
      'write_note',
      {
        description: 'Adds a note to the account.',
        inputSchema: z.object({ text: z.string().min(1).max(500) }),
      },
      ({ text }) => {
        own.push(text)
        return { content: [{ type: 'text', text: `That is note ${own.length}.` }] }
      },
    )
  }
}

/** Tools of a place that knows people by their own identity provider. */
export function addReportTools(server: McpServer, account: UpstreamAccount): void {
  server.registerTool(
    'monthly_report',
    { description: "The person's report of this month." },
    () => ({
      content: [{ type: 'text', text: `${account.name}: nothing unusual this month.` }],
    }),
  )
}
