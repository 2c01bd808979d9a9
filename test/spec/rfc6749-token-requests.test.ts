import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { createAcquisition } from '../../src/acquisition/index.ts'
import type { TokenSet } from '../../src/core/credential.ts'
import { AcquisitionFailure } from '../../src/core/failure-verdict.ts'
import { Secret } from '../../src/core/secret.ts'
import { createHttpClient } from '../../src/outbound/http-client.ts'
import { createFakeClock } from '../support/fake-clock.ts'
import { oauthUpstream } from '../support/oauth-upstream.ts'
import {
  type OidcAuthorizationServer,
  startOidcAuthorizationServer,
} from '../support/oidc-authorization-server.ts'
import {
  fieldsOf,
  json,
  type ScriptedServer,
  startScriptedServer,
} from '../support/scripted-server.ts'

const redirectUri = 'https://broker.example.com/callback/files'
const clock = createFakeClock()
const ports = { http: createHttpClient(), clock }
const { methods, authorization: client } = createAcquisition(ports)

describe('RFC 6749 §4.1.3 and §6 with a real server', () => {
  let server: OidcAuthorizationServer

  beforeAll(async () => {
    server = await startOidcAuthorizationServer({
      person: 'ada',
      clients: [
        {
          client_id: 'onbehalf-client',
          client_secret: 'CNRY-CS-client-secret',
          redirect_uris: [redirectUri],
          grant_types: ['authorization_code', 'refresh_token'],
        },
      ],
    })
  })

  afterAll(() => server.close())

  async function connect(): Promise<TokenSet> {
    const scopes = ['openid', 'files:read']
    const upstream = oauthUpstream({ issuer: server.issuer, scopes })
    const { url, codeVerifier } = await client.request(upstream, {
      redirectUri,
      scopes,
      claims: undefined,
    })
    const back = await server.visit(url)
    expect(back.searchParams.get('iss')).toBe(server.issuer)
    const code = new Secret(back.searchParams.get('code') ?? '')
    return client.redeem(upstream, { code, codeVerifier, redirectUri })
  }

  it('a code becomes the person’s tokens, with what the server calls the person', async () => {
    const tokens = await connect()
    expect(await server.find('AccessToken', tokens.accessToken.reveal())).toMatchObject({
      accountId: 'ada',
    })
    expect(tokens).toMatchObject({
      scopes: ['openid', 'files:read'],
      account: 'ada',
      expiresAt: new Date(clock.now().getTime() + 600_000),
    })
  })

  it('a refresh token becomes new ones; used again it is dead, and the grant with it', async () => {
    const upstream = oauthUpstream({ issuer: server.issuer })
    const { refreshToken = new Secret('') } = await connect()
    const renewed = await methods.oauth_connect.refresh(upstream, refreshToken, ['files:read'])
    expect(renewed.refreshToken?.reveal()).not.toBe(refreshToken.reveal())
    expect(renewed.scopes).toEqual(['files:read'])
    const again = await methods.oauth_connect
      .refresh(upstream, refreshToken, [])
      .catch((error: unknown) => error)
    expect(again).toBeInstanceOf(AcquisitionFailure)
    expect((again as AcquisitionFailure).verdict).toEqual({
      kind: 'reconnect',
      reason: 'refresh_failed',
    })
    expect(await server.find('AccessToken', renewed.accessToken.reveal())).toBeUndefined()
  })

  it('a code is good once', async () => {
    const upstream = oauthUpstream({ issuer: server.issuer })
    const options = { redirectUri, scopes: ['files:read'], claims: undefined }
    const { url, codeVerifier } = await client.request(upstream, options)
    const code = new Secret((await server.visit(url)).searchParams.get('code') ?? '')
    await client.redeem(upstream, { code, codeVerifier, redirectUri })
    const again = await client
      .redeem(upstream, { code, codeVerifier, redirectUri })
      .catch((error: unknown) => error)
    expect((again as AcquisitionFailure).verdict).toMatchObject({ kind: 'reconnect' })
  })

  it('the confirmation page can name the server’s host', async () => {
    const { host } = new URL(server.issuer)
    expect(await client.host(oauthUpstream({ issuer: server.issuer }))).toBe(host)
    const authorizationEndpoint = 'https://login.example.com:8443/authorize'
    expect(await client.host(oauthUpstream({ authorizationEndpoint }))).toBe(
      'login.example.com:8443',
    )
  })
})

describe('RFC 6749: the form of a token request', () => {
  let server: ScriptedServer
  beforeEach(async () => {
    server = await startScriptedServer(json({ access_token: 'CNRY-AT-1' }))
  })
  afterEach(() => server.close())

  it('§4.1.3: of a code', async () => {
    const upstream = oauthUpstream({
      tokenEndpoint: `${server.origin}/token?tenant=a`,
      clientAuthentication: { method: 'none' },
      tokenParameters: { client_info: '1', code: 'other', code_verifier: 'other' },
    })
    await client.redeem(upstream, {
      code: new Secret('CNRY-CODE-1'),
      codeVerifier: new Secret('CNRY-VERIF-1'),
      redirectUri,
    })
    const [request] = server.requests
    expect(request?.path).toBe('/token?tenant=a')
    expect(request?.headers).toMatchObject({
      accept: 'application/json',
      'content-type': 'application/x-www-form-urlencoded;charset=UTF-8',
    })
    expect(fieldsOf(request?.form)).toEqual({
      grant_type: 'authorization_code',
      code: 'CNRY-CODE-1',
      redirect_uri: redirectUri,
      code_verifier: 'CNRY-VERIF-1',
      client_id: 'onbehalf-client',
      client_info: '1',
    })
  })

  it('H-L3, §6: of a refresh token, without a scope where there is none to name', async () => {
    const upstream = oauthUpstream({ tokenEndpoint: `${server.origin}/token` })
    await methods.oauth_connect.refresh(upstream, new Secret('CNRY-RT-1'), [])
    expect(fieldsOf(server.requests[0]?.form)).toEqual({
      grant_type: 'refresh_token',
      refresh_token: 'CNRY-RT-1',
    })
  })

  it('carries odd characters as they are', async () => {
    const odd = 'a+b&c=d%20 \u00e4/~'
    const upstream = oauthUpstream({ tokenEndpoint: `${server.origin}/token` })
    await methods.oauth_connect.refresh(upstream, new Secret(odd), ['a:b', 'c/d+e'])
    expect(server.requests[0]?.form.get('refresh_token')).toBe(odd)
    expect(server.requests[0]?.form.get('scope')).toBe('a:b c/d+e')
  })
})
