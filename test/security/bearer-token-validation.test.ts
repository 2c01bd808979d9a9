import { createHmac } from 'node:crypto'
import { exportSPKI, SignJWT } from 'jose'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { personKey } from '../../src/core/caller.ts'
import { Secret } from '../../src/core/secret.ts'
import { createFakeClock } from '../support/fake-clock.ts'
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
  discoveryPath,
  generateSigningKey,
  issuerConfig,
  jwksPath,
  publicUrl,
  startIssuer,
  type SigningKey,
  type TestIssuer,
} from '../support/issuer-server.ts'
import { type ScriptedServer, startScriptedServer } from '../support/scripted-server.ts'

const clock = createFakeClock()
const nowSeconds = () => Math.floor(clock.now().getTime() / 1000)
let login: TestIssuer
let other: TestIssuer
let attacker: SigningKey
let authenticator: TestAuthenticator

beforeAll(async () => {
  login = await startIssuer(clock)
  other = await startIssuer(clock)
  attacker = await generateSigningKey('k1')
})

beforeEach(() => {
  authenticator = authenticatorOf([issuerConfig(login.issuer), issuerConfig(other.issuer)], {
    clock,
  })
})

afterAll(() => Promise.all([login.close(), other.close()]))

/** A token put together by hand, as no library would sign it. */
function forged(header: unknown, claims: unknown, signature = ''): string {
  const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url')
  return `${part(header)}.${part(claims)}.${signature}`
}

describe('T1: a token without a signature', () => {
  it.each(['none', 'None', 'nOnE', 'NONE'])('refuses alg %s', async (alg) => {
    const token = forged({ alg, typ: 'at+jwt', kid: 'k1' }, claimsOf(login.issuer, clock))
    expect(await outcomeOf(authenticator, token)).toBe('unauthenticated')
  })

  it('refuses the signature of a good token being left out', async () => {
    const token = await login.mint()
    expect(await outcomeOf(authenticator, token.slice(0, token.lastIndexOf('.') + 1))).toBe(
      'unauthenticated',
    )
    expect(await outcomeOf(authenticator, token)).toBe('accepted')
  })
})

describe('T2: a public key used as an HMAC secret', () => {
  let rsa: SigningKey

  beforeAll(async () => {
    rsa = await generateSigningKey('rsa', 'RS256')
    login.publish([...login.keys, rsa].map((key) => key.jwk))
  })

  it('refuses HS256 over the key as PEM, DER and JWK', async () => {
    const key = rsa
    const pem = await exportSPKI(key.publicKey)
    const der = Buffer.from(pem.replace(/-----[^-]+-----|\s/g, ''), 'base64')
    for (const secret of [Buffer.from(pem), der, Buffer.from(JSON.stringify(key.jwk))]) {
      const unsigned = forged(
        { alg: 'HS256', typ: 'at+jwt', kid: 'rsa' },
        claimsOf(login.issuer, clock),
      )
      const input = unsigned.slice(0, -1)
      const signature = createHmac('sha256', secret).update(input).digest('base64url')
      expect(await outcomeOf(authenticator, `${input}.${signature}`)).toBe('unauthenticated')
    }
  })

  it('refuses an HS256 token where the issuer allows RS256 besides its secret, signed with the public key', async () => {
    const secret = new Secret('a shared secret of thirty-two bytes!')
    const both = authenticatorOf(
      [issuerConfig(login.issuer, { algorithms: ['HS256', 'RS256'], secret })],
      { clock },
    )
    const sign = (key: Uint8Array) =>
      new SignJWT(claimsOf(login.issuer, clock))
        .setProtectedHeader({ alg: 'HS256', kid: 'rsa' })
        .sign(key)
    const pem = Buffer.from(await exportSPKI(rsa.publicKey))
    expect(await outcomeOf(both, await sign(pem))).toBe('unauthenticated')
    expect(await outcomeOf(both, await sign(Buffer.from(secret.reveal())))).toBe('accepted')
    expect(await outcomeOf(both, await login.mint({}, { key: rsa }))).toBe('accepted')
  })
})

describe('T3: a hostile key id', () => {
  it.each([
    ['a path', '../../dev/null'],
    ['SQL', "' OR 1=1--"],
    ['a URL', 'https://evil.example.com/key'],
    ['6 KB', 'k'.repeat(6000)],
    ['an object', { kid: 'k1' }],
    ['a list', ['k1']],
    ['a number', 1],
    ['nothing', undefined],
  ])('refuses %s, with two requests for keys at most', async (_what, kid) => {
    const before = login.requests(jwksPath).length
    // Signed with a good key: only its name is wrong.
    const token = await login.mint({}, { header: { kid } })
    expect(await outcomeOf(authenticator, token)).toBe('unauthenticated')
    expect(login.requests(jwksPath).length - before).toBeLessThanOrEqual(2)
  })
})

describe('T4: a key that the token itself brings', () => {
  let listener: ScriptedServer

  beforeAll(async () => {
    listener = await startScriptedServer()
  })
  afterAll(() => listener.close())

  it.each(['jwk', 'jku', 'x5u', 'x5c'])('does not look at %s', async (member) => {
    const values: Record<string, unknown> = {
      jwk: attacker.jwk,
      jku: `${listener.origin}/jwks`,
      x5u: `${listener.origin}/cert`,
      x5c: ['MIIB'],
    }
    const token = await login.mint({}, { key: attacker, header: { [member]: values[member] } })
    expect(await outcomeOf(authenticator, token)).toBe('unauthenticated')
    expect(listener.connections()).toBe(0)
  })
})

describe('T5: another issuer', () => {
  it('refuses a token that names one issuer and is signed by another', async () => {
    const token = await other.mint({ iss: login.issuer })
    expect(await outcomeOf(authenticator, token)).toBe('unauthenticated')
    expect(await outcomeOf(authenticator, await other.mint())).toBe('accepted')
  })

  it('compares the issuer as it is', async () => {
    const near = [`${login.issuer}/`, login.issuer.toUpperCase(), `${login.issuer}0`, '']
    for (const iss of near) {
      expect(await outcomeOf(authenticator, await login.mint({ iss }))).toBe('unauthenticated')
    }
  })
})

describe('T6: another audience', () => {
  it.each([
    ['another service', 'https://other.example.com'],
    ['a slash more', `${publicUrl}/`],
    ['an upstream whose name only begins alike', `${publicUrl}/mcp/a-evil`],
    ['a list of others', ['https://other.example.com', 'https://third.example.com']],
    ['none', undefined],
    ['a number', 1],
    ['an object', { 0: publicUrl }],
  ])('refuses %s', async (_what, aud) => {
    const token = await login.mint({ aud: aud as string })
    expect(await outcomeOf(authenticator, token)).toBe('unauthenticated')
    expect(await outcomeOf(authenticator, token, at('a'))).toBe('unauthenticated')
  })

  it('accepts an upstream’s own address and external address there and nowhere else', async () => {
    for (const aud of [`${publicUrl}/mcp/a`, 'https://edge.example.com/a']) {
      const token = await login.mint({ aud })
      expect(await outcomeOf(authenticator, token, at('a'))).toBe('accepted')
      expect(await outcomeOf(authenticator, token, at('b'))).toBe('unauthenticated')
      expect(await outcomeOf(authenticator, token, api)).toBe('unauthenticated')
    }
  })

  it('gives an http upstream the address under /proxy and not that under /mcp', async () => {
    const proxy = await login.mint({ aud: [`${publicUrl}/proxy/web`] })
    expect(await outcomeOf(authenticator, proxy, at('web'))).toBe('accepted')
    const mcp = await login.mint({ aud: [`${publicUrl}/mcp/web`] })
    expect(await outcomeOf(authenticator, mcp, at('web'))).toBe('unauthenticated')
  })
})

describe('T7: a token of another kind', () => {
  it.each([
    ['at_hash', { at_hash: 'x' }],
    ['c_hash', { c_hash: 'x' }],
    ['events', { events: { 'http://schemas.openid.net/event/backchannel-logout': {} } }],
    ['a Keycloak ID token', { typ: 'ID' }],
    ['a Keycloak refresh token', { typ: 'Refresh' }],
    ['a Keycloak offline token', { typ: 'Offline' }],
    ['a Keycloak logout token', { typ: 'Logout' }],
    ['a Cognito ID token', { token_use: 'id' }],
  ])('refuses %s', async (_what, claims) => {
    const token = await login.mint(claims, { header: { typ: 'JWT' } })
    expect(await outcomeOf(authenticator, token)).toBe('unauthenticated')
  })

  it('accepts the typ claim of a Keycloak access token', async () => {
    const token = await login.mint({ typ: 'Bearer' }, { header: { typ: 'JWT' } })
    expect(await outcomeOf(authenticator, token)).toBe('accepted')
  })
})

describe('T8: times', () => {
  it.each([
    ['no exp', { exp: undefined }],
    ['a text', { exp: '99999999999' }],
    ['a fraction', { exp: 4_000_000_000.5 }],
    ['expired 31 s ago', { exp: () => nowSeconds() - 31 }],
    ['not before 31 s from now', { nbf: () => nowSeconds() + 31 }],
    ['nbf as a text', { nbf: '1' }],
    ['issued tomorrow', { iat: () => nowSeconds() + 86_400 }],
  ])('refuses %s', async (_what, claims) => {
    const [[name, value]] = Object.entries(claims) as [[string, unknown]]
    const claim = typeof value === 'function' ? (value as () => number)() : value
    expect(await outcomeOf(authenticator, await login.mint({ [name]: claim }))).toBe(
      'unauthenticated',
    )
  })

  it('refuses an exp that is too large for a number', async () => {
    const key = login.keys[0]!
    const head = Buffer.from(JSON.stringify({ alg: 'ES256', kid: 'k1' })).toString('base64url')
    const claims = JSON.stringify({ ...claimsOf(login.issuer, clock), exp: 0 })
    const body = Buffer.from(claims.replace('"exp":0', '"exp":1e400')).toString('base64url')
    const signature = Buffer.from(
      await crypto.subtle.sign(
        { name: 'ECDSA', hash: 'SHA-256' },
        key.privateKey,
        Buffer.from(`${head}.${body}`),
      ),
    ).toString('base64url')
    expect(await outcomeOf(authenticator, `${head}.${body}.${signature}`)).toBe('unauthenticated')
    // The same by the same hand with a good exp, so that the refusal above is for the exp alone.
    const good = Buffer.from(JSON.stringify(claimsOf(login.issuer, clock))).toString('base64url')
    const goodSignature = Buffer.from(
      await crypto.subtle.sign(
        { name: 'ECDSA', hash: 'SHA-256' },
        key.privateKey,
        Buffer.from(`${head}.${good}`),
      ),
    ).toString('base64url')
    expect(await outcomeOf(authenticator, `${head}.${good}.${goodSignature}`)).toBe('accepted')
  })

  it('accepts clocks that differ by 29 s', async () => {
    expect(await outcomeOf(authenticator, await login.mint({ exp: nowSeconds() - 29 }))).toBe(
      'accepted',
    )
    expect(await outcomeOf(authenticator, await login.mint({ nbf: nowSeconds() + 29 }))).toBe(
      'accepted',
    )
    expect(await outcomeOf(authenticator, await login.mint({ iat: nowSeconds() + 29 }))).toBe(
      'accepted',
    )
  })
})

describe('T9: user ids', () => {
  it.each([
    ['an empty one', ''],
    ['a number', 7],
    ['none', undefined],
    ['null', null],
    ['a list', ['alice']],
    ['NUL', 'al\u0000ice'],
    ['a line break', 'alice\r\n'],
    ['C1 controls', 'alice\u0085'],
    ['half a surrogate pair', 'alice\ud800'],
    ['256 characters', 'a'.repeat(256)],
  ])('refuses %s', async (_what, sub) => {
    const token = await login.mint({ sub: sub as string })
    expect(await outcomeOf(authenticator, token)).toBe('unauthenticated')
  })

  it('accepts 255 characters of any language', async () => {
    const sub = 'ж'.repeat(255)
    const person = await authenticator.verifyBearer(await login.mint({ sub }), api)
    expect(person.userId).toBe(sub)
  })

  it('keeps apart two people whose issuer and id read alike when put together', () => {
    const a = personKey({ issuer: 'https://a.example:b', userId: 'c' })
    const b = personKey({ issuer: 'https://a.example', userId: ':bc' })
    expect(a).not.toBe(b)
  })
})

describe('T10, T12: what is no token at all', () => {
  it.each([
    ['two bearers joined', (token: string) => `${token}, Bearer ${token}`],
    ['a blank inside', (token: string) => `${token} x`],
    ['a line break', (token: string) => `${token}\n`],
    ['non-ASCII', (token: string) => `${token}é`],
    ['nothing', () => ''],
    ['10,000 dots', () => '.'.repeat(8000)],
    ['five parts', (token: string) => `${token}.a.b`],
    ['four parts', (token: string) => `${token}.a`],
    [
      'deep JSON',
      () =>
        `${Buffer.from('{"alg":"ES256"}').toString('base64url')}.${Buffer.from('['.repeat(5000)).toString('base64url')}.x`,
    ],
  ])('refuses %s', async (_what, change) => {
    expect(await outcomeOf(authenticator, change(await login.mint()))).toBe('unauthenticated')
  })

  it('refuses a token of more than 8,192 characters before reading it', async () => {
    const token = await login.mint({ filler: 'x'.repeat(8192) })
    const before = login.requests(discoveryPath).length
    expect(await outcomeOf(authenticator, token)).toBe('unauthenticated')
    expect(login.requests(discoveryPath).length).toBe(before)
  })

  it('refuses an encrypted token (JWE)', async () => {
    const head = Buffer.from('{"alg":"dir","enc":"A256GCM"}').toString('base64url')
    expect(await outcomeOf(authenticator, `${head}..aXY.Y2lwaGVy.dGFn`)).toBe('unauthenticated')
  })
})

describe('a token that is bound to a key', () => {
  it.each([{ jkt: 'x' }, { 'x5t#S256': 'x' }])(
    'is no bearer token: %j (RFC 9449 §7.2)',
    async (cnf) => {
      expect(await outcomeOf(authenticator, await login.mint({ cnf }))).toBe('unauthenticated')
    },
  )
})

describe('T13: a refusal is final', () => {
  it('throws, and gives nobody instead of a person', async () => {
    await expect(authenticator.verifyBearer('garbage', api)).rejects.toMatchObject({
      code: 'unauthenticated',
    })
  })
})

describe('T14: what is remembered', () => {
  it('does not take a token for another that begins alike', async () => {
    const token = await login.mint()
    expect(await outcomeOf(authenticator, token)).toBe('accepted')
    const tail = token.endsWith('A') ? 'B' : 'A'
    expect(await outcomeOf(authenticator, token.slice(0, -10) + tail.repeat(10))).toBe(
      'unauthenticated',
    )
    expect(await outcomeOf(authenticator, `${token.slice(0, 200)}x`)).toBe('unauthenticated')
  })

  it('judges the audience at every use of a remembered token', async () => {
    const token = await login.mint({ aud: `${publicUrl}/mcp/a` })
    expect(await outcomeOf(authenticator, token, at('a'))).toBe('accepted')
    expect(authenticator.verifyBearer(token, at('a'))).not.toBeInstanceOf(Promise)
    expect(await outcomeOf(authenticator, token, at('b'))).toBe('unauthenticated')
    expect(await outcomeOf(authenticator, token, api)).toBe('unauthenticated')
    expect(await outcomeOf(authenticator, token, at('a'))).toBe('accepted')
  })

  it('answers a remembered token at once, the same person, and no longer than it lives', async () => {
    const token = await login.mint({ exp: nowSeconds() + 40 })
    const first = await authenticator.verifyBearer(token, api)
    expect(authenticator.verifyBearer(token, api)).toBe(first)
    clock.advance(71)
    expect(await outcomeOf(authenticator, token)).toBe('unauthenticated')
  })

  it('verifies a token that many present at once only once', async () => {
    const token = await login.mint()
    const people = await Promise.all(
      Array.from({ length: 20 }, () => personOf(authenticator, token)),
    )
    expect(new Set(people).size).toBe(1)
  })
})

describe('T17, T-3: a person comes from the verified token alone', () => {
  it('takes issuer, id, e-mail and roles from its claims', async () => {
    const token = await login.mint({ sub: 'u1', email: 'u1@example.com', roles: ['a', 'b'] })
    expect(await authenticator.verifyBearer(token, api)).toEqual({
      issuer: login.issuer,
      userId: 'u1',
      email: 'u1@example.com',
      roles: ['a', 'b'],
      admin: false,
      identity: 'token',
    })
  })
})
