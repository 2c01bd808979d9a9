import { createHash } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createAcquisition } from '../../src/acquisition/index.ts'
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
  byPath,
  json,
  type ScriptedServer,
  startScriptedServer,
} from '../support/scripted-server.ts'

const redirectUri = 'https://broker.example.com/callback/files'

let oidc: OidcAuthorizationServer
let scripted: ScriptedServer

beforeAll(async () => {
  oidc = await startOidcAuthorizationServer({
    person: 'ada',
    clients: [
      {
        client_id: 'onbehalf-client',
        redirect_uris: [redirectUri],
        token_endpoint_auth_method: 'none',
      },
    ],
  })
  scripted = await startScriptedServer()
})

afterAll(() => Promise.all([oidc.close(), scripted.close()]))

function client() {
  return createAcquisition({ http: createHttpClient(), clock: createFakeClock() }).authorization
}

function s256(verifier: Secret): string {
  return createHash('sha256').update(verifier.reveal()).digest('base64url')
}

const options = { redirectUri, scopes: ['files:read'], claims: undefined }

describe('RFC 7636 §4: the challenge and its verifier', () => {
  const publicClient = () =>
    oauthUpstream({ issuer: oidc.issuer, clientAuthentication: { method: 'none' } })

  it('M-N2: the S256 of the verifier that is sent is the challenge of the URL', async () => {
    const { url, codeVerifier } = await client().request(publicClient(), options)
    expect(url.searchParams.get('code_challenge_method')).toBe('S256')
    expect(url.searchParams.get('code_challenge')).toBe(s256(codeVerifier))
    expect(codeVerifier.reveal()).toMatch(/^[A-Za-z0-9_-]{43}$/)
    const back = await oidc.visit(url)
    const code = new Secret(back.searchParams.get('code') ?? '')
    const tokens = await client().redeem(publicClient(), { code, codeVerifier, redirectUri })
    expect(oidc.tokenRequests.at(-1)?.get('code_verifier')).toBe(codeVerifier.reveal())
    expect(await oidc.find('AccessToken', tokens.accessToken.reveal())).toBeDefined()
  })

  it('M-N1: two requests have their own state, verifier and challenge', async () => {
    const requests = await Promise.all([1, 2].map(() => client().request(publicClient(), options)))
    const [first, second] = requests
    expect(first?.state).not.toBe(second?.state)
    expect(first?.codeVerifier.reveal()).not.toBe(second?.codeVerifier.reveal())
    expect(first?.url.searchParams.get('code_challenge')).not.toBe(
      second?.url.searchParams.get('code_challenge'),
    )
  })

  it('C11: the verifier of another flow does not redeem a code', async () => {
    const [first, second] = await Promise.all([
      client().request(publicClient(), options),
      client().request(publicClient(), options),
    ])
    const back = await oidc.visit(first.url)
    const code = new Secret(back.searchParams.get('code') ?? '')
    const { codeVerifier } = second
    const failure = await client()
      .redeem(publicClient(), { code, codeVerifier, redirectUri })
      .catch((error: unknown) => error)
    expect(failure).toBeInstanceOf(AcquisitionFailure)
  })
})

describe('C10: a server that does not promise S256', () => {
  function metadata(extra: object): void {
    const { origin } = scripted
    scripted.script(
      byPath({
        '/.well-known/oauth-authorization-server': json({
          issuer: origin,
          authorization_endpoint: `${origin}/authorize`,
          token_endpoint: `${origin}/token`,
          ...extra,
        }),
      }),
    )
  }

  it.each([
    ['names no methods', {}],
    ['names only plain', { code_challenge_methods_supported: ['plain'] }],
    ['names something that is no list', { code_challenge_methods_supported: 'S256' }],
  ])('is refused when it %s', async (_what, extra) => {
    metadata(extra)
    const request = client().request(oauthUpstream({ issuer: scripted.origin }), options)
    await expect(request).rejects.toMatchObject({ verdict: { kind: 'misconfigured' } })
  })

  it('is taken where the operator wrote the endpoint, and gets the challenge all the same', async () => {
    metadata({})
    const { url } = await client().request(
      oauthUpstream({
        issuer: scripted.origin,
        authorizationEndpoint: `${scripted.origin}/authorize`,
      }),
      options,
    )
    expect(url.searchParams.get('code_challenge_method')).toBe('S256')
  })
})
