import { describe, expect, it } from 'vitest'
import { createProtectedResources } from '../../src/identity/challenge.ts'
import { createFakeClock } from '../support/fake-clock.ts'
import { at, authenticatorOf, upstreams } from '../support/identity-room.ts'
import { issuerConfig, publicUrl, startIssuer } from '../support/issuer-server.ts'

const login = { issuer: 'https://login.example.com', requiredScopes: ['mcp', 'openid'] }
const second = { issuer: 'https://second.example.com/realm', requiredScopes: ['mcp', 'extra'] }
const plain = { issuer: 'https://login.example.com', requiredScopes: [] }

function resourcesOf(issuers: readonly (typeof login)[] = [login, second]) {
  return createProtectedResources({ publicUrl, issuers, upstreams })
}

const external = { kind: 'external', upstream: upstreams.get('a')! } as const
const wellKnown = `${publicUrl}/.well-known/oauth-protected-resource`

describe('RFC 9728 §2, T-10: the document', () => {
  it('F-8: names resource, every issuer, the header and the scopes that any of them needs', () => {
    expect(resourcesOf().document('')).toEqual({
      resource: publicUrl,
      authorization_servers: [login.issuer, second.issuer],
      bearer_methods_supported: ['header'],
      scopes_supported: ['mcp', 'openid', 'extra'],
    })
  })

  it('leaves the scopes out where none is needed', () => {
    expect(resourcesOf([plain]).document('')).not.toHaveProperty('scopes_supported')
  })
})

describe('RFC 9728 §3.1: one document and one audience per protected path', () => {
  it.each([
    ['', publicUrl],
    ['/mcp/a', `${publicUrl}/mcp/a`],
    ['/mcp/b', `${publicUrl}/mcp/b`],
    ['/proxy/web', `${publicUrl}/proxy/web`],
    ['/ext-authz/a', 'https://edge.example.com/a'],
  ])('%s', (path, resource) => {
    expect(resourcesOf().document(path)?.resource).toBe(resource)
  })

  it.each([
    ['an upstream that does not exist', '/mcp/nobody'],
    ['an upstream of the other kind', '/proxy/a'],
    ['an http upstream under /mcp', '/mcp/web'],
    ['no external address', '/ext-authz/b'],
    ['a path below', '/mcp/a/b'],
    ['a slash more', '/mcp/a/'],
    ['a slash alone', '/'],
    ['another case', '/MCP/a'],
    ['an encoded name', '/mcp/%61'],
    ['a member of every object', 'constructor'],
    ['the same in a path', '/mcp/__proto__'],
  ])('has none for %s', (_what, path) => {
    expect(resourcesOf().document(path)).toBeUndefined()
  })
})

describe('RFC 9728 §5.1, T-12: the challenge and its document are in step', () => {
  it.each([
    ['the API', { kind: 'api' } as const],
    ['an upstream', at('a')],
    ['an http upstream', at('web')],
    ['an upstream behind another gateway', external],
  ])('for %s', async (_what, target) => {
    const resources = resourcesOf()
    const challenge = resources.challenge({ error: undefined, scopes: [] }, target)
    const url = /resource_metadata="([^"]+)"/.exec(challenge)?.[1]
    expect(url?.startsWith(wellKnown)).toBe(true)
    const resource = resources.document(url!.slice(wellKnown.length))!.resource

    // A token that a client gets for that resource opens what challenged it.
    const clock = createFakeClock()
    const issuer = await startIssuer(clock)
    const authenticator = authenticatorOf([issuerConfig(issuer.issuer)], { clock })
    const token = await issuer.mint({ aud: resource })
    const use = target.kind === 'external' ? at('a') : target
    await expect(Promise.resolve(authenticator.verifyBearer(token, use))).resolves.toBeDefined()
    await issuer.close()
  })

  it('T-7: names no document where there is none', () => {
    const target = { kind: 'external', upstream: upstreams.get('b')! } as const
    expect(resourcesOf([plain]).challenge({ error: 'invalid_token', scopes: [] }, target)).toBe(
      'Bearer error="invalid_token"',
    )
    expect(resourcesOf([plain]).challenge({ error: undefined, scopes: [] }, target)).toBe('Bearer')
  })
})
