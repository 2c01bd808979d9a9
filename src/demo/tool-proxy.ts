import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client'
import { z } from 'zod'

const resolved = z.object({
  header: z.string(),
  value: z.string(),
  expires_at: z.string().nullable(),
})

const refused = z.object({
  code: z.string(),
  reason: z.string().optional(),
  connect_url: z.string().optional(),
})

export type ToolCall = {
  /** The person's access token, as the agent presents it. */
  readonly bearer: string
  readonly upstream: string
  readonly tool: string
  readonly arguments?: Readonly<Record<string, unknown>>
}

export type ToolAnswer =
  | {
      readonly kind: 'result'
      readonly text: string
      /** `whoami` says here whose account it is. */
      readonly account: string | undefined
      readonly credentialEndsAt: Date | undefined
    }
  | {
      readonly kind: 'refused'
      readonly status: number
      readonly code: string
      readonly reason: string | undefined
      readonly connectUrl: string | undefined
    }

/** What stands between an agent and its tools: it asks the broker for the person's credential on every call and injects it. */
export type ToolProxy = { call(call: ToolCall): Promise<ToolAnswer> }

/** The smallest tool proxy that there can be, with the official MCP client. It keeps no credential. */
export function createToolProxy(options: {
  readonly brokerUrl: string
  readonly serviceKey: string
  /** MCP endpoint of each upstream. */
  readonly upstreams: Readonly<Record<string, string>>
}): ToolProxy {
  return {
    async call({ bearer, upstream, tool, arguments: toolArguments = {} }) {
      const answer = await fetch(`${options.brokerUrl}/api/v1/resolve`, {
        method: 'POST',
        headers: {
          authorization: `Bearer ${options.serviceKey}`,
          'content-type': 'application/json',
        },
        body: JSON.stringify({ upstream, subject_token: bearer }),
      })
      const body: unknown = await answer.json()
      if (!answer.ok) return readRefusal(answer.status, body)
      const credential = resolved.parse(body)
      const client = new Client(
        { name: 'demo-tool-proxy', version: '1.0.0' },
        { versionNegotiation: { mode: 'auto' } },
      )
      const transport = new StreamableHTTPClientTransport(
        new URL(options.upstreams[upstream] ?? ''),
        { requestInit: { headers: { [credential.header]: credential.value } } },
      )
      try {
        await client.connect(transport)
        const result = await client.callTool({ name: tool, arguments: { ...toolArguments } })
        const { id: account }: { id?: unknown } = result.structuredContent ?? {}
        return {
          kind: 'result',
          text: result.content.map((part) => (part.type === 'text' ? part.text : '')).join(' '),
          account: typeof account === 'string' ? account : undefined,
          credentialEndsAt:
            credential.expires_at === null ? undefined : new Date(credential.expires_at),
        }
      } finally {
        await client.close()
      }
    },
  }
}

function readRefusal(status: number, body: unknown): ToolAnswer {
  const problem = refused.safeParse(body)
  return {
    kind: 'refused',
    status,
    code: problem.data?.code ?? 'unreadable',
    reason: problem.data?.reason,
    connectUrl: problem.data?.connect_url,
  }
}
