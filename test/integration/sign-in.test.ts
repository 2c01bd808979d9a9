import { createHash } from 'node:crypto'
import { decodeJwt, decodeProtectedHeader, SignJWT } from 'jose'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { Secret } from '../../src/core/secret.ts'
import type { Database } from '../../src/storage/database.ts'
import {
  endpoints,
  type Fault,
  rewriteJson,
  sandboxPeople,
  startIdentityProvider,
  type TestIdentityProvider,
} from '../support/authorization-server.ts'
import { authorizeAs, createBrowser } from '../support/browser.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { authenticatorOf, personOf } from '../support/identity-room.ts'
import { generateSigningKey, issuerConfig, publicUrl } from '../support/issuer-server.ts'
import { createSecretScan, scanDatabase } from '../support/secret-scan.ts'
import {
  answerOf,
  browserCookie,
  codeOf,
  createReplica,
  signInAs,
  type SignInReplica,
} from '../support/sign-in-room.ts'

const scan = createSecretScan()
let provider: TestIdentityProvider
let created: TestDatabase
let database: Database
let replica: SignInReplica
let faults: (() => void)[] = []

beforeAll(async () => {
  provider = await startIdentityProvider({ audience: publicUrl, scan })
  created = await createTestDatabase()
  database = created.database
  replica = createReplica({ provider, database })
})

afterEach(() => {
  for (const end of faults) end()
  faults = []
})

afterAll(async () => {
  await created.drop()
  await provider.stop()
})

function fail(path: string | RegExp, fault: Fault): void {
  faults.push(provider.fail(path, fault))
}

const codeRequests = () => provider.requests({ grantType: 'authorization_code' }).length

async function count(table: 'session' | 'sign_in_flow' | 'sign_in_token'): Promise<number> {
  const [row] = await database.sql<[{ n: number }]>`
    SELECT count(*)::int AS n FROM ${database.sql(table)}`
  return row.n
}

describe('M-L1: signing in', () => {
  it('makes a session of a person, who is out again after the end of it', async () => {
    const params = await answerOf(replica, 'ada', { returnTo: '/connect/ticket?a=b' })
    const done = await replica.signIn.complete({ params, browser: browserCookie })
    expect(done).toEqual({
      session: expect.stringMatching(/^[\w-]{43}$/) as string,
      returnTo: '/connect/ticket?a=b',
      maxAgeSeconds: 3600,
    })
    const found = await replica.signIn.find(done.session)
    expect(found?.person).toEqual({
      issuer: provider.issuer,
      userId: 'ada',
      email: 'ada@example.test',
      roles: ['engineer'],
      admin: false,
      identity: 'token',
    })
    await replica.signIn.end(done.session)
    expect(await replica.signIn.find(done.session)).toBeUndefined()
    await replica.signIn.end(done.session)
  })

  it('gives the same person as an access token of that issuer', async () => {
    const session = await replica.signIn.find(await signInAs(replica, 'linus'))
    const authenticator = authenticatorOf([issuerConfig(provider.issuer)], {
      clock: { now: () => new Date() },
    })
    const token = await provider.issueAccessToken('linus')
    expect(session?.person).toEqual(await personOf(authenticator, token))
    expect(session?.person.admin).toBe(true)
  })

  it('asks with code, PKCE S256, state, nonce, our redirect URI and a challenge to pass on', async () => {
    const claims = '{"access_token":{"acrs":{"essential":true,"value":"c1"}}}'
    const url = new URL(
      await replica.signIn.start({
        returnTo: '/',
        browser: browserCookie,
        claims: new Secret(claims),
      }),
    )
    expect(url.origin + url.pathname).toBe(`${provider.issuer}${endpoints.authorization}`)
    expect(Object.fromEntries(url.searchParams)).toEqual({
      response_type: 'code',
      client_id: provider.clientId,
      redirect_uri: `${publicUrl}/login/callback`,
      scope: 'openid email',
      state: expect.stringMatching(/^[\w-]{43}$/) as string,
      nonce: expect.stringMatching(/^[\w-]{43}$/) as string,
      code_challenge: expect.stringMatching(/^[\w-]{43}$/) as string,
      code_challenge_method: 'S256',
      claims,
    })
  })

  it.each(['//evil.example.com', '/\\evil', 'https://evil.example.com', '', 'x', '/a\r\nb'])(
    'leads to no other place than ours: %j',
    async (returnTo) => {
      const start = replica.signIn.start({ returnTo, browser: browserCookie })
      expect(await codeOf(start)).toBe('invalid_request')
    },
  )
})

describe('the state of a sign-in is in the database', () => {
  it('so another replica can complete it, and every replica knows the session and its end', async () => {
    const other = createReplica({ provider, database })
    const params = await answerOf(replica, 'ada')
    const { session } = await other.signIn.complete({ params, browser: browserCookie })
    const [here, there] = [await replica.signIn.find(session), await other.signIn.find(session)]
    expect(here).toEqual(there)
    await replica.signIn.end(session)
    expect(await other.signIn.find(session)).toBeUndefined()
  })

  it('holds no secret: cookies, states, verifiers, nonces, codes and tokens', async () => {
    const params = await answerOf(replica, 'ada')
    const open = new URL(await replica.signIn.start({ returnTo: '/', browser: browserCookie }))
    const { session } = await replica.signIn.complete({ params, browser: browserCookie })
    const csrfToken = (await replica.signIn.find(session))?.csrfToken
    for (const secret of [
      session,
      csrfToken,
      browserCookie,
      open.searchParams.get('state'),
      open.searchParams.get('nonce'),
    ]) {
      scan.register('sign-in', secret!)
    }
    scan.register(
      'hash of the session, as it is looked up',
      createHash('sha256').update(session).digest('hex'),
    )
    const { findings, cells } = await scanDatabase(scan, database.sql)
    expect(cells).toBeGreaterThan(30)
    expect(scan.size()).toBeGreaterThan(10)
    // The control: what is stored is found.
    expect(findings.filter(({ kind }) => kind.startsWith('hash'))).not.toEqual([])
    expect(findings.filter(({ kind }) => !kind.startsWith('hash'))).toEqual([])
  })

  it('M-L3: goes when it has ended', async () => {
    await replica.signIn.start({ returnTo: '/', browser: browserCookie })
    await signInAs(replica, 'ada')
    await database.sql`UPDATE sign_in_flow SET expires_at = now() - interval '1 second'`
    await database.sql`UPDATE session SET expires_at = now() - interval '1 second'`
    for (let round = 0; round < 3; round += 1) await signInAs(replica, 'ada')
    expect(await count('sign_in_flow')).toBe(0)
    expect(await count('session')).toBe(3)
  })
})

describe('an answer that does not belong to a sign-in of this browser', () => {
  it('completes once, however often it comes at once', async () => {
    const params = await answerOf(replica, 'ada')
    const before = codeRequests()
    const outcomes = await Promise.all(
      Array.from({ length: 10 }, () =>
        codeOf(replica.signIn.complete({ params, browser: browserCookie })),
      ),
    )
    expect(outcomes.toSorted()).toEqual([
      'done',
      ...Array.from({ length: 9 }, () => 'invalid_request'),
    ])
    expect(codeRequests() - before).toBe(1)
  })

  it('is refused in another browser, which does not use it up', async () => {
    const params = await answerOf(replica, 'ada')
    const before = codeRequests()
    for (const browser of [undefined, '', 'another browser']) {
      expect(await codeOf(replica.signIn.complete({ params, browser }))).toBe('invalid_request')
    }
    expect(codeRequests()).toBe(before)
    expect(await codeOf(replica.signIn.complete({ params, browser: browserCookie }))).toBe('done')
  })

  it('is refused when what was kept of it does not open', async () => {
    const params = await answerOf(replica, 'ada')
    await database.sql`UPDATE sign_in_flow SET nonce = code_verifier`
    const completed = replica.signIn.complete({ params, browser: browserCookie })
    expect(await codeOf(completed)).toBe('invalid_request')
  })

  it('is refused after 10 minutes', async () => {
    const params = await answerOf(replica, 'ada')
    await database.sql`UPDATE sign_in_flow SET expires_at = expires_at - interval '10 minutes'`
    const completed = replica.signIn.complete({ params, browser: browserCookie })
    expect(await codeOf(completed)).toBe('invalid_request')
  })

  it.each<[string, (params: URLSearchParams) => void]>([
    ['no state', (params) => params.delete('state')],
    ['an empty state', (params) => params.set('state', '')],
    ['an unknown state', (params) => params.set('state', 'x'.repeat(43))],
    ['two states', (params) => params.append('state', params.get('state') ?? '')],
    ['two codes', (params) => params.append('code', 'x')],
    ['code and error', (params) => params.append('error', 'access_denied')],
    ['neither code nor error', (params) => params.delete('code')],
    ['two issuers', (params) => params.append('iss', params.get('iss') ?? '')],
    ['another issuer (RFC 9207)', (params) => params.set('iss', 'https://evil.example.com')],
    ['the issuer with a slash more', (params) => params.set('iss', `${params.get('iss')}/`)],
    ['no issuer, which the metadata promise', (params) => params.delete('iss')],
  ])('is refused without a token request: %s', async (_what, change) => {
    const params = new URLSearchParams(await answerOf(replica, 'ada'))
    change(params)
    const [before, sessions] = [codeRequests(), await count('session')]
    const completed = replica.signIn.complete({ params, browser: browserCookie })
    expect(await codeOf(completed)).toBe('invalid_request')
    expect(codeRequests()).toBe(before)
    expect(await count('session')).toBe(sessions)
  })

  it('is refused with a code that was made up or used', async () => {
    const params = new URLSearchParams(await answerOf(replica, 'ada'))
    params.set('code', 'CNRY-CODE-made-up')
    const completed = replica.signIn.complete({ params, browser: browserCookie })
    expect(await codeOf(completed, 'CNRY-CODE')).toBe('invalid_request')
  })
})

describe('an error of the identity provider', () => {
  it.each([
    ['access_denied', 'forbidden'],
    ['login_required', 'forbidden'],
    ['interaction_required', 'forbidden'],
    ['<script>alert(1)</script>', 'forbidden'],
    ['server_error', 'issuer_unavailable'],
    ['temporarily_unavailable', 'issuer_unavailable'],
  ])('%s is told in our own words: %s', async (error, code) => {
    const { searchParams } = new URL(
      await replica.signIn.start({ returnTo: '/', browser: browserCookie }),
    )
    const params = new URLSearchParams({
      error,
      error_description: 'CNRY-their-own-text',
      state: searchParams.get('state')!,
      iss: provider.issuer,
    })
    const before = codeRequests()
    const completed = replica.signIn.complete({ params, browser: browserCookie })
    expect(await codeOf(completed, 'CNRY-their', error)).toBe(code)
    expect(codeRequests()).toBe(before)
    const again = replica.signIn.complete({ params, browser: browserCookie })
    expect(await codeOf(again)).toBe('invalid_request')
  })
})

describe('the ID token', () => {
  /** The claims of a good one, without those that `changes` leaves out. */
  async function idToken(changes: Record<string, unknown>, nonce: string): Promise<string> {
    const now = Math.floor(Date.now() / 1000)
    return provider.sign(
      {
        iss: provider.issuer,
        sub: 'ada',
        aud: provider.clientId,
        iat: now,
        exp: now + 600,
        nonce,
        ...changes,
      },
      {},
    )
  }

  /** Signs in while the provider's answer carries another ID token. */
  async function signInWith(make: (nonce: string) => Promise<string | undefined>): Promise<string> {
    const url = new URL(await replica.signIn.start({ returnTo: '/', browser: browserCookie }))
    const answer = await authorizeAs(createBrowser(), url, { choose: 'ada' })
    const id_token = await make(url.searchParams.get('nonce')!)
    fail(
      endpoints.token,
      rewriteJson((body) => ({ ...body, id_token })),
    )
    const sessions = await count('session')
    const code = await codeOf(
      replica.signIn.complete({ params: answer.searchParams, browser: browserCookie }),
    )
    expect((await count('session')) - sessions).toBe(code === 'done' ? 1 : 0)
    return code
  }

  it('is taken when it is good, so that the refusals below are for what they change', async () => {
    expect(await signInWith((nonce) => idToken({}, nonce))).toBe('done')
  })

  it.each<[string, Record<string, unknown>]>([
    ['of another sign-in (nonce)', { nonce: 'another' }],
    ['of another issuer', { iss: 'https://evil.example.com' }],
    ['for another client', { aud: 'another' }],
    ['for us and another client, authorized for that one', { aud: ['onbehalf', 'x'], azp: 'x' }],
    ['that has ended', { exp: Math.floor(Date.now() / 1000) - 60 }],
  ])('is refused: %s', async (_what, changes) => {
    expect(await signInWith((nonce) => idToken(changes, nonce))).toBe('invalid_request')
  })

  it.each<[string, Record<string, unknown>]>([
    ['a nonce', { nonce: undefined }],
    ['a subject', { sub: undefined }],
    ['an end', { exp: undefined }],
  ])('makes no sense without %s', async (_what, changes) => {
    expect(await signInWith((nonce) => idToken(changes, nonce))).toBe('issuer_unavailable')
  })

  it('is refused with a signature that is not the issuer’s', async () => {
    const stranger = await generateSigningKey('x')
    const code = await signInWith(async (nonce) => {
      const good = await idToken({}, nonce)
      return new SignJWT(decodeJwt(good))
        .setProtectedHeader({ ...decodeProtectedHeader(good), alg: 'ES256' })
        .sign(stranger.privateKey)
    })
    expect(code).toBe('invalid_request')
  })

  it('is refused unsigned, and missed when it is not there', async () => {
    const unsigned = await signInWith(async (nonce) => {
      const [, claims] = (await idToken({}, nonce)).split('.')
      return `${Buffer.from('{"alg":"none"}').toString('base64url')}.${claims}.`
    })
    expect(unsigned).toBe('issuer_unavailable')
    expect(await signInWith(async () => undefined)).toBe('issuer_unavailable')
  })
})

describe('the identity provider in trouble', () => {
  it.each<[string, string, Fault]>([
    ['a token endpoint with 500', endpoints.token, { kind: 'answer', status: 500 }],
    [
      'a token endpoint that answers HTML',
      endpoints.token,
      {
        kind: 'answer',
        status: 200,
        headers: { 'content-type': 'text/html' },
        body: '<p>CNRY-html',
      },
    ],
    ['a token endpoint that goes away', endpoints.token, { kind: 'lose' }],
    [
      'our own secret refused',
      endpoints.token,
      {
        kind: 'answer',
        status: 401,
        headers: { 'content-type': 'application/json' },
        body: '{"error":"invalid_client","error_description":"CNRY-html"}',
      },
    ],
  ])('%s is 503', async (_what, path, fault) => {
    const params = await answerOf(replica, 'ada')
    fail(path, fault)
    const completed = replica.signIn.complete({ params, browser: browserCookie })
    expect(await codeOf(completed, 'CNRY-html')).toBe('issuer_unavailable')
  })

  it('asks for metadata once, however many open a page while they cannot be had', async () => {
    const fresh = createReplica({ provider, database })
    const asked = () => provider.received(endpoints.openidMetadata).length
    const before = asked()
    fail(endpoints.openidMetadata, { kind: 'delay', ms: 200 })
    const begin = () => fresh.signIn.start({ returnTo: '/', browser: browserCookie })
    await Promise.all(Array.from({ length: 50 }, begin))
    expect(asked() - before).toBe(1)
  })

  it('metadata that cannot be had are 503 at the first sign-in, and kept while they are known', async () => {
    const fresh = createReplica({ provider, database })
    fail(/\.well-known/, { kind: 'answer', status: 503 })
    const start = () => fresh.signIn.start({ returnTo: '/', browser: browserCookie })
    expect(await codeOf(start())).toBe('issuer_unavailable')
    expect(fresh.warnings).toEqual(['sign_in_unavailable refused'])
    expect(await codeOf(replica.signIn.start({ returnTo: '/', browser: browserCookie }))).toBe(
      'done',
    )
    for (const end of faults) end()
    expect(await codeOf(start())).toBe('done')
  })

  it('sends nobody to a script', async () => {
    const fresh = createReplica({ provider, database })
    fail(
      /\.well-known/,
      rewriteJson((metadata) => ({ ...metadata, authorization_endpoint: 'javascript:alert(1)' })),
    )
    const start = fresh.signIn.start({ returnTo: '/', browser: browserCookie })
    expect(await codeOf(start)).toBe('issuer_unavailable')
  })
})

describe('claims that the ID token lacks', () => {
  let brief: TestIdentityProvider
  let there: SignInReplica

  beforeAll(async () => {
    brief = await startIdentityProvider({ audience: publicUrl, claimsIn: 'userinfo' })
    there = createReplica({ provider: brief, database })
  })
  afterAll(() => brief.stop())

  const signInThere = async () => {
    const params = await answerOf(there, 'linus')
    return there.signIn.complete({ params, browser: browserCookie })
  }

  it('come from userinfo', async () => {
    const { session } = await signInThere()
    const found = await there.signIn.find(session)
    expect(found?.person).toMatchObject({
      userId: 'linus',
      email: 'linus@example.test',
      admin: true,
    })
  })

  it('are not taken from a userinfo answer about someone else', async () => {
    const end = brief.fail(
      endpoints.userinfo,
      rewriteJson((body) => ({ ...body, sub: 'ada' })),
    )
    expect(await codeOf(signInThere())).toBe('unauthenticated')
    end()
  })

  it('are not silently missing while userinfo is in trouble', async () => {
    const end = brief.fail(endpoints.userinfo, { kind: 'answer', status: 500 })
    expect(await codeOf(signInThere())).toBe('issuer_unavailable')
    end()
  })

  it('stay out where the access token is for another server and userinfo refuses it', async () => {
    const end = brief.fail(endpoints.userinfo, { kind: 'answer', status: 401 })
    const { session } = await signInThere()
    const found = await there.signIn.find(session)
    expect(found?.person).toMatchObject({ userId: 'linus', email: undefined })
    end()
  })
})

describe('M-L3: required claims', () => {
  it('refuse who does not have them, without a session or a stored token', async () => {
    const strict = createReplica({
      provider,
      database,
      issuer: { requiredClaims: { email: 'grace@example.test' } },
    })
    const before = [await count('session'), await count('sign_in_token')]
    const params = await answerOf(strict, 'ada')
    const refused = strict.signIn.complete({ params, browser: browserCookie })
    expect(await codeOf(refused)).toBe('forbidden')
    expect([await count('session'), await count('sign_in_token')]).toEqual(before)
    expect(await signInAs(strict, 'grace')).toMatch(/^[\w-]{43}$/)
  })
})

describe('a session', () => {
  it('is nobody’s after its time', async () => {
    const short = createReplica({ provider, database, login: { sessionSeconds: 60 } })
    const session = await signInAs(short, 'ada')
    expect(await short.signIn.find(session)).toBeDefined()
    await database.sql`UPDATE session SET expires_at = expires_at - interval '61 seconds'`
    expect(await short.signIn.find(session)).toBeUndefined()
  })

  it.each(['', 'x', 'x'.repeat(43), 'x'.repeat(100_000), "' OR 1=1--", 'x'.repeat(42) + '\u0000'])(
    'is not guessed: %#',
    async (session) => {
      expect(await replica.signIn.find(session)).toBeUndefined()
      await replica.signIn.end(session)
    },
  )

  it('has a CSRF token of its own that does not give it away', async () => {
    const [first, second] = [await signInAs(replica, 'ada'), await signInAs(replica, 'ada')]
    const tokens = await Promise.all([first, first, second].map((one) => replica.signIn.find(one)))
    const [a, again, b] = tokens.map((one) => one?.csrfToken)
    expect(a).toBe(again)
    expect(a).not.toBe(b)
    expect(a).not.toContain(first)
    expect(createHash('sha256').update(first).digest('base64url')).not.toBe(a)
  })

  it('has the administration rights of today’s configuration', async () => {
    const session = await signInAs(replica, 'linus')
    expect((await replica.signIn.find(session))?.person.admin).toBe(true)
    await database.sql`UPDATE session SET roles = '{engineer}'`
    expect((await replica.signIn.find(session))?.person.admin).toBe(false)
  })

  it('of an issuer that people no longer sign in at is over', async () => {
    const session = await signInAs(replica, 'ada')
    const moved = createReplica({
      provider: { ...provider, issuer: 'https://new.example.com' },
      database,
    })
    expect(await moved.signIn.find(session)).toBeUndefined()
  })

  it('M-L2: of two people are two, also where one id begins like the other', async () => {
    const people = [...sandboxPeople, { id: 'ad', name: 'Ad', email: 'ad@example.test', roles: [] }]
    const crowded = await startIdentityProvider({ audience: publicUrl, people })
    const there = createReplica({ provider: crowded, database })
    const [ada, ad] = [await signInAs(there, 'ada'), await signInAs(there, 'ad')]
    expect((await there.signIn.find(ada))?.person.userId).toBe('ada')
    expect((await there.signIn.find(ad))?.person.userId).toBe('ad')
    await there.signIn.end(ada)
    expect((await there.signIn.find(ad))?.person.userId).toBe('ad')
    await crowded.stop()
  })
})
