import { SignJWT } from 'jose'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Secret } from '../../src/core/secret.ts'
import { createFakeClock } from '../support/fake-clock.ts'
import { api, at, authenticatorOf, outcomeOf, personOf } from '../support/identity-room.ts'
import {
  claimsOf,
  generateSigningKey,
  issuerConfig,
  jwksPath,
  publicUrl,
  startIssuer,
  type TestIssuer,
} from '../support/issuer-server.ts'

const clock = createFakeClock()
let login: TestIssuer

beforeAll(async () => {
  login = await startIssuer(clock)
})
afterAll(() => login.close())

function withIssuer(changes: Parameters<typeof issuerConfig>[1] = {}) {
  return authenticatorOf([issuerConfig(login.issuer, changes)], { clock })
}

describe('RFC 9068 §2.1: typ', () => {
  const mint = (typ: unknown) => login.mint({}, { header: { typ } })

  it.each(['at+jwt', 'AT+JWT', 'application/at+jwt', 'JWT', 'jwt', undefined])(
    'accepts %s',
    async (typ) => {
      expect(await outcomeOf(withIssuer(), await mint(typ))).toBe('accepted')
    },
  )

  it.each(['at+jwt', 'application/at+jwt'])('accepts %s where it is required', async (typ) => {
    expect(await outcomeOf(withIssuer({ requireAtJwt: true }), await mint(typ))).toBe('accepted')
  })

  it.each(['JWT', undefined, ''])('refuses %s where at+jwt is required', async (typ) => {
    const authenticator = withIssuer({ requireAtJwt: true })
    expect(await outcomeOf(authenticator, await mint(typ))).toBe('unauthenticated')
  })

  it.each([
    'logout+jwt',
    'secevent+jwt',
    'dpop+jwt',
    'oauth-id-jag+jwt',
    'token-introspection+jwt',
    'JOSE',
    'application/jwt',
    '',
    1,
    null,
    ['at+jwt'],
  ])('never accepts %j', async (typ) => {
    expect(await outcomeOf(withIssuer(), await mint(typ))).toBe('unauthenticated')
  })
})

describe('RFC 9068 §4: validation, F-2, H-G1', () => {
  it('F-1: accepts a good token with claims of its own', async () => {
    const person = await withIssuer().verifyBearer(await login.mint({ tenant: 'x' }), api)
    expect(person).toMatchObject({ issuer: login.issuer, userId: 'alice' })
  })

  it.each<[string, () => Promise<string>]>([
    ['expired', () => login.mint({ exp: Math.floor(clock.now().getTime() / 1000) - 31 })],
    ['nbf to come', () => login.mint({ nbf: Math.floor(clock.now().getTime() / 1000) + 31 })],
    ['wrong audience', () => login.mint({ aud: 'https://else.example.com' })],
    ['wrong issuer', () => login.mint({ iss: 'https://else.example.com' })],
    ['malformed', async () => 'a.b.c'],
    ['no key id', () => login.mint({}, { header: { kid: undefined } })],
    ['unknown key id', () => login.mint({}, { header: { kid: 'nobody' } })],
    [
      'disallowed algorithm',
      async () => login.mint({}, { key: await generateSigningKey('k1', 'PS256') }),
    ],
    ['bad signature', async () => `${(await login.mint()).slice(0, -6)}AAAAAA`],
  ])('refuses a token: %s', async (_what, mint) => {
    expect(await outcomeOf(withIssuer(), await mint())).toBe('unauthenticated')
  })

  it.each(['RS256', 'ES256', 'EdDSA', 'PS256', 'ES384', 'RS512'])(
    'verifies %s where it is allowed, and not where it is not',
    async (alg) => {
      const issuer = await startIssuer(clock)
      const key = await generateSigningKey('only', alg)
      issuer.publish([key.jwk])
      const token = await issuer.mint({}, { key })
      const allowing = authenticatorOf([issuerConfig(issuer.issuer, { algorithms: [alg] })], {
        clock,
      })
      expect(await outcomeOf(allowing, token)).toBe('accepted')
      const others = ['RS256', 'ES256', 'EdDSA', 'PS256', 'ES384', 'RS512'].filter(
        (name) => name !== alg,
      )
      const refusing = authenticatorOf([issuerConfig(issuer.issuer, { algorithms: others })], {
        clock,
      })
      expect(await outcomeOf(refusing, token)).toBe('unauthenticated')
      await issuer.close()
    },
  )

  it('verifies HS256 with the configured secret and without asking the issuer for anything', async () => {
    const issuer = await startIssuer(clock)
    const secret = 'a shared secret of thirty-two bytes!'
    const authenticator = authenticatorOf(
      [issuerConfig(issuer.issuer, { algorithms: ['HS256'], secret: new Secret(secret) })],
      { clock },
    )
    const sign = (text: string) =>
      new SignJWT(claimsOf(issuer.issuer, clock))
        .setProtectedHeader({ alg: 'HS256' })
        .sign(Buffer.from(text))
    expect(await outcomeOf(authenticator, await sign(secret))).toBe('accepted')
    expect(await outcomeOf(authenticator, await sign(`${secret}x`))).toBe('unauthenticated')
    expect(await outcomeOf(authenticator, await issuer.mint())).toBe('unauthenticated')
    expect(await authenticator.probe()).toEqual([])
    expect(issuer.connections()).toBe(0)
    await issuer.close()
  })

  it('F-7: is refused when HS256 is allowed without a secret', () => {
    expect(() => withIssuer({ algorithms: ['HS256'] })).toThrow(/secret/)
  })

  it('refuses an extension that we do not understand (RFC 7515 §4.1.11)', async () => {
    const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url')
    const header = part({ alg: 'ES256', kid: 'k1', crit: ['x'], x: 1 })
    const input = `${header}.${part(claimsOf(login.issuer, clock))}`
    const signature = await crypto.subtle.sign(
      { name: 'ECDSA', hash: 'SHA-256' },
      login.keys[0]!.privateKey,
      Buffer.from(input),
    )
    const token = `${input}.${Buffer.from(signature).toString('base64url')}`
    expect(await outcomeOf(withIssuer(), token)).toBe('unauthenticated')
  })
})

describe('RFC 9068 §2.2.3: scopes', () => {
  const needsTwo = () => withIssuer({ requiredScopes: ['mcp:read', 'mcp:write'] })

  it.each([
    [{ scope: 'openid mcp:read mcp:write' }],
    [{ scope: ['mcp:read', 'mcp:write'] }],
    [{ scp: 'mcp:read mcp:write' }],
    [{ scp: ['mcp:read', 'mcp:write'] }],
    [{ scope: 'mcp:read', scp: ['mcp:write'] }],
  ])('reads them from %j', async (claims) => {
    expect(await outcomeOf(needsTwo(), await login.mint(claims))).toBe('accepted')
  })

  it.each([[{}], [{ scope: 'mcp:read' }], [{ scope: 'mcp:read-write mcp:write' }], [{ scope: 1 }]])(
    'finds too little in %j and says all that is needed',
    async (claims) => {
      const verified = needsTwo().verifyBearer(await login.mint(claims), api)
      await expect(verified).rejects.toMatchObject({
        code: 'insufficient_scope',
        details: { scopes: ['mcp:read', 'mcp:write'] },
      })
    },
  )

  it('says a wrong audience before too little scope', async () => {
    const token = await login.mint({ aud: `${publicUrl}/mcp/a` })
    expect(await outcomeOf(needsTwo(), token, at('b'))).toBe('unauthenticated')
    expect(await outcomeOf(needsTwo(), token, at('a'))).toBe('insufficient_scope')
  })
})

describe('the configured audiences', () => {
  it('replace the public URL, and serve at every upstream', async () => {
    const authenticator = withIssuer({ audiences: ['api://broker', 'https://other.example.com'] })
    for (const aud of ['api://broker', 'https://other.example.com', ['x', 'api://broker']]) {
      const token = await login.mint({ aud })
      expect(await outcomeOf(authenticator, token)).toBe('accepted')
      expect(await outcomeOf(authenticator, token, at('b'))).toBe('accepted')
    }
    expect(await outcomeOf(authenticator, await login.mint())).toBe('unauthenticated')
  })
})

describe('M-R6: a token of nobody', () => {
  it.each([undefined, '', null, 7, ['ada'], {}])('is refused with the user %j', async (sub) => {
    expect(await outcomeOf(withIssuer(), await login.mint({ sub: sub as string }))).toBe(
      'unauthenticated',
    )
  })
})

describe('required_claims', () => {
  it('are compared by value and type, at any depth', async () => {
    const authenticator = withIssuer({
      requiredClaims: { hd: 'example.com', verified: true, level: 2, 'org.name': 'x' },
    })
    const good = { hd: 'example.com', verified: true, level: 2, org: { name: 'x' } }
    expect(await outcomeOf(authenticator, await login.mint(good))).toBe('accepted')
    for (const change of [
      { hd: undefined },
      { hd: 'evil.com' },
      { hd: ['example.com', 'evil.com'] },
      { verified: 'true' },
      { level: '2' },
      { org: {} },
    ]) {
      const token = await login.mint({ ...good, ...change })
      expect(await outcomeOf(authenticator, token)).toBe('unauthenticated')
    }
  })
})

describe('the claims that make a person', () => {
  it('are the configured ones', async () => {
    const authenticator = withIssuer({
      claims: { user: 'oid', email: 'upn', roles: 'realm_access.roles' },
    })
    const token = await login.mint({
      oid: 'o1',
      upn: 'a@example.com',
      realm_access: { roles: ['a', 'b', 7, 'x\u0000'] },
    })
    expect(await authenticator.verifyBearer(token, api)).toMatchObject({
      userId: 'o1',
      email: 'a@example.com',
      roles: ['a', 'b'],
    })
    expect(await outcomeOf(authenticator, await login.mint())).toBe('unauthenticated')
  })

  it('take a member with dots in its name before nested ones', async () => {
    const authenticator = withIssuer({
      claims: { user: 'sub', email: 'email', roles: 'https://x.example/roles' },
    })
    const token = await login.mint({ 'https://x.example/roles': 'admin' })
    expect((await authenticator.verifyBearer(token, api)).roles).toEqual(['admin'])
  })

  it('cannot be taken from the prototype of an object', async () => {
    for (const user of ['constructor', '__proto__', 'constructor.name', 'sub.length']) {
      const authenticator = withIssuer({ claims: { user, email: 'email', roles: 'roles' } })
      expect(await outcomeOf(authenticator, await login.mint())).toBe('unauthenticated')
    }
  })
})

describe('admins', () => {
  it('are people of one issuer, by role or user id', async () => {
    const other = await startIssuer(clock)
    const authenticator = authenticatorOf(
      [issuerConfig(login.issuer), issuerConfig(other.issuer)],
      { clock, roles: ['onbehalf-admin'], users: ['root'] },
    )
    const admin = async (token: string) => (await authenticator.verifyBearer(token, api)).admin
    expect(await admin(await login.mint({ roles: ['x', 'onbehalf-admin'] }))).toBe(true)
    expect(await admin(await login.mint({ roles: 'onbehalf-admin' }))).toBe(true)
    expect(await admin(await login.mint({ sub: 'root' }))).toBe(true)
    expect(await admin(await login.mint({ roles: ['onbehalf-admin2'], email: 'root' }))).toBe(false)
    expect(await admin(await other.mint({ roles: ['onbehalf-admin'] }))).toBe(false)
    expect(await admin(await other.mint({ sub: 'root' }))).toBe(false)
    await other.close()
  })
})

describe('keys are asked for once', () => {
  it('however many tokens come at once', async () => {
    const before = login.requests(jwksPath).length
    const authenticator = withIssuer()
    const tokens = await Promise.all(
      Array.from({ length: 10 }, (_, n) => login.mint({ sub: `u${n}` })),
    )
    const people = await Promise.all(tokens.map((token) => personOf(authenticator, token)))
    expect(people.map((person) => person.userId)).toEqual(tokens.map((_, n) => `u${n}`))
    expect(login.requests(jwksPath).length - before).toBe(1)
  })
})
