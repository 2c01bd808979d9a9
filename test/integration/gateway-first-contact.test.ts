import {
  Client,
  type OAuthClientProvider,
  StreamableHTTPClientTransport,
  UnauthorizedError,
} from '@modelcontextprotocol/client'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { agentClientId } from '../../src/demo/sandbox-identity-provider.ts'
import { startTestBroker, type TestBroker } from '../support/broker.ts'
import { createBrowser, followConnectLink, type ScriptedBrowser } from '../support/browser.ts'
import { type RichMcpUpstream, startRichMcpUpstream } from '../support/rich-mcp-upstream.ts'

/** The whole way of a person who has nothing yet, with the official SDK and a real MCP server that checks tokens. */
describe('from nothing to a result', () => {
  let upstream: RichMcpUpstream
  let broker: TestBroker
  const clients: Client[] = []

  beforeAll(async () => {
    upstream = await startRichMcpUpstream({ toolScopes: { echo: 'files:write' } })
    broker = await startTestBroker({ filesUrl: upstream.url })
    upstream.checkTokensOf(broker.authorizationServer.issuer)
  })
  afterEach(async () => {
    await Promise.all(clients.splice(0).map((client) => client.close()))
    await disconnect()
  })
  afterAll(async () => {
    await broker.stop()
    await upstream.stop()
  })

  const disconnect = () => broker.call('DELETE', '/api/v1/connections/files', 'ada')

  /** An MCP client's own sign-in: what it keeps, and where it sends its person. */
  function agentOf() {
    let tokens: Awaited<ReturnType<OAuthClientProvider['tokens']>>
    let verifier = ''
    let discovered:
      | Parameters<NonNullable<OAuthClientProvider['saveDiscoveryState']>>[0]
      | undefined
    const asked: URL[] = []
    const provider: OAuthClientProvider = {
      redirectUrl: broker.identityProvider.agentRedirectUri,
      clientMetadata: { redirect_uris: [broker.identityProvider.agentRedirectUri] },
      clientInformation: () => ({ client_id: agentClientId }),
      tokens: () => tokens,
      saveTokens(saved) {
        broker.scan.register('subject token', saved.access_token)
        tokens = saved
      },
      redirectToAuthorization: (url) => void asked.push(url),
      saveCodeVerifier(saved) {
        verifier = saved
      },
      codeVerifier: () => verifier,
      saveDiscoveryState(saved) {
        discovered = saved
      },
      discoveryState: () => discovered,
    }
    return { provider, asked }
  }

  /** 401 → the challenge → the documents → sign-in → the same again, with a token. */
  async function signIn(
    mode: 'legacy' | { pin: string },
    browser: ScriptedBrowser,
  ): Promise<Client> {
    const { provider, asked } = agentOf()
    const open = async () => {
      const client = new Client(
        { name: 'test', version: '1.0.0' },
        { versionNegotiation: { mode }, capabilities: { elicitation: { url: {} } } },
      )
      const transport = new StreamableHTTPClientTransport(new URL(`${broker.url}/mcp/files`), {
        authProvider: provider,
      })
      return { client, transport, connected: client.connect(transport) }
    }
    const refused = await open()
    await expect(refused.connected).rejects.toThrow(UnauthorizedError)
    const [request] = asked
    expect(request?.origin).toBe(new URL(broker.identityProvider.issuer).origin)
    expect(request?.searchParams.get('resource')).toBe(`${broker.url}/mcp/files`)
    const page = await browser.open(String(request))
    const [form] = page.forms
    if (form === undefined) throw new Error('there is no sign-in page')
    const end = await browser.submit(page, form, { button: 'ada' })
    await refused.transport.finishAuth(end.url.searchParams)
    const { client, connected } = await open()
    clients.push(client)
    await connected
    expect(asked).toHaveLength(1)
    return client
  }

  const scopes = async () =>
    (await broker.call('GET', '/api/v1/connections/files', 'ada')).body['scopes']
  const echo = { name: 'echo', arguments: { text: 'more' } }
  const counted = [{ type: 'text', text: 'counted' }]
  const echoed = [{ type: 'text', text: 'more' }]

  it('2026-07-28: 401, sign-in, prompt, consent, result; more scope; disconnect, and a new prompt', async () => {
    const browser = createBrowser()
    const client = await signIn({ pin: '2026-07-28' }, browser)
    const opened: Promise<readonly string[]>[] = []
    client.setRequestHandler('elicitation/create', async ({ params }) => {
      const { url } = params as { url?: string }
      // Accepting only opens the link; what comes of it is the browser's.
      const followed = followConnectLink(browser, String(url), {
        person: 'ada',
        account: 'ada-at-files',
        decision: 'allow',
      })
      opened.push(followed.then(({ answered }) => answered))
      return { action: 'accept' }
    })
    expect((await client.listTools()).tools.map(({ name }) => name)).toEqual(['connect_files'])

    expect((await client.callTool({ name: 'count' })).content).toEqual(counted)
    expect([opened.length, await scopes()]).toEqual([1, ['files:read']])
    expect((await client.callTool({ name: 'count' })).content).toEqual(counted)
    expect(opened).toHaveLength(1)
    expect((await client.listTools()).tools.map(({ name }) => name)).toContain('echo')

    expect((await client.callTool(echo)).content).toEqual(echoed)
    expect([opened.length, await scopes()]).toEqual([2, ['files:read', 'files:write']])

    await disconnect()
    expect((await client.listTools()).tools.map(({ name }) => name)).toEqual(['connect_files'])
    expect((await client.callTool({ name: 'count' })).content).toEqual(counted)
    // The person was signed in the whole time, and was asked what each link needs.
    expect(opened).toHaveLength(3)
    for (const answered of await Promise.all(opened)) {
      expect(answered.slice(-3)).toEqual(['confirm', 'choose account', 'consent'])
    }
    expect(new Set(upstream.holders)).toEqual(new Set(['ada-at-files']))
  })

  it('2025-11-25: the same with error -32042, and the stream says each time that it is done', async () => {
    const browser = createBrowser()
    const client = await signIn('legacy', browser)
    const heard: unknown[] = []
    client.fallbackNotificationHandler = async ({ method, params }) => {
      if (method === 'notifications/elicitation/complete') heard.push(params?.['elicitationId'])
    }
    /** Calls, opens the link of the refusal, waits until it is said to be done, and calls again. */
    async function callAndConsent(call: Parameters<Client['callTool']>[0]) {
      const refused = await client.callTool(call).catch((error: unknown) => error)
      expect(refused).toMatchObject({ code: -32042 })
      const { elicitations } = (
        refused as { data: { elicitations: { url: string; elicitationId: string }[] } }
      ).data
      const { page } = await followConnectLink(browser, String(elicitations[0]?.url), {
        person: 'ada',
        account: 'ada-at-files',
        decision: 'allow',
      })
      expect(page.url.searchParams.get('connected')).toBe('1')
      await expect.poll(() => heard.at(-1)).toBe(elicitations[0]?.elicitationId)
      return client.callTool(call)
    }
    expect((await client.listTools()).tools.map(({ name }) => name)).toEqual(['connect_files'])

    expect((await callAndConsent({ name: 'count' })).content).toEqual(counted)
    expect(await scopes()).toEqual(['files:read'])
    expect((await client.listTools()).tools.map(({ name }) => name)).toContain('echo')

    expect((await callAndConsent(echo)).content).toEqual(echoed)
    expect(await scopes()).toEqual(['files:read', 'files:write'])

    await disconnect()
    expect((await client.listTools()).tools.map(({ name }) => name)).toEqual(['connect_files'])
    expect((await callAndConsent({ name: 'count' })).content).toEqual(counted)
    expect(heard).toHaveLength(3)
    expect(new Set(upstream.holders)).toEqual(new Set(['ada-at-files']))
  })
})
