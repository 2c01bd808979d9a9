import { describe, expect, it } from 'vitest'
import { createTokenEndpoints } from '../../../src/core/token-endpoints.ts'
import type { Upstream } from '../../../src/core/upstream.ts'
import { oauthUpstream } from '../../support/oauth-upstream.ts'

const issuer = 'https://login.example.com'
const url = 'https://login.example.com/token'

function endpointsOf(...upstreams: readonly Upstream[]) {
  return createTokenEndpoints({
    upstreams: new Map(upstreams.map((upstream) => [upstream.name, upstream])),
  })
}

describe('token endpoints that upstreams share', () => {
  const byIssuer = { ...oauthUpstream({ issuer, tokenEndpoint: undefined }), name: 'files' }
  const byUrl = { ...oauthUpstream({ issuer: undefined, tokenEndpoint: url }), name: 'mail' }
  const elsewhere = { ...oauthUpstream({ issuer: 'https://other.example.com' }), name: 'other' }

  it('are one as soon as it is known where the issuer has it', () => {
    const endpoints = endpointsOf(byIssuer, byUrl, elsewhere)
    expect(endpoints.of(byIssuer)).not.toBe(endpoints.of(byUrl))
    expect(endpoints.authorizationServersOf(byUrl)).toEqual([url])
    endpoints.learn(byIssuer, url)
    expect(endpoints.of(byIssuer)).toBe(endpoints.of(byUrl))
    for (const upstream of [byIssuer, byUrl]) {
      expect(endpoints.authorizationServersOf(upstream).toSorted()).toEqual([issuer, url])
    }
    expect(endpoints.authorizationServersOf(elsewhere)).toEqual(['https://other.example.com'])
  })

  it('are one however their URL is written', () => {
    const shouted = { ...byUrl, name: 'post' }
    shouted.credential = {
      ...byUrl.credential,
      tokenEndpoint: 'HTTPS://LOGIN.example.com:443/token',
    }
    const endpoints = endpointsOf(byUrl, shouted)
    expect(endpoints.of(shouted)).toBe(endpoints.of(byUrl))
  })

  it('a written endpoint is not the issuer’s own', () => {
    const written = oauthUpstream({ issuer, tokenEndpoint: 'https://proxy.example.com/token' })
    const endpoints = endpointsOf(byIssuer, { ...written, name: 'written' })
    endpoints.learn(written, 'https://proxy.example.com/token')
    expect(endpoints.of(byIssuer)).toBe(issuer)
  })
})
