import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { Secret } from '../../src/core/secret.ts'
import { createFakeClock, type FakeClock } from '../support/fake-clock.ts'
import {
  api,
  at,
  authenticatorOf,
  outcomeOf,
  personOf,
  type TestAuthenticator,
} from '../support/identity-room.ts'
import {
  claimsOf,
  generateSigningKey,
  introspectingConfig,
  introspectionPath,
  issuerConfig,
  jwksPath,
  publicUrl,
  startIssuer,
  type TestIssuer,
} from '../support/issuer-server.ts'
import { json, type Script, text } from '../support/scripted-server.ts'

let clock: FakeClock
let login: TestIssuer
let second: TestIssuer

beforeEach(async () => {
  clock = createFakeClock()
  login = await startIssuer(clock)
  second = await startIssuer(clock)
})

afterEach(() => Promise.all([login.close(), second.close()]))

const hang: Script = () => {}
const nowSeconds = () => clock.now().getTime() / 1000
const asked = (issuer: TestIssuer) => issuer.requests(introspectionPath).length

/** What an issuer says of a good token. */
function active(issuer: TestIssuer, changes: Record<string, unknown> = {}): Script {
  return json({ active: true, ...claimsOf(issuer.issuer, clock), ...changes })
}

function introspecting(changes: Parameters<typeof introspectingConfig>[1] = {}): TestAuthenticator {
  return authenticatorOf([introspectingConfig(login.issuer, changes)], { clock })
}

describe('RFC 7662 §2.1: the request', () => {
  it('is a form with the token, authenticated by HTTP Basic, and carries nothing else', async () => {
    login.script(introspectionPath, active(login))
    const opaque = 'CNRY-IN-opaque+/=~token'
    expect(await outcomeOf(introspecting(), opaque)).toBe('accepted')
    const [request] = login.requests(introspectionPath)
    expect(request?.method).toBe('POST')
    expect(request?.headers['content-type']).toBe('application/x-www-form-urlencoded')
    expect([...request!.form]).toEqual([
      ['token', opaque],
      ['token_type_hint', 'access_token'],
    ])
    const pair = Buffer.from(request!.headers.authorization!.slice('Basic '.length), 'base64')
    expect(pair.toString()).toBe('broker:CNRY-CS-introspection')
  })

  it('form-encodes id and secret before they become a Basic pair (RFC 6749 §2.3.1)', async () => {
    login.script(introspectionPath, active(login))
    const { introspection } = introspectingConfig(login.issuer)
    const authenticator = introspecting({
      introspection: { ...introspection!, clientId: 'a:b c', clientSecret: new Secret('p%q&é') },
    })
    await outcomeOf(authenticator, 'opaque')
    const header = login.requests(introspectionPath)[0]!.headers.authorization!
    expect(Buffer.from(header.slice(6), 'base64').toString()).toBe('a%3Ab+c:p%25q%26%C3%A9')
  })
})

describe('RFC 7662 §2.2, F-3, J7: the answer', () => {
  it('makes a person of the claims of a full yes', async () => {
    login.script(
      introspectionPath,
      active(login, {
        email: 'a@example.com',
        roles: ['x'],
        aud: ['https://else.example.com', publicUrl],
      }),
    )
    expect(await introspecting().verifyBearer('opaque', api)).toMatchObject({
      issuer: login.issuer,
      userId: 'alice',
      email: 'a@example.com',
      roles: ['x'],
      identity: 'token',
    })
  })

  it.each<[string, () => Record<string, unknown>]>([
    ['active false', () => ({ active: false })],
    ['active as a text', () => ({ active: 'true' })],
    ['active as a number', () => ({ active: 1 })],
    ['no active', () => ({ active: undefined })],
    ['no user claim', () => ({ sub: undefined })],
    ['a number as the user', () => ({ sub: 7 })],
    ['no audience', () => ({ aud: undefined })],
    ['another audience', () => ({ aud: 'https://else.example.com' })],
    ['another issuer', () => ({ iss: 'https://else.example.com' })],
    ['no exp', () => ({ exp: undefined })],
    ['exp as a text', () => ({ exp: '99999999999' })],
    ['expired 31 s ago', () => ({ exp: nowSeconds() - 31 })],
    ['not before 31 s from now', () => ({ nbf: nowSeconds() + 31 })],
    ['a refresh token', () => ({ typ: 'Refresh' })],
    ['a refresh token in the words of another server', () => ({ token_use: 'refresh_token' })],
  ])('refuses %s', async (_what, change) => {
    login.script(introspectionPath, active(login, change()))
    expect(await outcomeOf(introspecting(), 'opaque')).toBe('unauthenticated')
  })

  it.each<[string, () => Record<string, unknown>]>([
    ['no issuer', () => ({ iss: undefined })],
    ['null where there is nothing to say', () => ({ iss: null, nbf: null })],
    ['expired 29 s ago', () => ({ exp: nowSeconds() - 29 })],
    ['not before 29 s from now', () => ({ nbf: nowSeconds() + 29 })],
  ])('accepts %s', async (_what, change) => {
    login.script(introspectionPath, active(login, change()))
    expect(await outcomeOf(introspecting(), 'opaque')).toBe('accepted')
  })

  it('applies required_scopes and required_claims', async () => {
    const authenticator = introspecting({
      requiredScopes: ['mcp'],
      requiredClaims: { hd: 'x.com' },
    })
    login.script(introspectionPath, active(login, { hd: 'x.com', scope: 'openid mcp' }))
    expect(await outcomeOf(authenticator, 'good')).toBe('accepted')
    login.script(introspectionPath, active(login, { hd: 'x.com', scope: 'openid' }))
    expect(await outcomeOf(authenticator, 'narrow')).toBe('insufficient_scope')
    login.script(introspectionPath, active(login, { hd: 'y.com', scope: 'openid mcp' }))
    expect(await outcomeOf(authenticator, 'foreign')).toBe('unauthenticated')
  })

  it.each<[string, Script]>([
    ['500', json({}, 500)],
    ['401 for our own secret', json({ error: 'invalid_client' }, 401)],
    ['HTML', text('<html>', 'text/html')],
    ['a list', json([])],
    ['a redirect', (_request, response) => response.writeHead(302, { location: '/' }).end()],
    ['a broken connection', (_request, response) => response.destroy()],
    ['10 MB', text('x'.repeat(10_000_000), 'application/json')],
  ])(
    'says 503 for %s, never 401 or 500, and asks again at the next call',
    async (_what, script) => {
      login.script(introspectionPath, script)
      const authenticator = introspecting()
      expect(await outcomeOf(authenticator, 'opaque')).toBe('issuer_unavailable')
      login.script(introspectionPath, active(login))
      expect(await outcomeOf(authenticator, 'opaque')).toBe('accepted')
    },
  )
})

describe('RFC 7662 §4, F-4, J8: what is remembered', () => {
  it('asks once within the time of the cache, and again after it', async () => {
    login.script(introspectionPath, active(login))
    const authenticator = introspecting()
    await outcomeOf(authenticator, 'opaque')
    clock.advance(29)
    expect(authenticator.verifyBearer('opaque', api)).not.toBeInstanceOf(Promise)
    expect(asked(login)).toBe(1)
    clock.advance(2)
    login.script(introspectionPath, json({ active: false }))
    expect(await outcomeOf(authenticator, 'opaque')).toBe('unauthenticated')
    expect(asked(login)).toBe(2)
  })

  it('remembers nothing past the end of the token', async () => {
    login.script(introspectionPath, active(login, { exp: nowSeconds() + 10 }))
    const authenticator = introspecting()
    await outcomeOf(authenticator, 'opaque')
    clock.advance(9)
    await outcomeOf(authenticator, 'opaque')
    expect(asked(login)).toBe(1)
    clock.advance(2)
    await outcomeOf(authenticator, 'opaque')
    expect(asked(login)).toBe(2)
  })

  it('T15: notices a revoked token after the time of the cache', async () => {
    login.script(introspectionPath, active(login))
    const { introspection } = introspectingConfig(login.issuer)
    const authenticator = introspecting({ introspection: { ...introspection!, cacheSeconds: 0 } })
    expect(await outcomeOf(authenticator, 'opaque')).toBe('accepted')
    login.script(introspectionPath, json({ active: false }))
    expect(await outcomeOf(authenticator, 'opaque')).toBe('unauthenticated')
  })

  it('remembers a refusal for 5 s, of that whole token only', async () => {
    const authenticator = introspecting()
    const token = 'x'.repeat(300)
    expect(await outcomeOf(authenticator, `${token}1`)).toBe('unauthenticated')
    login.script(introspectionPath, active(login))
    clock.advance(4)
    expect(await outcomeOf(authenticator, `${token}1`)).toBe('unauthenticated')
    expect(await outcomeOf(authenticator, `${token}2`)).toBe('accepted')
    expect(asked(login)).toBe(2)
    clock.advance(1)
    expect(await outcomeOf(authenticator, `${token}1`)).toBe('accepted')
  })

  it('T14: judges the audience at every use, and a refusal at one does not count at another', async () => {
    login.script(introspectionPath, active(login, { aud: `${publicUrl}/mcp/a` }))
    const authenticator = introspecting()
    expect(await outcomeOf(authenticator, 'opaque', at('b'))).toBe('unauthenticated')
    expect(await outcomeOf(authenticator, 'opaque', at('a'))).toBe('accepted')
    expect(await outcomeOf(authenticator, 'opaque', api)).toBe('unauthenticated')
    expect(asked(login)).toBe(1)
  })

  it('asks once for a token that many present at once', async () => {
    login.script(introspectionPath, active(login))
    const authenticator = introspecting()
    await Promise.all(Array.from({ length: 20 }, () => personOf(authenticator, 'opaque')))
    expect(asked(login)).toBe(1)
  })

  it('has at most 50 requests open at an issuer', async () => {
    const open: (() => void)[] = []
    login.script(introspectionPath, (request, response) => {
      open.push(() => json({ active: false })(request, response))
    })
    const authenticator = introspecting()
    const outcomes = Array.from({ length: 60 }, (_, index) => outcomeOf(authenticator, `t${index}`))
    await expect.poll(() => open.length).toBe(50)
    open.shift()?.()
    await expect.poll(() => open.length).toBe(50)
    expect(asked(login)).toBe(51)
    login.script(introspectionPath, json({ active: false }))
    for (const answer of open) answer()
    expect(new Set(await Promise.all(outcomes))).toEqual(new Set(['unauthenticated']))
  })
})

describe('T-16: an opaque bearer, whatever its shape', () => {
  it.each(['opaque', 'a.b.c', '1|abc', 'eyJhbGciOiJFUzI1NiJ9.bm90IGpzb24.x', 'a.b.c.d.e', '..'])(
    'is asked about: %s',
    async (token) => {
      login.script(introspectionPath, active(login))
      expect(await outcomeOf(introspecting(), token)).toBe('accepted')
      expect(login.requests(introspectionPath)[0]?.form.get('token')).toBe(token)
    },
  )

  it('goes to each issuer with introspection in their order until one says active', async () => {
    const third = await startIssuer(clock)
    second.script(introspectionPath, active(second))
    third.script(introspectionPath, active(third))
    const authenticator = authenticatorOf(
      [
        introspectingConfig(login.issuer),
        introspectingConfig(second.issuer),
        introspectingConfig(third.issuer),
      ],
      { clock },
    )
    const person = await authenticator.verifyBearer('opaque', api)
    expect(person.issuer).toBe(second.issuer)
    expect([asked(login), asked(second), asked(third)]).toEqual([1, 1, 0])
    await third.close()
  })

  it('passes over an issuer that says active for another audience', async () => {
    login.script(introspectionPath, active(login, { aud: 'https://else.example.com' }))
    second.script(introspectionPath, active(second))
    const authenticator = authenticatorOf(
      [introspectingConfig(login.issuer), introspectingConfig(second.issuer)],
      { clock },
    )
    expect((await authenticator.verifyBearer('opaque', api)).issuer).toBe(second.issuer)
  })

  it('T-17: is 503 only when none said active and one could not be asked', async () => {
    const authenticator = authenticatorOf(
      [introspectingConfig(login.issuer), introspectingConfig(second.issuer)],
      { clock },
    )
    login.script(introspectionPath, json({}, 500))
    second.script(introspectionPath, active(second))
    expect(await outcomeOf(authenticator, 'one')).toBe('accepted')
    second.script(introspectionPath, json({ active: false }))
    expect(await outcomeOf(authenticator, 'two')).toBe('issuer_unavailable')
    login.script(introspectionPath, json({ active: false }))
    expect(await outcomeOf(authenticator, 'two')).toBe('unauthenticated')
  })

  it('is refused where no issuer is asked about tokens', async () => {
    const authenticator = authenticatorOf([issuerConfig(login.issuer)], { clock })
    expect(await outcomeOf(authenticator, 'opaque')).toBe('unauthenticated')
    expect(login.connections()).toBe(0)
  })

  it('may not be shown to several issuers unless the operator said so', () => {
    const several = [introspectingConfig(login.issuer), introspectingConfig(second.issuer)]
    expect(() => authenticatorOf(several, { clock, shareOpaqueTokens: false })).toThrow(/tokens of/)
  })
})

describe('a JWT where its issuer is asked about it', () => {
  it('goes to the issuer that it names and to no other', async () => {
    const authenticator = authenticatorOf(
      [introspectingConfig(login.issuer), introspectingConfig(second.issuer)],
      { clock },
    )
    second.script(introspectionPath, active(second))
    expect((await authenticator.verifyBearer(await second.mint(), api)).issuer).toBe(second.issuer)
    expect(asked(login)).toBe(0)
    const foreign = await login.mint({ iss: 'https://else.example.com' })
    expect(await outcomeOf(authenticator, foreign)).toBe('unauthenticated')
    expect([asked(login), asked(second)]).toEqual([0, 1])
  })
})

describe('T-15: jwt_then_introspection', () => {
  const both = (changes: Parameters<typeof introspectingConfig>[1] = {}) =>
    introspecting({ validation: 'jwt_then_introspection', ...changes })

  it('does not ask about a JWT that is accepted here', async () => {
    expect(await outcomeOf(both(), await login.mint())).toBe('accepted')
    expect(asked(login)).toBe(0)
  })

  it('does not ask about one that has expired', async () => {
    login.script(introspectionPath, active(login))
    const token = await login.mint({ exp: Math.floor(nowSeconds()) - 31 })
    expect(await outcomeOf(both(), token)).toBe('unauthenticated')
    expect(asked(login)).toBe(0)
  })

  it('does not ask about an ID token, whatever its issuer would say of it', async () => {
    login.script(introspectionPath, active(login))
    const token = await login.mint({ at_hash: 'x' }, { header: { typ: 'JWT' } })
    expect(await outcomeOf(both(), token)).toBe('unauthenticated')
    expect(asked(login)).toBe(0)
  })

  it.each<[string, () => Promise<string>]>([
    ['another audience', () => login.mint({ aud: 'https://else.example.com' })],
    ['too little scope', () => login.mint({ scope: 'openid' })],
    ['a later nbf', () => login.mint({ scope: 'mcp', nbf: nowSeconds() + 100 })],
    [
      'an algorithm that is not allowed',
      async () => login.mint({ scope: 'mcp' }, { key: await generateSigningKey('k9', 'ES384') }),
    ],
    [
      'an unknown key',
      async () => login.mint({ scope: 'mcp' }, { key: await generateSigningKey('k9') }),
    ],
    [
      'a signature that does not fit',
      async () => `${(await login.mint({ scope: 'mcp' })).slice(0, -6)}AAAAAA`,
    ],
  ])('asks about one with %s', async (_what, mint) => {
    login.script(introspectionPath, active(login, { scope: 'mcp' }))
    expect(await outcomeOf(both({ requiredScopes: ['mcp'] }), await mint())).toBe('accepted')
    expect(asked(login)).toBe(1)
  })

  it('too little scope stays 403 where the issuer knows nothing of the JWT', async () => {
    const authenticator = both({ requiredScopes: ['mcp'] })
    const token = await login.mint({ scope: 'openid' })
    expect(await outcomeOf(authenticator, token)).toBe('insufficient_scope')
    expect(asked(login)).toBe(1)
    const forOthers = await login.mint({ scope: 'openid', aud: 'https://else.example.com' })
    expect(await outcomeOf(authenticator, forOthers)).toBe('unauthenticated')
  })

  it('T-17: asks when the keys cannot be had, and says 503 when that fails too', async () => {
    login.script(jwksPath, json({}, 500))
    login.script(introspectionPath, active(login))
    const authenticator = both()
    expect(await outcomeOf(authenticator, await login.mint())).toBe('accepted')
    login.script(introspectionPath, json({}, 500))
    expect(await outcomeOf(authenticator, await login.mint({ sub: 'bob' }))).toBe(
      'issuer_unavailable',
    )
    login.script(introspectionPath, json({ active: false }))
    expect(await outcomeOf(authenticator, await login.mint({ sub: 'bob' }))).toBe('unauthenticated')
  })

  it('asks about a token for one upstream that is presented at another, and keeps to the answer', async () => {
    const token = await login.mint({ aud: `${publicUrl}/mcp/a` })
    login.script(introspectionPath, active(login, { aud: `${publicUrl}/mcp/a` }))
    const authenticator = both()
    expect(await outcomeOf(authenticator, token, at('a'))).toBe('accepted')
    expect(await outcomeOf(authenticator, token, at('b'))).toBe('unauthenticated')
    expect(await outcomeOf(authenticator, token, at('b'))).toBe('unauthenticated')
    expect(asked(login)).toBe(1)
    expect(await outcomeOf(authenticator, token, at('a'))).toBe('accepted')
  })
})

describe('F-7: introspection without its settings', () => {
  it('is refused when it is put together', () => {
    for (const validation of ['introspection', 'jwt_then_introspection'] as const) {
      expect(() =>
        authenticatorOf([issuerConfig(login.issuer, { validation })], { clock }),
      ).toThrow(/introspection endpoint/)
    }
  })
})

describe('J4: an issuer that hangs', () => {
  it('does not keep remembered tokens from being answered', async () => {
    login.script(introspectionPath, active(login))
    const authenticator = introspecting()
    await outcomeOf(authenticator, 'known')
    login.script(introspectionPath, hang)
    const waiting = outcomeOf(authenticator, 'unknown')
    expect(await outcomeOf(authenticator, 'known')).toBe('accepted')
    await expect.poll(() => asked(login)).toBe(2)
    await login.close()
    expect(await waiting).toBe('issuer_unavailable')
  })
})
