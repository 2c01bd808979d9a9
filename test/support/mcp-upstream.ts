import {
  createNotesTools,
  type SandboxMcpUpstream,
  startSandboxMcpUpstream,
} from '../../src/demo/sandbox-mcp-upstream.ts'
import { type FaultyFront, startFaultyFront } from './faulty-front.ts'

export type TestMcpUpstream = SandboxMcpUpstream &
  Pick<FaultyFront, 'fail' | 'received' | 'stop'> & {
    readonly origin: string
    /** The `sub` in the access token of each request that reached the MCP endpoint, oldest first; undefined without one. */
    readonly tokenHolders: () => readonly (string | undefined)[]
  }

/** Something that a token issuer or an upstream will be at, before it is started: they name each other. */
export type PlannedMcpUpstream = {
  /** The MCP endpoint that it will have. */
  readonly url: string
  readonly start: (options: { readonly issuer: string }) => Promise<TestMcpUpstream>
}

/** Takes the address of an MCP upstream, so that an authorization server can be told of it first. */
export async function planMcpUpstream(
  options: { readonly host?: string; readonly scopes?: readonly string[] } = {},
): Promise<PlannedMcpUpstream> {
  const front = await startFaultyFront(options.host === undefined ? {} : { host: options.host })
  return {
    url: `${front.url}/mcp`,
    async start({ issuer }) {
      const upstream = await startSandboxMcpUpstream({
        at: front.behind,
        publicUrl: front.url,
        displayName: 'Files',
        issuer,
        scopes: options.scopes ?? ['files:read', 'files:write'],
        addTools: createNotesTools(),
      })
      return {
        ...upstream,
        origin: front.url,
        tokenHolders: () =>
          front.received('/mcp').map(({ headers }) => holderOf(headers.authorization)),
        fail: front.fail,
        received: front.received,
        stop: front.stop,
      }
    },
  }
}

/** Starts an MCP server (official SDK, both eras) behind a front that records raw requests and can break them. */
export async function startMcpUpstream(options: {
  readonly issuer: string
  readonly host?: string
  readonly scopes?: readonly string[]
}): Promise<TestMcpUpstream> {
  const planned = await planMcpUpstream(options)
  return planned.start(options)
}

function holderOf(authorization: string | undefined): string | undefined {
  const payload = authorization?.split('.')[1]
  if (payload === undefined) return undefined
  const claims: unknown = JSON.parse(Buffer.from(payload, 'base64url').toString())
  return String((claims as { sub?: unknown }).sub)
}
