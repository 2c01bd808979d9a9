import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
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

  it('of a name whose credential is written, it proposes nothing in its place', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'onbehalf-probe-'))
    const config = join(directory, 'onbehalf.yaml')
    const http = { url: 'http://127.0.0.1:9/api', kind: 'http' }
    const client = { client_id: 'onbehalf', client_secret: 'a-secret-of-ours' }
    const token_endpoint = `${server.issuer}/token`
    const upstreams = {
      exchanged: { ...http, credential: { mode: 'token_exchange', token_endpoint, ...client } },
      keyed: { ...http, credential: { mode: 'user_key' } },
      connected: {
        url: upstream.url,
        credential: { mode: 'oauth_connect', issuer: server.issuer, ...client },
      },
      found: { url: upstream.url, allow_private_network: true },
    }
    const issuers = [{ issuer: server.issuer }]
    const keys = [{ id: 'k1', secret: Buffer.alloc(32, 1).toString('base64') }]
    const file = { public_url: 'http://127.0.0.1:1', encryption: { keys }, identity: { issuers } }
    await writeFile(config, JSON.stringify({ ...file, upstreams }))
    try {
      for (const name of ['exchanged', 'keyed', 'connected']) {
        const run = await onbehalf(['upstream', 'probe', name, '--config', config])
        expect(run, name).toMatchObject({ code: 0, stderr: '' })
        expect(run.stdout).toContain(`The configuration of ${name} says all that is needed`)
        expect(run.stdout).not.toContain('What would be configured')
      }
      const found = await onbehalf(['upstream', 'probe', 'found', '--config', config])
      expect(found.stdout).toContain('What would be configured')
      const none = await onbehalf(['upstream', 'probe', 'nobody', '--config', config])
      expect(none).toMatchObject({ code: 2, stdout: '' })
    } finally {
      await rm(directory, { recursive: true })
    }
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
