import { generateKeyPairSync, type KeyObject } from 'node:crypto'
import { exportJWK, jwtVerify } from 'jose'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { createAcquisition } from '../../src/acquisition/index.ts'
import { Secret } from '../../src/core/secret.ts'
import type { ClientAuthentication } from '../../src/core/upstream.ts'
import { createHttpClient } from '../../src/outbound/http-client.ts'
import { createFakeClock } from '../support/fake-clock.ts'
import { oauthUpstream } from '../support/oauth-upstream.ts'
import { startOidcAuthorizationServer } from '../support/oidc-authorization-server.ts'
import {
  byPath,
  json,
  type ScriptedServer,
  startScriptedServer,
} from '../support/scripted-server.ts'

const ports = { http: createHttpClient(), clock: createFakeClock() }
const token = json({ access_token: 'CNRY-AT-1', token_type: 'Bearer' })

let server: ScriptedServer
beforeEach(async () => {
  server = await startScriptedServer(token)
})
afterEach(() => server.close())

async function refreshAs(
  clientAuthentication: ClientAuthentication,
  credential: Parameters<typeof oauthUpstream>[0] = {},
) {
  const upstream = oauthUpstream({
    tokenEndpoint: `${server.origin}/token`,
    clientAuthentication,
    ...credential,
  })
  await createAcquisition(ports).methods.oauth_connect.refresh(
    upstream,
    new Secret('CNRY-RT-1'),
    [],
  )
  const request = server.requests.at(-1)
  return { form: request?.form ?? new URLSearchParams(), headers: request?.headers ?? {} }
}

function pemOf(key: KeyObject): Secret {
  return new Secret(key.export({ type: 'pkcs8', format: 'pem' }).toString())
}

describe('RFC 6749 §2.3.1: a client secret', () => {
  it('client_secret_basic: form-encodes both halves, and nothing that needs it not', async () => {
    const { form, headers } = await refreshAs(
      { method: 'client_secret_basic', secret: new Secret('s:p c%t~x-_.') },
      { clientId: 'my-client:1' },
    )
    const [scheme, credentials = ''] = headers.authorization?.split(' ') ?? []
    expect(scheme).toBe('Basic')
    expect(Buffer.from(credentials, 'base64').toString()).toBe('my-client%3A1:s%3Ap+c%25t~x-_.')
    expect(form.has('client_id')).toBe(false)
    expect(form.has('client_secret')).toBe(false)
  })

  it('client_secret_post: goes into the form and nowhere else', async () => {
    const { form, headers } = await refreshAs({
      method: 'client_secret_post',
      secret: new Secret('s:p c%t'),
    })
    expect(form.get('client_id')).toBe('onbehalf-client')
    expect(form.get('client_secret')).toBe('s:p c%t')
    expect(headers.authorization).toBeUndefined()
  })

  it('none: only the id', async () => {
    const { form, headers } = await refreshAs({ method: 'none' })
    expect(form.get('client_id')).toBe('onbehalf-client')
    expect(headers.authorization).toBeUndefined()
    expect(form.has('client_assertion')).toBe(false)
  })
})

describe('RFC 7523 §2.2: private_key_jwt', () => {
  const kinds = [
    ['RS256', generateKeyPairSync('rsa', { modulusLength: 2048 })],
    ['ES256', generateKeyPairSync('ec', { namedCurve: 'P-256' })],
    ['ES384', generateKeyPairSync('ec', { namedCurve: 'P-384' })],
    ['Ed25519', generateKeyPairSync('ed25519')],
  ] as const

  it.each(kinds)('signs a fresh assertion with an %s key', async (algorithm, keys) => {
    const privateKeyPem = pemOf(keys.privateKey)
    const authentication = { method: 'private_key_jwt', privateKeyPem, keyId: 'key-1' } as const
    const first = await refreshAs(authentication)
    const second = await refreshAs(authentication)
    expect(first.form.get('client_assertion_type')).toBe(
      'urn:ietf:params:oauth:client-assertion-type:jwt-bearer',
    )
    expect(first.form.get('client_id')).toBe('onbehalf-client')
    const { payload, protectedHeader } = await jwtVerify(
      first.form.get('client_assertion') ?? '',
      keys.publicKey,
    )
    expect(protectedHeader).toEqual({ alg: algorithm, kid: 'key-1' })
    expect(payload).toMatchObject({ iss: 'onbehalf-client', sub: 'onbehalf-client' })
    expect(Number(payload.exp) - Number(payload.iat)).toBeLessThanOrEqual(60)
    const again = await jwtVerify(second.form.get('client_assertion') ?? '', keys.publicKey)
    expect(again.payload.jti).not.toBe(payload.jti)
  })

  const [, rsa] = kinds[0]
  const rsaAuthentication = {
    method: 'private_key_jwt',
    privateKeyPem: pemOf(rsa.privateKey),
    keyId: undefined,
  } as const

  async function audience(credential: Parameters<typeof oauthUpstream>[0]): Promise<unknown> {
    const { form } = await refreshAs(rsaAuthentication, credential)
    const verified = await jwtVerify(form.get('client_assertion') ?? '', rsa.publicKey)
    expect(verified.protectedHeader.kid).toBeUndefined()
    return verified.payload.aud
  }

  it('C8: its audience is the issuer alone, one string, wherever the token endpoint is', async () => {
    expect(await audience({ issuer: 'https://as.example.com' })).toBe('https://as.example.com')
    const { origin } = server
    server.script((request, response) => {
      const script =
        request.path === '/elsewhere'
          ? token
          : json({ issuer: origin, token_endpoint: `${origin}/elsewhere` })
      script(request, response)
    })
    expect(await audience({ issuer: origin, tokenEndpoint: undefined })).toBe(origin)
  })

  it('§3: its audience is the token endpoint where no issuer is known', async () => {
    expect(await audience({})).toBe(`${server.origin}/token`)
  })

  it('reads RSA and EC keys in their older forms', async () => {
    const pkcs1 = rsa.privateKey.export({ type: 'pkcs1', format: 'pem' }).toString()
    const sec1 = kinds[1][1].privateKey.export({ type: 'sec1', format: 'pem' }).toString()
    for (const pem of [pkcs1, sec1]) {
      const authentication = {
        method: 'private_key_jwt',
        privateKeyPem: new Secret(pem),
        keyId: undefined,
      } as const
      expect((await refreshAs(authentication)).form.get('client_assertion')).toMatch(/^ey/)
    }
  })

  it.each([
    ['that is none', 'not a key'],
    ['that signs nothing', pemOf(generateKeyPairSync('x25519').privateKey).reveal()],
    [
      'of a curve without an algorithm',
      pemOf(generateKeyPairSync('ec', { namedCurve: 'secp256k1' }).privateKey).reveal(),
    ],
  ])('is misconfigured with a key %s, and sends nothing', async (_what, pem) => {
    const authentication = {
      method: 'private_key_jwt',
      privateKeyPem: new Secret(pem),
      keyId: undefined,
    } as const
    const failure = await refreshAs(authentication).catch((error: unknown) => error)
    expect(failure).toMatchObject({ verdict: { kind: 'misconfigured' } })
    expect(failure).not.toHaveProperty('cause')
    expect(server.requests).toEqual([])
  })

  it('is taken by a real server', async () => {
    const redirectUri = 'https://broker.example.com/callback/files'
    const oidc = await startOidcAuthorizationServer({
      person: 'ada',
      clients: [
        {
          client_id: 'onbehalf-client',
          redirect_uris: [redirectUri],
          token_endpoint_auth_method: 'private_key_jwt',
          jwks: { keys: [{ ...(await exportJWK(rsa.publicKey)), use: 'sig' }] },
        },
      ],
    })
    try {
      const upstream = oauthUpstream({
        issuer: oidc.issuer,
        clientAuthentication: rsaAuthentication,
      })
      const client = createAcquisition(ports).authorization
      const options = { redirectUri, scopes: ['files:read'], claims: undefined }
      const { url, codeVerifier } = await client.request(upstream, options)
      const code = new Secret((await oidc.visit(url)).searchParams.get('code') ?? '')
      const tokens = await client.redeem(upstream, { code, codeVerifier, redirectUri })
      expect(await oidc.find('AccessToken', tokens.accessToken.reveal())).toMatchObject({
        accountId: 'ada',
      })
    } finally {
      await oidc.close()
    }
  })

  it('RFC 8414: the metadata that lead to the endpoint are asked for at the issuer only', async () => {
    const { origin } = server
    server.script(
      byPath({
        '/.well-known/oauth-authorization-server': json({
          issuer: origin,
          token_endpoint: `${origin}/t`,
        }),
        '/t': token,
      }),
    )
    await refreshAs(rsaAuthentication, { issuer: origin, tokenEndpoint: undefined })
    expect(server.requests.map(({ path }) => path)).toEqual([
      '/.well-known/oauth-authorization-server',
      '/t',
    ])
  })
})
