import type { JWK } from 'jose'
import { generateKeyPairSync } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { IdentityLog } from '../../src/identity/identity-log.ts'
import { createFakeClock, type FakeClock } from '../support/fake-clock.ts'
import {
  authenticatorOf,
  outcomeOf,
  personOf,
  type TestAuthenticator,
} from '../support/identity-room.ts'
import {
  discoveryPath,
  generateSigningKey,
  issuerConfig,
  jwksPath,
  startIssuer,
  type TestIssuer,
} from '../support/issuer-server.ts'
import { json, type Script, text } from '../support/scripted-server.ts'

const hang: Script = () => {}
const day = 86_400

let clock: FakeClock
let login: TestIssuer
let authenticator: TestAuthenticator
let warnings: string[]

beforeEach(async () => {
  clock = createFakeClock()
  login = await startIssuer(clock)
  warnings = []
  const log: IdentityLog = {
    warn: (entry) => {
      if ('failure' in entry) warnings.push(`${entry.event} ${entry.failure}`)
    },
  }
  authenticator = authenticatorOf([issuerConfig(login.issuer)], { clock, log })
})

afterEach(() => login.close())

const jwksRequests = () => login.requests(jwksPath).length

/** Until the background fetch has been made and its answer taken in. */
async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 15_000
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error('it never came to that')
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

describe('J1: the keys cannot be fetched any more', () => {
  it('goes on with the known keys for a day, and says 503 for a new one', async () => {
    expect(await outcomeOf(authenticator, await login.mint())).toBe('accepted')
    login.script(jwksPath, json({}, 500))
    clock.advance(11 * 60)
    expect(await outcomeOf(authenticator, await login.mint())).toBe('accepted')
    await until(() => warnings.includes('issuer_keys_unavailable refused'))
    const unknown = await login.mint({}, { key: await generateSigningKey('k9') })
    expect(await outcomeOf(authenticator, unknown)).toBe('issuer_unavailable')
    clock.advance(day - 12 * 60)
    expect(await outcomeOf(authenticator, await login.mint())).toBe('accepted')
    clock.advance(2 * 60)
    expect(await outcomeOf(authenticator, await login.mint())).toBe('issuer_unavailable')
    expect(await authenticator.probe()).toEqual([{ issuer: login.issuer, ready: false }])
  })

  it('does not let an answered call wait for the fetch in the background', async () => {
    expect(await outcomeOf(authenticator, await login.mint())).toBe('accepted')
    login.script(jwksPath, hang)
    clock.advance(11 * 60)
    expect(await outcomeOf(authenticator, await login.mint())).toBe('accepted')
    await until(() => jwksRequests() === 2)
    expect(await outcomeOf(authenticator, await login.mint({ sub: 'bob' }))).toBe('accepted')
    expect(jwksRequests()).toBe(2)
  })
})

describe('J2: the keys cannot be fetched at the start', () => {
  it('says 503 with a time to come back, asks the issuer no more until then, and heals without a restart', async () => {
    login.script(jwksPath, json({}, 500))
    const token = await login.mint()
    const refusal = await personOf(authenticator, token).catch((error: unknown) => error)
    expect(refusal).toMatchObject({ code: 'issuer_unavailable', details: { retryAfterSeconds: 1 } })
    expect(await outcomeOf(authenticator, token)).toBe('issuer_unavailable')
    expect(jwksRequests()).toBe(1)
    for (let second = 0; second < 120; second += 1) {
      clock.advance(1)
      expect(await outcomeOf(authenticator, token)).toBe('issuer_unavailable')
    }
    expect(jwksRequests()).toBeLessThan(16)
    login.publish(login.keys.map((key) => key.jwk))
    clock.advance(15)
    expect(await outcomeOf(authenticator, token)).toBe('accepted')
    expect(await authenticator.probe()).toEqual([{ issuer: login.issuer, ready: true }])
  })

  it('says 503 when nothing listens at the issuer', async () => {
    const token = await login.mint()
    await login.close()
    expect(await outcomeOf(authenticator, token)).toBe('issuer_unavailable')
    expect(warnings).toEqual(['issuer_keys_unavailable unreachable'])
  })
})

describe('J3: made-up key ids', () => {
  it('cause two requests for keys at most, however many there are', async () => {
    const tokens = await Promise.all(
      Array.from({ length: 500 }, (_, index) => login.mint({}, { header: { kid: `x${index}` } })),
    )
    const outcomes = await Promise.all(tokens.map((token) => outcomeOf(authenticator, token)))
    expect(new Set(outcomes)).toEqual(new Set(['unauthenticated']))
    const again = await Promise.all(tokens.map((token) => outcomeOf(authenticator, token)))
    expect(new Set(again)).toEqual(new Set(['unauthenticated']))
    expect(jwksRequests()).toBeLessThanOrEqual(2)
  })

  it('cause one request every 30 s after that', async () => {
    await outcomeOf(authenticator, await login.mint())
    for (let second = 0; second < 95; second += 1) {
      const kid = `x${second}`
      expect(await outcomeOf(authenticator, await login.mint({}, { header: { kid } }))).toBe(
        'unauthenticated',
      )
      clock.advance(1)
    }
    expect(jwksRequests()).toBe(1 + 4)
  })

  it('cause no more requests while these fail', async () => {
    await outcomeOf(authenticator, await login.mint())
    login.script(jwksPath, json({}, 503))
    for (let index = 0; index < 20; index += 1) {
      const kid = `x${index}`
      expect(await outcomeOf(authenticator, await login.mint({}, { header: { kid } }))).toBe(
        'issuer_unavailable',
      )
    }
    expect(jwksRequests()).toBe(2)
    expect(await outcomeOf(authenticator, await login.mint())).toBe('accepted')
  })
})

describe('J5: answers that are no good key set', () => {
  it.each<[string, Script]>([
    ['HTML', text('<html>', 'text/html')],
    ['an error', json({ error: 'x' }, 500)],
    [
      'a redirect',
      (_request, response) => response.writeHead(302, { location: 'http://127.0.0.1:1/' }).end(),
    ],
    ['10 MB', text('x'.repeat(10_000_000), 'application/json')],
    ['a list', json([])],
    ['no list of keys', json({ keys: 'k1' })],
  ])('keep the last good set: %s', async (_what, script) => {
    const old = await login.mint()
    expect(await outcomeOf(authenticator, old)).toBe('accepted')
    login.script(jwksPath, script)
    const unknown = await login.mint({}, { header: { kid: 'x' } })
    expect(await outcomeOf(authenticator, unknown)).toBe('issuer_unavailable')
    expect(jwksRequests()).toBe(2)
    clock.advance(61)
    expect(await outcomeOf(authenticator, old)).toBe('accepted')
  })

  it('ignores keys for encryption, symmetric, private and weak ones', async () => {
    const good = login.keys[0]!
    const rsa = await generateSigningKey('weak', 'RS256')
    const weak = generateKeyPairSync('rsa', { modulusLength: 1024 })
    const published: JWK[] = [
      { ...good.jwk, kid: 'enc', use: 'enc' },
      { ...good.jwk, kid: 'ops', use: undefined, key_ops: ['encrypt'] } as unknown as JWK,
      { kty: 'oct', kid: 'oct', k: 'c2VjcmV0', alg: 'ES256' },
      { ...good.jwk, kid: 'private', d: 'AAAA' },
      { ...good.jwk, kid: 'other-alg', alg: 'ES384' },
      { ...(weak.publicKey.export({ format: 'jwk' }) as JWK), kid: 'weak', alg: 'RS256' },
      { kid: 'broken', kty: 'EC', crv: 'P-256', x: 'x', y: 'y' },
      good.jwk,
    ]
    login.publish([...published, null as unknown as JWK])
    for (const kid of ['enc', 'ops', 'oct', 'private', 'other-alg', 'broken']) {
      expect(await outcomeOf(authenticator, await login.mint({}, { header: { kid } }))).toBe(
        'unauthenticated',
      )
    }
    expect(await outcomeOf(authenticator, await login.mint({}, { key: rsa }))).toBe(
      'unauthenticated',
    )
    expect(await outcomeOf(authenticator, await login.mint())).toBe('accepted')
  })

  it('takes neither of two keys of one id, and both of two that are the same', async () => {
    const [first, second] = [await generateSigningKey('twin'), await generateSigningKey('twin')]
    login.publish([first.jwk, second.jwk, login.keys[0]!.jwk, login.keys[0]!.jwk])
    expect(await outcomeOf(authenticator, await login.mint({}, { key: first }))).toBe(
      'unauthenticated',
    )
    expect(await outcomeOf(authenticator, await login.mint({}, { key: second }))).toBe(
      'unauthenticated',
    )
    expect(await outcomeOf(authenticator, await login.mint())).toBe('accepted')
  })
})

describe('J6: a key that was taken away', () => {
  it('ends the tokens that it signed with the next fetch, remembered ones too', async () => {
    const [removed, kept] = login.keys as [(typeof login.keys)[0], (typeof login.keys)[0]]
    const old = await login.mint({}, { key: removed })
    const current = await login.mint({}, { key: kept })
    expect(await outcomeOf(authenticator, old)).toBe('accepted')
    expect(await outcomeOf(authenticator, current)).toBe('accepted')
    login.publish([kept.jwk])
    expect(await outcomeOf(authenticator, old)).toBe('accepted')
    await outcomeOf(authenticator, await login.mint({}, { header: { kid: 'new' } }))
    expect(await outcomeOf(authenticator, old)).toBe('unauthenticated')
    expect(await outcomeOf(authenticator, current)).toBe('accepted')
  })

  it('is noticed within 11 minutes without any unknown key', async () => {
    const old = await login.mint()
    expect(await outcomeOf(authenticator, old)).toBe('accepted')
    login.publish([login.keys[1]!.jwk])
    clock.advance(10 * 60)
    await outcomeOf(authenticator, old)
    await until(async () => (await outcomeOf(authenticator, old)) === 'unauthenticated')
  })
})

describe('T-14: the keys were rotated', () => {
  it('fetches once at the first unknown key id and accepts', async () => {
    expect(await outcomeOf(authenticator, await login.mint())).toBe('accepted')
    const next = await generateSigningKey('k3')
    login.publish([next.jwk])
    expect(await outcomeOf(authenticator, await login.mint({}, { key: next }))).toBe('accepted')
    expect(jwksRequests()).toBe(2)
  })
})

describe('F-1: fetched keys', () => {
  it('serve the second token too', async () => {
    await outcomeOf(authenticator, await login.mint())
    await outcomeOf(authenticator, await login.mint({ sub: 'bob' }))
    expect(jwksRequests()).toBe(1)
    expect(login.requests(discoveryPath)).toHaveLength(1)
  })
})

describe('finding the keys of an issuer', () => {
  it('takes a written jwks_uri without asking for metadata', async () => {
    const config = issuerConfig(login.issuer, { jwksUri: `${login.issuer}${jwksPath}` })
    expect(await outcomeOf(authenticatorOf([config], { clock }), await login.mint())).toBe(
      'accepted',
    )
    expect(login.requests(discoveryPath)).toHaveLength(0)
  })

  it('finds RFC 8414 metadata where there is no OpenID document', async () => {
    login.script(discoveryPath, json({}, 404))
    login.script(
      '/.well-known/oauth-authorization-server',
      json({ issuer: login.issuer, jwks_uri: `${login.issuer}${jwksPath}` }),
    )
    expect(await outcomeOf(authenticator, await login.mint())).toBe('accepted')
  })

  it.each<[string, (issuer: string) => Record<string, unknown>]>([
    ['another issuer', () => ({ issuer: 'https://evil.example.com' })],
    ['a slash more', (issuer) => ({ issuer: `${issuer}/` })],
    ['no issuer', () => ({ issuer: undefined })],
    ['no keys', () => ({ jwks_uri: undefined })],
    ['keys at a script', () => ({ jwks_uri: 'javascript:alert(1)' })],
    ['keys at a file', () => ({ jwks_uri: 'file:///etc/passwd' })],
  ])('takes no metadata that name %s', async (_what, change) => {
    const { issuer } = login
    login.script(
      discoveryPath,
      json({ issuer, jwks_uri: `${issuer}${jwksPath}`, ...change(issuer) }),
    )
    expect(await outcomeOf(authenticator, await login.mint())).toBe('issuer_unavailable')
    expect(jwksRequests()).toBe(0)
  })

  it('does not follow metadata to another port of this machine', async () => {
    const neighbour = await startIssuer(clock)
    login.script(
      discoveryPath,
      json({ issuer: login.issuer, jwks_uri: `${neighbour.issuer}${jwksPath}` }),
    )
    expect(await outcomeOf(authenticator, await login.mint())).toBe('issuer_unavailable')
    expect(neighbour.connections()).toBe(0)
    await neighbour.close()
  })
})
