import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  startAuthorizationServer,
  type TestAuthorizationServer,
} from '../support/authorization-server.ts'
import { onbehalf } from '../support/cli.ts'
import { planMcpUpstream, type TestMcpUpstream } from '../support/mcp-upstream.ts'

describe('onbehalf upstream probe', () => {
  let server: TestAuthorizationServer
  let upstream: TestMcpUpstream

  beforeAll(async () => {
    server = await startAuthorizationServer({
      redirectUris: ['http://127.0.0.1/callback'],
      newClients: ['registration'],
    })
    upstream = await (await planMcpUpstream()).start({ issuer: server.issuer })
  })
  afterAll(async () => {
    await upstream.stop()
    await server.stop()
  })

  it('shows each step and what would be configured, and registers nothing', async () => {
    const { code, stdout, stderr } = await onbehalf(['upstream', 'probe', upstream.url])
    expect(stderr).toBe('')
    expect(code).toBe(0)
    for (const line of [
      /^challenge +ok +resource_metadata: /m,
      /^resource metadata +ok +url: /m,
      /^server metadata +ok +url: /m,
      /registration_endpoint: /,
      /^client +ok +client_by: registration$/m,
      /^ +url: http:\/\/127\.0\.0\.1:\d+\/mcp$/m,
      /scopes: \[files:read, files:write\]/,
    ]) {
      expect(stdout).toMatch(line)
    }
    expect(server.received('/reg')).toHaveLength(0)
    expect(server.received().every(({ method }) => method === 'GET')).toBe(true)
  })

  it('gives the same as JSON', async () => {
    const { code, stdout } = await onbehalf(['upstream', 'probe', upstream.url, '-o', 'json'])
    expect(code).toBe(0)
    expect(JSON.parse(stdout)).toMatchObject({
      url: upstream.url,
      works: true,
      client: 'registration',
      steps: [
        { step: 'challenge', ok: true, fault: null },
        { step: 'resource_metadata', ok: true, found: { resource: upstream.url } },
        { step: 'server_metadata', ok: true, found: { issuer: server.issuer, pkce_s256: true } },
        { step: 'client', ok: true },
      ],
      server: { issuer: server.issuer, scopes: ['files:read', 'files:write'] },
    })
  })

  it('says which step failed, and exits with 1', async () => {
    const end = server.changeMetadata((metadata) => ({
      ...metadata,
      code_challenge_methods_supported: [],
    }))
    const { code, stdout, stderr } = await onbehalf(['upstream', 'probe', upstream.url])
    end()
    expect(code).toBe(1)
    expect(stdout).toMatch(/server metadata +does not advertise PKCE with S256/)
    expect(stderr).toContain('People could not connect to it so.')
  })

  it('says that nothing is there', async () => {
    const url = 'http://127.0.0.1:9/mcp'
    const { code, stdout } = await onbehalf(['upstream', 'probe', url])
    expect(code).toBe(1)
    expect(stdout).toMatch(/challenge +cannot be reached/)
  })

  it('prints nothing of a server as it is: escape sequences are shown', async () => {
    const end = server.changeMetadata((metadata) => ({
      ...metadata,
      scopes_supported: ['\u001b[31mred'],
    }))
    const { stdout } = await onbehalf(['upstream', 'probe', upstream.url])
    end()
    expect(stdout).not.toContain('\u001b')
    expect(stdout).toContain('\\u001b[31mred')
  })

  it.each([['ftp://files.example.com'], ['https://u:p@files.example.com'], ['http://']])(
    'refuses %s',
    async (url) => {
      expect((await onbehalf(['upstream', 'probe', url])).code).toBe(2)
    },
  )
})
