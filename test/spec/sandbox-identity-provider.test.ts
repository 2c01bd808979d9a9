import { createHash, randomBytes } from 'node:crypto'
import { createLocalJWKSet, decodeJwt, decodeProtectedHeader, jwtVerify } from 'jose'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  endpoints,
  jwtBearerGrant,
  signInAgent,
  startIdentityProvider,
  type TestIdentityProvider,
  tokenExchangeGrant,
} from '../support/authorization-server.ts'
import { authorizeAs, createBrowser } from '../support/browser.ts'

const audience = 'http://127.0.0.1:8765'
const reports = 'http://127.0.0.1:8766/mcp'
const tokenType = (name: string) => `urn:ietf:params:oauth:token-type:${name}`

type TokenAnswer = Record<string, string | number | undefined>

describe('the sandbox identity provider', () => {
  let idp: TestIdentityProvider

  beforeAll(async () => {
    idp = await startIdentityProvider({
      audience,
      targets: { [reports]: { scopes: ['read', 'write'], accessTokenSeconds: 120, format: 'jwt' } },
    })
  })
  afterAll(() => idp.stop())

  async function tokenRequest(
    parameters: Record<string, string>,
    client = { id: idp.clientId, secret: idp.clientSecret },
  ): Promise<{ status: number; body: TokenAnswer }> {
    const credentials = Buffer.from(`${client.id}:${client.secret}`).toString('base64')
    const response = await fetch(`${idp.url}${endpoints.token}`, {
      method: 'POST',
      headers: { authorization: `Basic ${credentials}` },
      body: new URLSearchParams(parameters),
    })
    return { status: response.status, body: (await response.json()) as TokenAnswer }
  }

  /** Signs a person in for the broker's login, as the broker would. */
  async function signIn(person: string, scope = 'openid email') {
    const verifier = randomBytes(32).toString('base64url')
    const request = new URL(`${idp.url}${endpoints.authorization}`)
    request.search = new URLSearchParams({
      response_type: 'code',
      client_id: idp.clientId,
      redirect_uri: `${audience}/login/callback`,
      scope,
      state: 'state-of-the-test',
      nonce: 'nonce-of-the-test',
      code_challenge: createHash('sha256').update(verifier).digest('base64url'),
      code_challenge_method: 'S256',
    }).toString()
    const callback = await authorizeAs(createBrowser(), request, { choose: person })
    const answer = await tokenRequest({
      grant_type: 'authorization_code',
      code: callback.searchParams.get('code') ?? '',
      redirect_uri: `${audience}/login/callback`,
      code_verifier: verifier,
    })
    return { callback, ...answer }
  }

  it('signs a person in with one click and names itself in the answer (RFC 9207)', async () => {
    const { callback, status, body } = await signIn('ada')
    expect(status).toBe(200)
    expect(callback.searchParams.get('iss')).toBe(idp.issuer)
    const claims = decodeJwt(String(body['id_token']))
    expect(claims).toMatchObject({
      iss: idp.issuer,
      aud: idp.clientId,
      sub: 'ada',
      email: 'ada@example.test',
      roles: ['engineer'],
      nonce: 'nonce-of-the-test',
    })
  })

  it('gives access tokens of RFC 9068 for the broker, signed with a published key', async () => {
    const token = await signInAgent({
      issuer: idp.issuer,
      redirectUri: idp.agentRedirectUri,
      person: 'linus',
    })
    const keys = (await (await fetch(`${idp.url}${endpoints.jwks}`)).json()) as never
    const { payload, protectedHeader } = await jwtVerify(token, createLocalJWKSet(keys), {
      issuer: idp.issuer,
      audience,
    })
    expect(protectedHeader).toMatchObject({ alg: 'ES256', typ: 'at+jwt' })
    expect(payload).toMatchObject({
      sub: 'linus',
      client_id: 'agent',
      roles: ['onbehalf-admin'],
      email: 'linus@example.test',
    })
  })

  it('mints the same token without a browser, for tests and curl', async () => {
    const minted = await idp.issueAccessToken('grace', { lifetimeSeconds: 5 })
    const fetched = await (await fetch(`${idp.url}/sandbox/access-token?person=grace`)).text()
    for (const token of [minted, fetched]) {
      expect(decodeProtectedHeader(token)).toMatchObject({ alg: 'ES256', typ: 'at+jwt' })
      expect(decodeJwt(token)).toMatchObject({ iss: idp.issuer, aud: audience, sub: 'grace' })
    }
    expect(decodeJwt(minted).exp! - decodeJwt(minted).iat!).toBe(5)
  })

  it('refuses a sign-in without PKCE', async () => {
    const request = new URL(`${idp.url}${endpoints.authorization}`)
    request.search = new URLSearchParams({
      response_type: 'code',
      client_id: idp.clientId,
      redirect_uri: `${audience}/login/callback`,
      scope: 'openid',
    }).toString()
    const page = await createBrowser().open(request, { until: ({ origin }) => origin === audience })
    expect(new URL(page.headers.location!).searchParams.get('error')).toBe('invalid_request')
  })

  it('answers another Host with 421, so that no page of the web can speak to it', async () => {
    const { port } = new URL(idp.url)
    const page = await createBrowser().send(`${idp.url}/sandbox/access-token?person=ada`, {
      method: 'GET',
      headers: { host: `rebound.example:${port}` },
    })
    expect(page.status).toBe(421)
  })

  it('rotates refresh tokens and ends the family when one is used again', async () => {
    const { body } = await signIn('grace')
    const first = String(body['refresh_token'])
    const refresh = (token: string) =>
      tokenRequest({ grant_type: 'refresh_token', refresh_token: token })
    const second = await refresh(first)
    expect(second.status).toBe(200)
    expect(await refresh(first)).toMatchObject({ status: 400, body: { error: 'invalid_grant' } })
    expect(await refresh(String(second.body['refresh_token']))).toMatchObject({
      status: 400,
      body: { error: 'invalid_grant' },
    })
    expect(idp.reuses()).toBe(1)
  })

  describe('RFC 8693', () => {
    const exchange = (subject: string, more: Record<string, string> = {}) =>
      tokenRequest({
        grant_type: tokenExchangeGrant,
        subject_token: subject,
        subject_token_type: tokenType('access_token'),
        resource: reports,
        ...more,
      })

    it("exchanges a person's token for one aimed at the target", async () => {
      const { status, body } = await exchange(await idp.issueAccessToken('ada'), { scope: 'read' })
      expect(status).toBe(200)
      expect(body).toMatchObject({
        issued_token_type: tokenType('access_token'),
        token_type: 'Bearer',
        expires_in: 120,
        scope: 'read',
      })
      expect(decodeJwt(String(body['access_token']))).toMatchObject({
        sub: 'ada',
        aud: reports,
        client_id: idp.clientId,
        scope: 'read',
      })
      expect(idp.requests({ grantType: tokenExchangeGrant, account: 'ada' })).toHaveLength(1)
    })

    it('takes the target as audience, too, and an ID token as subject', async () => {
      const { body: signedIn } = await signIn('ada')
      const { status, body } = await tokenRequest({
        grant_type: tokenExchangeGrant,
        subject_token: String(signedIn['id_token']),
        subject_token_type: tokenType('id_token'),
        audience: reports,
      })
      expect(status).toBe(200)
      expect(decodeJwt(String(body['access_token']))).toMatchObject({ sub: 'ada', aud: reports })
    })

    it.each([
      ['an ended one', () => idp.issueAccessToken('ada', { lifetimeSeconds: -10 })],
      ['one for another audience', () => idp.issueAccessToken('ada', { claims: { aud: reports } })],
      ['one of another issuer', () => idp.issueAccessToken('ada', { claims: { iss: reports } })],
      ['one of nobody', () => idp.issueAccessToken('ada', { claims: { sub: 'mallory' } })],
      ['no token at all', () => Promise.resolve('not-a-token')],
    ])('refuses as subject token %s', async (_what, makeToken) => {
      expect(await exchange(await makeToken())).toMatchObject({
        status: 400,
        body: { error: 'invalid_request' },
      })
    })

    it('refuses an unknown target and a scope that the target lacks', async () => {
      const subject = await idp.issueAccessToken('ada')
      const elsewhere = { resource: 'http://127.0.0.1:1/other' }
      expect((await exchange(subject, elsewhere)).body['error']).toBe('invalid_target')
      expect((await exchange(subject, { scope: 'admin' })).body['error']).toBe('invalid_scope')
    })

    it('refuses a client with a wrong secret', async () => {
      const subject = await idp.issueAccessToken('ada')
      const answer = await tokenRequest(
        {
          grant_type: tokenExchangeGrant,
          subject_token: subject,
          subject_token_type: tokenType('access_token'),
          resource: reports,
        },
        { id: idp.clientId, secret: 'wrong' },
      )
      expect(answer).toMatchObject({ status: 401, body: { error: 'invalid_client' } })
    })
  })

  describe('on behalf of, as Entra does it', () => {
    const onBehalf = async (scope: string, assertion?: string) =>
      tokenRequest({
        grant_type: jwtBearerGrant,
        requested_token_use: 'on_behalf_of',
        assertion: assertion ?? (await idp.issueAccessToken('grace')),
        scope,
      })

    it('reads the target from the scope and gives all of its scopes for .default', async () => {
      const { status, body } = await onBehalf(`${reports}/.default`)
      expect(status).toBe(200)
      expect(body).toMatchObject({ expires_in: 120, ext_expires_in: 120, scope: 'read write' })
      expect(body['refresh_token']).toBeUndefined()
      expect(decodeJwt(String(body['access_token']))).toMatchObject({ sub: 'grace', aud: reports })
    })

    it('gives a refresh token where offline_access is asked for, which works', async () => {
      const { body } = await onBehalf(`${reports}/read offline_access`)
      const refreshed = await tokenRequest({
        grant_type: 'refresh_token',
        refresh_token: String(body['refresh_token']),
      })
      expect(refreshed.status).toBe(200)
      expect(decodeJwt(String(refreshed.body['access_token']))).toMatchObject({
        sub: 'grace',
        aud: reports,
        scope: 'read',
      })
    })

    it('refuses an assertion for another audience', async () => {
      const foreign = await idp.issueAccessToken('grace', { claims: { aud: 'another' } })
      expect(await onBehalf(`${reports}/.default`, foreign)).toMatchObject({
        status: 400,
        body: { error: 'invalid_grant' },
      })
    })
  })

  it('refuses a sign-in answer to be read twice: a code works once', async () => {
    const { callback } = await signIn('ada')
    const again = await tokenRequest({
      grant_type: 'authorization_code',
      code: callback.searchParams.get('code') ?? '',
      redirect_uri: `${audience}/login/callback`,
      code_verifier: 'x'.repeat(43),
    })
    expect(again).toMatchObject({ status: 400, body: { error: 'invalid_grant' } })
  })
})

describe('the sandbox identity provider with other keys', () => {
  it.each(['RS256', 'EdDSA'] as const)('signs with %s', async (algorithm) => {
    const idp = await startIdentityProvider({ audience, algorithm })
    try {
      const keys = (await (await fetch(`${idp.url}${endpoints.jwks}`)).json()) as never
      for (const token of [
        await idp.issueAccessToken('ada'),
        await signInAgent({
          issuer: idp.issuer,
          redirectUri: idp.agentRedirectUri,
          person: 'ada',
        }),
      ]) {
        const { protectedHeader } = await jwtVerify(token, createLocalJWKSet(keys), { audience })
        expect(protectedHeader.alg).toBe(algorithm)
      }
    } finally {
      await idp.stop()
    }
  })
})

describe('the sandbox identity provider with opaque tokens', () => {
  it('answers introspection with audience, issuer and claims', async () => {
    const idp = await startIdentityProvider({ audience, accessTokenFormat: 'opaque' })
    try {
      const token = await signInAgent({
        issuer: idp.issuer,
        redirectUri: idp.agentRedirectUri,
        person: 'ada',
      })
      expect(token.split('.')).toHaveLength(1)
      const introspect = async (value: string) => {
        const credentials = Buffer.from(`${idp.clientId}:${idp.clientSecret}`).toString('base64')
        const response = await fetch(`${idp.url}${endpoints.introspection}`, {
          method: 'POST',
          headers: { authorization: `Basic ${credentials}` },
          body: new URLSearchParams({ token: value }),
        })
        return response.json()
      }
      expect(await introspect(token)).toMatchObject({
        active: true,
        sub: 'ada',
        aud: audience,
        iss: idp.issuer,
        email: 'ada@example.test',
        roles: ['engineer'],
      })
      expect(await introspect('something-else')).toEqual({ active: false })
    } finally {
      await idp.stop()
    }
  })
})

describe('the sandbox identity provider with claims in userinfo', () => {
  it('says the subject alone in the ID token, and the rest at userinfo', async () => {
    const idp = await startIdentityProvider({ audience, claimsIn: 'userinfo' })
    try {
      const verifier = randomBytes(32).toString('base64url')
      const request = new URL(`${idp.url}${endpoints.authorization}`)
      request.search = new URLSearchParams({
        response_type: 'code',
        client_id: idp.clientId,
        redirect_uri: `${audience}/login/callback`,
        scope: 'openid email',
        code_challenge: createHash('sha256').update(verifier).digest('base64url'),
        code_challenge_method: 'S256',
      }).toString()
      const callback = await authorizeAs(createBrowser(), request, { choose: 'ada' })
      const response = await fetch(`${idp.url}${endpoints.token}`, {
        method: 'POST',
        headers: {
          authorization: `Basic ${Buffer.from(`${idp.clientId}:${idp.clientSecret}`).toString('base64')}`,
        },
        body: new URLSearchParams({
          grant_type: 'authorization_code',
          code: callback.searchParams.get('code') ?? '',
          redirect_uri: `${audience}/login/callback`,
          code_verifier: verifier,
        }),
      })
      const body = (await response.json()) as TokenAnswer
      expect(decodeJwt(String(body['id_token']))).not.toHaveProperty('email')
      const userinfo = await fetch(`${idp.url}${endpoints.userinfo}`, {
        headers: { authorization: `Bearer ${body['access_token']}` },
      })
      expect(await userinfo.json()).toMatchObject({
        sub: 'ada',
        email: 'ada@example.test',
        roles: ['engineer'],
      })
    } finally {
      await idp.stop()
    }
  })
})
