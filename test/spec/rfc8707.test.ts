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

const redirectUri = 'https://broker.example.com/callback/files'
const resource = 'https://files.example.com/mcp'

let server: OidcAuthorizationServer

beforeAll(async () => {
  server = await startOidcAuthorizationServer({
    person: 'ada',
    resources: [resource],
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

const ports = { http: createHttpClient(), clock: createFakeClock() }
const { methods, authorization } = createAcquisition(ports)

async function connect(upstream: ReturnType<typeof oauthUpstream>) {
  const scopes = upstream.credential.scopes
  const request = await authorization.request(upstream, { redirectUri, scopes, claims: undefined })
  const back = await server.visit(request.url)
  const code = new Secret(back.searchParams.get('code') ?? '')
  const { codeVerifier } = request
  return {
    request,
    back,
    tokens: await authorization.redeem(upstream, { code, codeVerifier, redirectUri }),
  }
}

describe('RFC 8707 §2: resource', () => {
  it('goes with the authorization request and with every token request, and the token is for it alone', async () => {
    const upstream = oauthUpstream({ issuer: server.issuer, resource })
    const { request, tokens } = await connect(upstream)
    expect(request.url.searchParams.getAll('resource')).toEqual([resource])
    const refreshed = await methods.oauth_connect.refresh(
      upstream,
      tokens.refreshToken ?? new Secret(''),
      ['files:read'],
    )
    expect(server.tokenRequests.map((form) => form.getAll('resource'))).toEqual([
      [resource],
      [resource],
    ])
    const token = await server.find('AccessToken', refreshed.accessToken.reveal())
    expect(token).toMatchObject({ accountId: 'ada', aud: resource, scope: 'files:read' })
  })

  it('is left out where the upstream has none', async () => {
    const { request } = await connect(oauthUpstream({ issuer: server.issuer }))
    expect(request.url.searchParams.has('resource')).toBe(false)
    expect(server.tokenRequests.at(-1)?.has('resource')).toBe(false)
  })

  it('refused as invalid_target, is the configuration’s fault and costs no connection', async () => {
    const upstream = oauthUpstream({ issuer: server.issuer, resource })
    const { tokens } = await connect(upstream)
    const elsewhere = oauthUpstream({
      issuer: server.issuer,
      resource: 'https://other.example.com',
    })
    const failure = await methods.oauth_connect
      .refresh(elsewhere, tokens.refreshToken ?? new Secret(''), [])
      .catch((error: unknown) => error)
    expect(failure).toBeInstanceOf(AcquisitionFailure)
    expect((failure as AcquisitionFailure).verdict).toEqual({ kind: 'misconfigured' })
  })
})
