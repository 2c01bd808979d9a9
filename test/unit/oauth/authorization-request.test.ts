import { createHash } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { Secret } from '../../../src/core/secret.ts'
import { buildAuthorizationRequest } from '../../../src/oauth/authorization-request.ts'
import { oauthUpstream } from '../../support/oauth-upstream.ts'

const redirectUri = 'https://broker.example.com/callback/files'

function build(
  credential: Parameters<typeof oauthUpstream>[0] = {},
  options: { url?: string; scopes?: readonly string[]; claims?: Secret } = {},
) {
  const { url = 'https://as.example.com/authorize', scopes = ['files:read', 'files:write'] } =
    options
  return buildAuthorizationRequest(
    oauthUpstream(credential),
    { url, issuer: 'https://as.example.com', issuerRequired: true },
    { redirectUri, scopes, claims: options.claims },
  )
}

function s256(verifier: Secret): string {
  return createHash('sha256').update(verifier.reveal()).digest('base64url')
}

describe('the authorization request', () => {
  it('M-N1: has every parameter, each once', async () => {
    const resource = 'https://files.example.com/mcp'
    const request = await build({ resource })
    const { searchParams } = request.url
    expect([...searchParams.keys()]).toEqual([...new Set(searchParams.keys())])
    expect(Object.fromEntries(searchParams)).toEqual({
      response_type: 'code',
      client_id: 'onbehalf-client',
      redirect_uri: redirectUri,
      scope: 'files:read files:write',
      state: request.state,
      code_challenge: s256(request.codeVerifier),
      code_challenge_method: 'S256',
      resource,
    })
    expect(request.state).toMatch(/^[\w-]{43}$/)
    expect(request).toMatchObject({
      expectedIssuer: 'https://as.example.com',
      issuerRequired: true,
    })
  })

  it('leaves out what there is nothing for', async () => {
    const { searchParams } = (await build({}, { scopes: [] })).url
    for (const name of ['scope', 'resource', 'claims']) expect(searchParams.has(name)).toBe(false)
  })

  it('passes a challenge on', async () => {
    const claims = '{"access_token":{"acrs":{"essential":true,"value":"c1"}}}'
    const { searchParams } = (await build({}, { claims: new Secret(claims) })).url
    expect(searchParams.get('claims')).toBe(claims)
  })

  it('adds the written parameters as they are, and never one that it sets', async () => {
    const authorizationParameters = {
      access_type: 'offline',
      prompt: 'consent',
      audience: 'api.atlassian.com',
      response_type: 'token',
      client_id: 'other',
      redirect_uri: 'https://evil.example.com',
      scope: 'admin',
      state: 'fixed',
      code_challenge: 'fixed',
      code_challenge_method: 'plain',
      resource: 'https://evil.example.com',
      claims: '{}',
    }
    const resource = 'https://files.example.com/mcp'
    const claims = new Secret('{"a":1}')
    const request = await build({ authorizationParameters, resource }, { claims })
    expect([...request.url.searchParams.keys()]).toEqual([
      ...new Set(request.url.searchParams.keys()),
    ])
    expect(Object.fromEntries(request.url.searchParams)).toMatchObject({
      access_type: 'offline',
      prompt: 'consent',
      audience: 'api.atlassian.com',
      response_type: 'code',
      client_id: 'onbehalf-client',
      redirect_uri: redirectUri,
      scope: 'files:read files:write',
      state: request.state,
      code_challenge_method: 'S256',
      resource,
      claims: '{"a":1}',
    })
  })

  it('M-N9: keeps the endpoint’s own query as it is written, and appends with &', async () => {
    const url = 'https://as.example.com/authorize?tenant=a%20b&p=B2C_1&empty='
    const { href } = (await build({}, { url })).url
    expect(href.startsWith(`${url}&response_type=code&`)).toBe(true)
  })

  it('sends no parameter twice, whatever the endpoint’s query says', async () => {
    const url =
      'https://as.example.com/authorize?state=fixed&tenant=a&redirect%5Furi=evil&scope=admin#f'
    const { searchParams } = (await build({}, { url })).url
    expect(searchParams.get('tenant')).toBe('a')
    for (const name of ['state', 'redirect_uri', 'scope']) {
      expect(searchParams.getAll(name)).toHaveLength(1)
    }
    expect(searchParams.get('redirect_uri')).toBe(redirectUri)
  })
})
