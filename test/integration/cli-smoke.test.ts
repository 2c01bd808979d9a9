import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  startAuthorizationServer,
  type TestAuthorizationServer,
} from '../support/authorization-server.ts'
import { onbehalf } from '../support/cli.ts'
import { planMcpUpstream, type TestMcpUpstream } from '../support/mcp-upstream.ts'
import {
  byPath,
  json,
  type Script,
  type ScriptedServer,
  startScriptedServer,
} from '../support/scripted-server.ts'

const names = [
  'challenge',
  'resource metadata',
  'server metadata',
  'pkce',
  'refresh',
  'audience',
] as const

/** The first two columns. */
function outcomesOf(stdout: string): Readonly<Record<string, string>> {
  return Object.fromEntries(
    stdout
      .trimEnd()
      .split('\n')
      .map((line) => [line.slice(6, 25).trim(), line.slice(0, 6).trim()]),
  )
}

describe('onbehalf smoke, of a real MCP server and a real authorization server', () => {
  let server: TestAuthorizationServer
  let upstream: TestMcpUpstream

  beforeAll(async () => {
    server = await startAuthorizationServer({ redirectUris: ['http://127.0.0.1/callback'] })
    upstream = await (await planMcpUpstream()).start({ issuer: server.issuer })
  })
  afterAll(async () => {
    await upstream.stop()
    await server.stop()
  })

  it('passes, one line a check, and changes nothing', async () => {
    const { code, stdout, stderr } = await onbehalf(['smoke', upstream.url])
    expect(stderr).toBe('')
    expect(stdout.trimEnd().split('\n')).toHaveLength(names.length)
    expect(outcomesOf(stdout)).toEqual(Object.fromEntries(names.map((name) => [name, 'ok'])))
    expect(code).toBe(0)
    expect(stdout).toContain(`resource=${upstream.url}`)
    expect(stdout).toContain(`issuer=${server.issuer}`)
    expect(server.received().every(({ method }) => method === 'GET')).toBe(true)
  })

  it('gives the same as JSON', async () => {
    const { code, stdout } = await onbehalf(['smoke', upstream.url, '-o', 'json'])
    expect(code).toBe(0)
    expect(JSON.parse(stdout)).toMatchObject({
      url: upstream.url,
      ok: true,
      checks: names.map((name) => ({
        check: name.replace(' ', '_'),
        outcome: 'passed',
        fault: null,
      })),
    })
  })

  it.each([
    ['pkce', { code_challenge_methods_supported: ['plain'] }, 'does not advertise PKCE with S256'],
    ['refresh', { grant_types_supported: ['authorization_code'] }, 'the refresh_token grant'],
    ['refresh', { grant_types_supported: undefined }, 'the refresh_token grant'],
    ['server metadata', { issuer: 'https://other.example.com' }, 'is of another issuer'],
    ['server metadata', { token_endpoint: 'javascript:0' }, 'names no usable endpoint'],
    ['server metadata', { authorization_endpoint: undefined }, 'names no usable endpoint'],
  ])('%s: fails with %j', async (name, change, says) => {
    const end = server.changeMetadata((metadata) => ({ ...metadata, ...change }))
    const { code, stdout, stderr } = await onbehalf(['smoke', upstream.url])
    end()
    expect(code).toBe(1)
    expect(stderr).toBe('1 check failed.\n')
    const line = stdout.split('\n').find((one) => one.startsWith('FAIL'))
    expect(line?.slice(6)).toMatch(new RegExp(`^${name} `))
    expect(line).toContain(says)
    expect(line).toContain(server.issuer)
    expect(outcomesOf(stdout)).toMatchObject({ challenge: 'ok', [name]: 'FAIL', audience: 'ok' })
  })

  it('does not check what rests on a document that is not there', async () => {
    const end = server.changeMetadata((metadata) => ({ ...metadata, issuer: 'https://o.example' }))
    const { stdout } = await onbehalf(['smoke', upstream.url])
    end()
    expect(outcomesOf(stdout)).toMatchObject({ pkce: '-', refresh: '-' })
  })
})

describe('onbehalf smoke, of an endpoint that fails', () => {
  let endpoint: ScriptedServer
  let url: string
  let documentUrl: string
  beforeAll(async () => {
    endpoint = await startScriptedServer()
    url = `${endpoint.origin}/mcp`
    documentUrl = `${endpoint.origin}/.well-known/oauth-protected-resource/mcp`
  })
  afterAll(() => endpoint.close())

  const challenged =
    (header: string | undefined, status = 401): Script =>
    (_request, response) => {
      response.writeHead(status, header === undefined ? {} : { 'www-authenticate': header }).end()
    }
  /** An endpoint all of whose parts are good, but for what the test puts in their place. */
  function serve(
    parts: {
      readonly mcp?: Script
      readonly document?: Readonly<Record<string, unknown>>
      readonly server?: Readonly<Record<string, unknown>>
    } = {},
  ): void {
    const issuer = endpoint.origin
    endpoint.script(
      byPath({
        '/mcp': parts.mcp ?? challenged(`Bearer resource_metadata="${documentUrl}"`),
        '/.well-known/oauth-protected-resource/mcp': json({
          resource: url,
          authorization_servers: [issuer],
          ...parts.document,
        }),
        '/.well-known/oauth-authorization-server': json({
          issuer,
          authorization_endpoint: `${issuer}/authorize`,
          token_endpoint: `${issuer}/token`,
          code_challenge_methods_supported: ['S256'],
          grant_types_supported: ['authorization_code', 'refresh_token'],
          ...parts.server,
        }),
      }),
    )
  }
  /** Asks for a token, and answers so to one. */
  const answering =
    (status: number): Script =>
    (request, response) => {
      const isToken = request.headers.authorization !== undefined
      challenged(`Bearer resource_metadata="${documentUrl}"`, isToken ? status : 401)(
        request,
        response,
      )
    }

  it('passes before anything is broken', async () => {
    serve()
    expect(await onbehalf(['smoke', url])).toMatchObject({ code: 0, stderr: '' })
  })

  it.each([
    ['answers without a token', () => json({}), 'asks for no token'],
    ['answers 401 without a challenge', () => challenged(undefined), 'asks for no token'],
    ['wants something else', () => challenged('Basic realm="x"'), 'asks for no token'],
    ['answers 403', () => challenged('Bearer', 403), 'asks for no token'],
    ['does not name its document', () => challenged('Bearer'), 'does not name its document'],
    ['fails', () => challenged(undefined, 503), 'answers with an error'],
  ])('challenge: one that %s', async (_what, mcp, says) => {
    serve({ mcp: mcp() })
    const { code, stdout } = await onbehalf(['smoke', url])
    expect(code).toBe(1)
    expect(stdout).toMatch(new RegExp(`^FAIL +challenge +${says}`))
    // Found at its well-known place all the same.
    expect(outcomesOf(stdout)).toMatchObject({ 'resource metadata': 'ok' })
  })

  it.each([
    ['is of another resource', { resource: 'https://other.example.com/mcp' }],
    ['is of another resource', { resource: 'https://other.example.com' }],
    ['names no authorization server', { authorization_servers: [] }],
    ['cannot be read', { resource: 1 }],
  ])('resource metadata: one that %s', async (says, document) => {
    serve({ document })
    const { code, stdout, stderr } = await onbehalf(['smoke', url])
    expect(code).toBe(1)
    expect(stderr).toBe('1 check failed.\n')
    expect(stdout).toMatch(new RegExp(`^FAIL +resource metadata +${says}`, 'm'))
    expect(outcomesOf(stdout)).toMatchObject({ 'server metadata': '-', pkce: '-', audience: '-' })
  })

  it('server metadata: every server that is named has to do', async () => {
    serve({ document: { authorization_servers: [endpoint.origin, `${endpoint.origin}/other`] } })
    const { code, stdout } = await onbehalf(['smoke', url])
    expect(code).toBe(1)
    expect(stdout.trimEnd().split('\n')).toHaveLength(names.length + 3)
    expect(stdout).toContain(`FAIL  server metadata    not there; issuer=${endpoint.origin}/other`)
  })

  it.each([
    [200, 'takes a token that is not of it'],
    [202, 'takes a token that is not of it'],
    [403, 'does not answer 401 to a token that is not of it'],
    [500, 'answers with an error'],
  ])('audience: one that answers %i to a token of another', async (status, says) => {
    serve({ mcp: answering(status) })
    const { code, stdout } = await onbehalf(['smoke', url])
    expect(code).toBe(1)
    expect(stdout).toMatch(new RegExp(`^FAIL +audience +${says}`, 'm'))
    expect(outcomesOf(stdout)).toMatchObject({ challenge: 'ok', refresh: 'ok' })
  })

  it('says that nothing is there', async () => {
    const { code, stdout, stderr } = await onbehalf(['smoke', 'http://127.0.0.1:9/mcp'])
    expect(code).toBe(1)
    expect(stdout).toMatch(/^FAIL +challenge +cannot be reached$/m)
    expect(stderr).toBe('2 checks failed.\n')
  })

  it('keeps away from private addresses, and says what would allow them', async () => {
    const { code, stdout, stderr } = await onbehalf(['smoke', 'https://192.168.0.1/mcp'])
    expect(code).toBe(1)
    expect(stdout).toMatch(/^FAIL +challenge +leads to a private address$/m)
    expect(stderr).toContain('--allow-private-network')
  })

  it('prints nothing of a server as it is', async () => {
    serve({ mcp: challenged(`Bearer resource_metadata="${documentUrl}", scope="a\u009b31m"`) })
    const { stdout } = await onbehalf(['smoke', url])
    expect(stdout.replaceAll('\n', '')).toMatch(/^[\x20-\x7e]*$/)
  })

  it.each([[[]], [['ftp://files.example.com']], [['https://u:p@files.example.com']], [['a', 'b']]])(
    '%j is wrong usage',
    async (argv) => {
      expect((await onbehalf(['smoke', ...argv])).code).toBe(2)
    },
  )
})
