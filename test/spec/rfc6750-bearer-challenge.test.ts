import { describe, expect, it } from 'vitest'
import { createProtectedResources } from '../../src/identity/challenge.ts'
import { at, upstreams } from '../support/identity-room.ts'
import { publicUrl } from '../support/issuer-server.ts'

const issuer = 'https://login.example.com'
const withScopes = createProtectedResources({
  publicUrl,
  issuers: [{ issuer, requiredScopes: ['mcp', 'openid'] }],
  upstreams,
})
const without = createProtectedResources({
  publicUrl,
  issuers: [{ issuer, requiredScopes: [] }],
  upstreams,
})
const bare = `resource_metadata="${publicUrl}/.well-known/oauth-protected-resource"`

describe('RFC 6750 §3: the challenge', () => {
  it('names the document and the scopes, and no error where no token was sent (§3.1)', () => {
    expect(withScopes.challenge({ error: undefined, scopes: [] })).toBe(
      `Bearer ${bare}, scope="mcp openid"`,
    )
  })

  it('H-G1, T-6: says invalid_token only of a token that was sent', () => {
    expect(withScopes.challenge({ error: 'invalid_token', scopes: [] })).toBe(
      `Bearer ${bare}, scope="mcp openid", error="invalid_token"`,
    )
  })

  it('says insufficient_scope with the scopes of that issuer (§3.1)', () => {
    expect(withScopes.challenge({ error: 'insufficient_scope', scopes: ['mcp'] })).toBe(
      `Bearer ${bare}, scope="mcp", error="insufficient_scope"`,
    )
  })

  it('leaves an empty scope out, which the grammar does not have', () => {
    expect(without.challenge({ error: undefined, scopes: [] })).toBe(`Bearer ${bare}`)
  })

  it('names the document of the upstream that was asked for', () => {
    expect(without.challenge({ error: undefined, scopes: [] }, at('web'))).toBe(
      `Bearer resource_metadata="${publicUrl}/.well-known/oauth-protected-resource/proxy/web"`,
    )
  })
})

describe('H-G2: values that would break a header', () => {
  it('stay inside their quotes', () => {
    const hostile = createProtectedResources({
      publicUrl: 'https://b.example.com"\\\r\nX-Evil: 1',
      issuers: [{ issuer, requiredScopes: ['a"b', 'c\\d', 'e\r\nf', 'gé\u2028'] }],
      upstreams,
    })
    const challenge = hostile.challenge({ error: 'invalid_token', scopes: [] })
    expect(challenge).toBe(
      'Bearer resource_metadata="https://b.example.com\\"\\\\X-Evil: 1/.well-known/oauth-protected-resource", ' +
        'scope="a\\"b c\\\\d ef g", error="invalid_token"',
    )
  })
})
