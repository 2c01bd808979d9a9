import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { createAcquisition } from '../../src/acquisition/index.ts'
import { AcquisitionFailure } from '../../src/core/failure-verdict.ts'
import { Secret } from '../../src/core/secret.ts'
import { createHttpClient } from '../../src/outbound/http-client.ts'
import { createFakeClock } from '../support/fake-clock.ts'
import { oauthUpstream } from '../support/oauth-upstream.ts'
import { startOidcAuthorizationServer } from '../support/oidc-authorization-server.ts'
import {
  byPath,
  json,
  type ScriptedServer,
  startScriptedServer,
  text,
} from '../support/scripted-server.ts'

const ports = { http: createHttpClient(), clock: createFakeClock() }

let server: ScriptedServer
beforeEach(async () => {
  server = await startScriptedServer(text('', 'text/plain'))
})
afterEach(() => server.close())

function revoke(
  credential: Parameters<typeof oauthUpstream>[0],
  hint: 'refresh_token' | 'access_token' = 'refresh_token',
) {
  return createAcquisition(ports).methods.oauth_connect.revoke(
    oauthUpstream(credential),
    new Secret('CNRY-RT-1'),
    hint,
  )
}

describe('RFC 7009 §2.1: the request', () => {
  it.each(['refresh_token', 'access_token'] as const)(
    'names the token, its kind (%s) and the client',
    async (hint) => {
      await revoke({ revocationEndpoint: `${server.origin}/revoke` }, hint)
      const [request] = server.requests
      expect(request).toMatchObject({ method: 'POST', path: '/revoke' })
      expect(Object.fromEntries(request?.form ?? [])).toEqual({
        token: 'CNRY-RT-1',
        token_type_hint: hint,
      })
      expect(request?.headers.authorization).toBe(
        `Basic ${Buffer.from('onbehalf-client:CNRY-CS-client-secret').toString('base64')}`,
      )
    },
  )

  it('goes to the endpoint of the issuer’s metadata where none is written', async () => {
    const { origin } = server
    server.script(
      byPath({
        '/.well-known/oauth-authorization-server': json({
          issuer: origin,
          revocation_endpoint: `${origin}/found`,
        }),
        '/found': text('', 'text/plain'),
      }),
    )
    await revoke({ issuer: origin })
    expect(server.requests.at(-1)).toMatchObject({ method: 'POST', path: '/found' })
  })

  it('is not made where the server has no endpoint for it', async () => {
    server.script(json({ issuer: server.origin }))
    await revoke({ issuer: server.origin })
    await revoke({ tokenEndpoint: `${server.origin}/token` })
    expect(server.requests.filter(({ method }) => method === 'POST')).toEqual([])
  })

  it('ends the grant at a real server: neither token works any more', async () => {
    const redirectUri = 'https://broker.example.com/callback/files'
    const oidc = await startOidcAuthorizationServer({
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
    try {
      const upstream = oauthUpstream({ issuer: oidc.issuer })
      const client = createAcquisition(ports).authorization
      const options = { redirectUri, scopes: ['files:read'], claims: undefined }
      const { url, codeVerifier } = await client.request(upstream, options)
      const code = new Secret((await oidc.visit(url)).searchParams.get('code') ?? '')
      const tokens = await client.redeem(upstream, { code, codeVerifier, redirectUri })
      const refreshToken = tokens.refreshToken ?? new Secret('')
      expect(await oidc.find('RefreshToken', refreshToken.reveal())).toBeDefined()
      await createAcquisition(ports).methods.oauth_connect.revoke(
        upstream,
        refreshToken,
        'refresh_token',
      )
      expect(await oidc.find('RefreshToken', refreshToken.reveal())).toBeUndefined()
      expect(await oidc.find('AccessToken', tokens.accessToken.reveal())).toBeUndefined()
    } finally {
      await oidc.close()
    }
  })
})

describe('RFC 7009 §2.2.1: a revocation that failed', () => {
  it.each([302, 400, 401, 404, 500, 503])(
    'with status %i is said, without the server’s text',
    async (status) => {
      server.script(json({ error: 'CNRY-TEXT', error_description: 'CNRY-TEXT' }, status))
      const failure = await revoke({ revocationEndpoint: `${server.origin}/revoke` }).catch(
        (error: unknown) => error,
      )
      expect(failure).toBeInstanceOf(AcquisitionFailure)
      expect(JSON.stringify(failure)).not.toContain('CNRY')
    },
  )
})
