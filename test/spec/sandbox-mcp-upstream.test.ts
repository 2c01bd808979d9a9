import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client'
import { createHash, randomBytes } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  endpoints,
  startAuthorizationServer,
  startIdentityProvider,
  type TestAuthorizationServer,
} from '../support/authorization-server.ts'
import { authorizeAs, createBrowser } from '../support/browser.ts'
import { planMcpUpstream, startMcpUpstream, type TestMcpUpstream } from '../support/mcp-upstream.ts'

const redirectUri = 'http://127.0.0.1:8765/callback/files'

describe('the sandbox MCP upstream', () => {
  let server: TestAuthorizationServer
  let upstream: TestMcpUpstream
  const tokens = { ada: '', grace: '' }

  beforeAll(async () => {
    const planned = await planMcpUpstream()
    server = await startAuthorizationServer({
      redirectUris: [redirectUri],
      resources: [planned.url],
    })
    upstream = await planned.start({ issuer: server.issuer })
    tokens.ada = await accessTokenOf('ada-at-files')
    tokens.grace = await accessTokenOf('grace-at-files')
  })
  afterAll(async () => {
    await Promise.all([server.stop(), upstream.stop()])
  })

  async function accessTokenOf(account: string): Promise<string> {
    const verifier = randomBytes(32).toString('base64url')
    const request = new URL(`${server.url}${endpoints.authorization}`)
    request.search = new URLSearchParams({
      response_type: 'code',
      client_id: server.clientId,
      redirect_uri: redirectUri,
      code_challenge: createHash('sha256').update(verifier).digest('base64url'),
      code_challenge_method: 'S256',
    }).toString()
    const callback = await authorizeAs(createBrowser(), request, { choose: account })
    const credentials = Buffer.from(`${server.clientId}:${server.clientSecret}`).toString('base64')
    const response = await fetch(`${server.url}${endpoints.token}`, {
      method: 'POST',
      headers: { authorization: `Basic ${credentials}` },
      body: new URLSearchParams({
        grant_type: 'authorization_code',
        code: callback.searchParams.get('code') ?? '',
        redirect_uri: redirectUri,
        code_verifier: verifier,
      }),
    })
    return ((await response.json()) as { access_token: string }).access_token
  }

  async function withClient<T>(
    token: string,
    mode: 'legacy' | { pin: string },
    use: (client: Client) => Promise<T>,
  ): Promise<T> {
    const client = new Client({ name: 'test', version: '1.0.0' }, { versionNegotiation: { mode } })
    await client.connect(
      new StreamableHTTPClientTransport(new URL(upstream.url), {
        requestInit: { headers: { authorization: `Bearer ${token}` } },
      }),
    )
    try {
      return await use(client)
    } finally {
      await client.close()
    }
  }

  it.each([
    ['the 2025 revisions', 'legacy' as const],
    ['2026-07-28', { pin: '2026-07-28' }],
  ])('says in %s whose token was used, and keeps accounts apart', async (_revision, mode) => {
    const note = `written in ${JSON.stringify(mode)}`
    await withClient(tokens.ada, mode, async (client) => {
      const { tools } = await client.listTools()
      expect(tools.map(({ name }) => name)).toEqual(['whoami', 'list_notes', 'write_note'])
      const { structuredContent } = await client.callTool({ name: 'whoami' })
      expect(structuredContent).toEqual({
        id: 'ada-at-files',
        name: 'ada-at-files',
        clientId: server.clientId,
        scopes: ['files:read', 'files:write'],
      })
      await client.callTool({ name: 'write_note', arguments: { text: note } })
      const listed = await client.callTool({ name: 'list_notes' })
      expect(listed.content).toContainEqual({ type: 'text', text: note })
    })
    await withClient(tokens.grace, mode, async (client) => {
      const listed = await client.callTool({ name: 'list_notes' })
      expect(listed.content).toEqual([])
    })
  })

  it('challenges a call without a token, and one with a bad token, as RFC 9728 §5.1 says', async () => {
    const metadataUrl = `${upstream.origin}/.well-known/oauth-protected-resource/mcp`
    const without = await fetch(upstream.url, { method: 'POST' })
    expect(without.status).toBe(401)
    expect(without.headers.get('www-authenticate')).toBe(
      `Bearer resource_metadata="${metadataUrl}", scope="files:read files:write"`,
    )
    const withBad = await fetch(upstream.url, {
      method: 'POST',
      headers: { authorization: 'Bearer nonsense' },
    })
    expect(withBad.status).toBe(401)
    expect(withBad.headers.get('www-authenticate')).toContain('error="invalid_token"')
    const metadata = await (await fetch(metadataUrl)).json()
    expect(metadata).toMatchObject({
      resource: upstream.url,
      authorization_servers: [server.issuer],
    })
  })

  it('refuses a token for another resource and one of another issuer', async () => {
    const elsewhere = await startMcpUpstream({ issuer: server.issuer })
    const otherIssuer = await startIdentityProvider({ audience: upstream.url })
    try {
      for (const [url, token] of [
        [elsewhere.url, tokens.ada],
        [upstream.url, await otherIssuer.issueAccessToken('ada')],
      ] as const) {
        const answer = await fetch(url, {
          method: 'POST',
          headers: { authorization: `Bearer ${token}` },
        })
        expect(answer.status).toBe(401)
      }
      expect(elsewhere.counts()).toEqual({ accepted: 0, refused: 1 })
    } finally {
      await Promise.all([elsewhere.stop(), otherIssuer.stop()])
    }
  })

  it('records what it got, byte for byte, and whose token it was', async () => {
    const before = upstream.received('/mcp').length
    const body = '{"jsonrpc":"2.0",  "id":1,"method":"ping"}'
    await fetch(upstream.url, {
      method: 'POST',
      headers: {
        Authorization: `Bearer ${tokens.grace}`,
        'Content-Type': 'application/json',
        Accept: 'application/json, text/event-stream',
        'X-Of-The-Test': 'value',
      },
      body,
    })
    const [request] = upstream.received('/mcp').slice(before)
    expect(request?.body.toString()).toBe(body)
    expect(request?.headers['x-of-the-test']).toBe('value')
    expect(upstream.tokenHolders().at(-1)).toBe('grace-at-files')
  })

  it('can be made to refuse a good token', async () => {
    upstream.fail(
      '/mcp',
      { kind: 'answer', status: 401, headers: { 'www-authenticate': 'Bearer' } },
      1,
    )
    const call = () =>
      withClient(tokens.ada, 'legacy', (client) => client.callTool({ name: 'whoami' }))
    await expect(call()).rejects.toThrow()
    await expect(call()).resolves.toMatchObject({ structuredContent: { id: 'ada-at-files' } })
  })
})
