import { createHash, randomBytes } from 'node:crypto'
import { decodeJwt } from 'jose'
import { afterEach, describe, expect, it } from 'vitest'
import {
  endpoints,
  rewriteJson,
  startAuthorizationServer,
  type TestAuthorizationServer,
} from '../support/authorization-server.ts'
import { authorizeAs, createBrowser } from '../support/browser.ts'
import { canaryPrefixes } from '../support/secret-scan.ts'

const redirectUri = 'http://127.0.0.1:8765/callback/files'
const resource = 'http://127.0.0.1:8766/mcp'

type Answer = { status: number; headers: Headers; body: Record<string, unknown> }
type Options = Partial<Parameters<typeof startAuthorizationServer>[0]>

let server: TestAuthorizationServer

async function start(options: Options = {}): Promise<void> {
  server = await startAuthorizationServer({ redirectUris: [redirectUri], ...options })
}

afterEach(() => server.stop())

const verifier = randomBytes(32).toString('base64url')

function authorizationRequest(changes: Record<string, string> = {}): URL {
  const request = new URL(`${server.url}${endpoints.authorization}`)
  request.search = new URLSearchParams({
    response_type: 'code',
    client_id: server.clientId,
    redirect_uri: redirectUri,
    scope: 'files:read',
    resource,
    state: 'state-of-the-test',
    code_challenge: createHash('sha256').update(verifier).digest('base64url'),
    code_challenge_method: 'S256',
    ...changes,
  }).toString()
  return request
}

async function post(path: string, parameters: Record<string, string>): Promise<Answer> {
  const credentials = Buffer.from(`${server.clientId}:${server.clientSecret}`).toString('base64')
  const response = await fetch(`${server.url}${path}`, {
    method: 'POST',
    headers: { authorization: `Basic ${credentials}` },
    body: new URLSearchParams(parameters),
  })
  const text = await response.text()
  return {
    status: response.status,
    headers: response.headers,
    body: text === '' ? {} : (JSON.parse(text) as Record<string, unknown>),
  }
}

function redeem(callback: URL): Promise<Answer> {
  return post(endpoints.token, {
    grant_type: 'authorization_code',
    code: callback.searchParams.get('code') ?? '',
    redirect_uri: redirectUri,
    code_verifier: verifier,
    resource,
  })
}

async function connect(account = 'ada-at-files'): Promise<Answer> {
  return redeem(await authorizeAs(createBrowser(), authorizationRequest(), { choose: account }))
}

function refresh(token: unknown): Promise<Answer> {
  return post(endpoints.token, {
    grant_type: 'refresh_token',
    refresh_token: String(token),
    resource,
  })
}

describe('the sandbox authorization server', () => {
  it('publishes RFC 8414 metadata: S256 alone, iss in answers, revocation', async () => {
    await start()
    const metadata = await (await fetch(`${server.url}${endpoints.metadata}`)).json()
    expect(metadata).toMatchObject({
      issuer: server.issuer,
      authorization_endpoint: `${server.url}${endpoints.authorization}`,
      token_endpoint: `${server.url}${endpoints.token}`,
      revocation_endpoint: `${server.url}${endpoints.revocation}`,
      code_challenge_methods_supported: ['S256'],
      authorization_response_iss_parameter_supported: true,
      scopes_supported: ['files:read', 'files:write'],
    })
  })

  it('lets the person choose an account and say yes, and aims the token at the resource', async () => {
    await start({ accessTokenSeconds: 20 })
    const browser = createBrowser()
    const callback = await authorizeAs(browser, authorizationRequest(), { choose: 'ada-at-files' })
    expect(callback.searchParams.get('iss')).toBe(server.issuer)
    expect(callback.searchParams.get('state')).toBe('state-of-the-test')
    const { status, body } = await redeem(callback)
    expect(status).toBe(200)
    expect(body).toMatchObject({ token_type: 'Bearer', expires_in: 20, scope: 'files:read' })
    expect(decodeJwt(String(body['access_token']))).toMatchObject({
      iss: server.issuer,
      aud: resource,
      sub: 'ada-at-files',
      client_id: server.clientId,
      scope: 'files:read',
    })
  })

  it('names the client and every scope on the consent page', async () => {
    await start()
    const browser = createBrowser()
    const choice = await browser.open(authorizationRequest({ scope: 'files:read files:write' }))
    const consent = await browser.submit(choice, choice.forms[0]!, { button: 'grace-at-files' })
    expect(consent.body).toContain('Allow onbehalf to use your Files account?')
    expect(consent.body).toContain('<li>files:read</li><li>files:write</li>')
  })

  it('asks again in the same browser, so that one browser can connect two accounts', async () => {
    await start()
    const browser = createBrowser()
    for (const account of ['ada-at-files', 'grace-at-files']) {
      const callback = await authorizeAs(browser, authorizationRequest(), { choose: account })
      const { body } = await redeem(callback)
      expect(decodeJwt(String(body['access_token'])).sub).toBe(account)
    }
  })

  it('tells the client when the person says no', async () => {
    await start()
    const callback = await authorizeAs(createBrowser(), authorizationRequest(), {
      choose: 'ada-at-files',
      decision: 'deny',
    })
    expect(callback.searchParams.get('error')).toBe('access_denied')
    expect(callback.searchParams.get('code')).toBeNull()
    expect(callback.searchParams.get('iss')).toBe(server.issuer)
  })

  it('refuses a request without PKCE, with plain PKCE, and a wrong verifier', async () => {
    await start()
    for (const changes of [{ code_challenge: '' }, { code_challenge_method: 'plain' }]) {
      const page = await createBrowser().open(authorizationRequest(changes), {
        until: (next) => next.href.startsWith(redirectUri),
      })
      expect(new URL(page.headers.location!).searchParams.get('error')).toBe('invalid_request')
    }
    const choices = { choose: 'ada-at-files' }
    const callback = await authorizeAs(createBrowser(), authorizationRequest(), choices)
    const answer = await post(endpoints.token, {
      grant_type: 'authorization_code',
      code: callback.searchParams.get('code') ?? '',
      redirect_uri: redirectUri,
      code_verifier: randomBytes(32).toString('base64url'),
    })
    expect(answer).toMatchObject({ status: 400, body: { error: 'invalid_grant' } })
  })

  it('refuses a resource that it does not guard (RFC 8707)', async () => {
    await start({ resources: [resource] })
    const page = await createBrowser().open(
      authorizationRequest({ resource: 'http://127.0.0.1:1/mcp' }),
      { until: (next) => next.href.startsWith(redirectUri) },
    )
    expect(new URL(page.headers.location!).searchParams.get('error')).toBe('invalid_target')
  })

  it('uses its only resource and all its scopes for a request that names none', async () => {
    await start({ resources: [resource] })
    const request = authorizationRequest()
    request.searchParams.delete('resource')
    request.searchParams.delete('scope')
    const callback = await authorizeAs(createBrowser(), request, { choose: 'ada-at-files' })
    const { body } = await redeem(callback)
    expect(decodeJwt(String(body['access_token']))).toMatchObject({
      aud: resource,
      scope: 'files:read files:write',
    })
  })

  it('revokes a refresh token (RFC 7009): it works no more', async () => {
    await start()
    const { body } = await connect()
    const revoked = await post(endpoints.revocation, { token: String(body['refresh_token']) })
    expect(revoked.status).toBe(200)
    expect(server.revocations()).toBe(1)
    expect(await refresh(body['refresh_token'])).toMatchObject({
      status: 400,
      body: { error: 'invalid_grant' },
    })
    await post(endpoints.revocation, { token: 'never issued' })
    expect(server.revocations()).toBe(1)
  })

  it('keeps two connections of one account apart: revoking one leaves the other', async () => {
    await start()
    const [first, second] = [await connect(), await connect()]
    await post(endpoints.revocation, { token: String(first.body['refresh_token']) })
    expect((await refresh(second.body['refresh_token'])).status).toBe(200)
  })

  it('marks refresh tokens and codes, so that a leak scan knows them by sight', async () => {
    await start()
    const choices = { choose: 'ada-at-files' }
    const callback = await authorizeAs(createBrowser(), authorizationRequest(), choices)
    expect(callback.searchParams.get('code')).toMatch(new RegExp(`^${canaryPrefixes.code}`))
    const { body } = await redeem(callback)
    expect(body['refresh_token']).toMatch(new RegExp(`^${canaryPrefixes.refreshToken}`))
    expect(decodeJwt(String(body['access_token'])).jti).toMatch(
      new RegExp(`^${canaryPrefixes.accessToken}`),
    )
  })
})

describe('refresh tokens of the sandbox authorization server', () => {
  it('strict: single use; a reuse ends the family', async () => {
    await start({ refreshReuse: 'strict' })
    const { body } = await connect()
    const second = await refresh(body['refresh_token'])
    expect(second.status).toBe(200)
    expect(second.body['refresh_token']).not.toBe(body['refresh_token'])
    expect((await refresh(body['refresh_token'])).body['error']).toBe('invalid_grant')
    expect((await refresh(second.body['refresh_token'])).body['error']).toBe('invalid_grant')
    expect(server.reuses()).toBe(1)
    const refreshes = { grantType: 'refresh_token', account: 'ada-at-files' }
    expect(server.requests({ ...refreshes, outcome: 'issued' })).toHaveLength(1)
  })

  it('strict: two uses at the same moment are a reuse, too', async () => {
    await start({ refreshReuse: 'strict' })
    const { body } = await connect()
    const answers = await Promise.all([
      refresh(body['refresh_token']),
      refresh(body['refresh_token']),
    ])
    const good = answers.filter(({ status }) => status === 200)
    expect(good.length).toBeLessThan(2)
    expect(server.reuses()).toBe(1)
    for (const { body: renewed } of good) {
      expect((await refresh(renewed['refresh_token'])).body['error']).toBe('invalid_grant')
    }
  })

  it('none: the same token comes back and works again and again', async () => {
    await start({ refreshReuse: 'none' })
    const { body } = await connect()
    for (let times = 0; times < 3; times += 1) {
      const again = await refresh(body['refresh_token'])
      expect(again.status).toBe(200)
      expect(again.body['refresh_token']).toBe(body['refresh_token'])
    }
    expect(server.reuses()).toBe(0)
  })

  it('grace: the used token works for a while, then its use ends the family', async () => {
    await start({ refreshReuse: { graceSeconds: 6 } })
    const { body } = await connect()
    expect((await refresh(body['refresh_token'])).status).toBe(200)
    const second = await refresh(body['refresh_token'])
    expect(second.status).toBe(200)
    await new Promise((resolve) => setTimeout(resolve, 6100))
    expect((await refresh(body['refresh_token'])).body['error']).toBe('invalid_grant')
    expect((await refresh(second.body['refresh_token'])).body['error']).toBe('invalid_grant')
    expect(server.reuses()).toBe(1)
  })
})

describe('faults before the sandbox authorization server', () => {
  it('answers instead of it, so many times, and records the request', async () => {
    await start()
    const { body } = await connect()
    server.fail(
      endpoints.token,
      { kind: 'answer', status: 429, headers: { 'retry-after': '3' } },
      1,
    )
    const refused = await refresh(body['refresh_token'])
    expect(refused.status).toBe(429)
    expect(refused.headers.get('retry-after')).toBe('3')
    expect(server.requests({ grantType: 'refresh_token' })).toHaveLength(0)
    expect((await refresh(body['refresh_token'])).status).toBe(200)
    expect(server.received(endpoints.token).at(-1)?.body.toString()).toContain('grant_type=refresh')
  })

  it('loses and cuts answers after the server did its work', async () => {
    await start()
    const { body } = await connect()
    server.fail(endpoints.token, { kind: 'lose' }, 1)
    await expect(refresh(body['refresh_token'])).rejects.toThrow('fetch failed')
    expect(server.requests({ grantType: 'refresh_token', outcome: 'issued' })).toHaveLength(1)
    const { body: other } = await connect('grace-at-files')
    server.fail(endpoints.token, { kind: 'cut', afterBytes: 20 }, 1)
    await expect(refresh(other['refresh_token'])).rejects.toThrow('terminated')
    expect(server.requests({ grantType: 'refresh_token', outcome: 'issued' })).toHaveLength(2)
  })

  it('hangs, before or after the head of the answer', async () => {
    await start()
    const { body } = await connect()
    for (const afterHeaders of [false, true]) {
      server.fail(endpoints.metadata, { kind: 'hang', afterHeaders }, 1)
      const signal = AbortSignal.timeout(300)
      const answer = fetch(`${server.url}${endpoints.metadata}`, { signal })
      await expect(answer.then((response) => response.text())).rejects.toThrow('timeout')
    }
    expect((await refresh(body['refresh_token'])).status).toBe(200)
  })

  it('changes answers, and stops doing so', async () => {
    await start()
    const end = server.fail(
      endpoints.token,
      rewriteJson((answer) => ({ ...answer, expires_in: '3600', extra: 'x' })),
    )
    expect((await connect()).body).toMatchObject({ expires_in: '3600', extra: 'x' })
    end()
    expect((await connect()).body).toMatchObject({ expires_in: 3600 })
  })

  it('answers with another iss or none, and changes what metadata promise', async () => {
    await start()
    const choices = { choose: 'ada-at-files' }
    const issuerOf = async () => {
      const callback = await authorizeAs(createBrowser(), authorizationRequest(), choices)
      expect(callback.searchParams.has('code')).toBe(true)
      return callback.searchParams.get('iss')
    }
    server.answerWithIssuer({ other: 'http://evil.example' })
    expect(await issuerOf()).toBe('http://evil.example')
    server.answerWithIssuer('missing')
    expect(await issuerOf()).toBeNull()
    server.answerWithIssuer('right')
    expect(await issuerOf()).toBe(server.issuer)
    server.changeMetadata((metadata) => ({ ...metadata, issuer: 'http://evil.example' }))
    const metadata = await (await fetch(`${server.url}${endpoints.metadata}`)).json()
    expect(metadata).toMatchObject({ issuer: 'http://evil.example' })
  })
})
