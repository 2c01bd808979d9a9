import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { ServiceWithKeys } from '../../../src/core/issuer.ts'
import { Secret } from '../../../src/core/secret.ts'
import { createFakeClock } from '../../support/fake-clock.ts'
import { authenticatorOf, outcomeOf, type TestAuthenticator } from '../../support/identity-room.ts'
import { introspectingConfig, startIssuer, type TestIssuer } from '../../support/issuer-server.ts'

const edgeKey = 'CNRY-SK-edge-0123456789abcdef0123456789'
const edgeOldKey = 'CNRY-SK-edge-old-0123456789abcdef012345'
const otherKey = 'CNRY-SK-other-0123456789abcdef012345678'

function service(id: string, keys: readonly string[]): ServiceWithKeys {
  return {
    id,
    keys: keys.map((key) => new Secret(key)),
    upstreams: ['*'],
    maxAgeSeconds: 0,
    mayAssertUser: true,
    mayReadActivity: false,
    mayOffboard: false,
  }
}

let login: TestIssuer
let authenticator: TestAuthenticator

beforeAll(async () => {
  const clock = createFakeClock()
  login = await startIssuer(clock)
  authenticator = authenticatorOf([introspectingConfig(login.issuer)], {
    clock,
    services: [service('edge', [edgeKey, edgeOldKey]), service('other', [otherKey])],
  })
})
afterAll(() => login.close())

describe('a service key', () => {
  it('finds its service, the new and the old one while it is rotated', () => {
    expect(authenticator.findService(edgeKey)?.id).toBe('edge')
    expect(authenticator.findService(edgeOldKey)?.id).toBe('edge')
    expect(authenticator.findService(otherKey)?.id).toBe('other')
  })

  it.each([
    ['nothing', ''],
    ['the beginning of one', edgeKey.slice(0, -1)],
    ['one and more', `${edgeKey}x`],
    ['another case', edgeKey.toLowerCase()],
    ['a blank before', ` ${edgeKey}`],
    ['two', `${edgeKey}${otherKey}`],
    ['a long text', 'x'.repeat(100_000)],
  ])('is nobody’s: %s', (_what, key) => {
    expect(authenticator.findService(key)).toBeUndefined()
  })

  it('is not handed out with its service', () => {
    expect(Object.keys(authenticator.findService(edgeKey) ?? {})).not.toContain('keys')
  })

  it('is no person’s token, and is sent to nobody who is asked about tokens', async () => {
    expect(await outcomeOf(authenticator, edgeKey)).toBe('unauthenticated')
    expect(login.connections()).toBe(0)
    // Any other text is asked about here.
    expect(await outcomeOf(authenticator, `${edgeKey}x`)).toBe('unauthenticated')
    expect(login.connections()).toBe(1)
  })
})

describe('an asserted person', () => {
  it('has no roles and no rights', () => {
    expect(authenticator.assertPerson({ issuer: login.issuer, userId: 'alice' })).toEqual({
      issuer: login.issuer,
      userId: 'alice',
      email: undefined,
      roles: [],
      admin: false,
      identity: 'asserted',
    })
  })

  it('is never an admin, even by the id of one', () => {
    const clock = createFakeClock()
    const withRoot = authenticatorOf([introspectingConfig(login.issuer)], {
      clock,
      users: ['root'],
    })
    expect(withRoot.assertPerson({ issuer: login.issuer, userId: 'root' }).admin).toBe(false)
  })

  it.each<[string, (issuer: string) => string, string, string]>([
    ['an issuer that is not configured', () => 'https://else.example.com', 'a', 'user.issuer'],
    ['an issuer with a slash more', (issuer) => `${issuer}/`, 'a', 'user.issuer'],
    ['an empty id', (issuer) => issuer, '', 'user.id'],
    ['an id that is too long', (issuer) => issuer, 'a'.repeat(256), 'user.id'],
    ['an id with a control character', (issuer) => issuer, 'a\u0000', 'user.id'],
  ])('is refused: %s', (_what, issuerOf, userId, field) => {
    let refusal: unknown
    try {
      authenticator.assertPerson({ issuer: issuerOf(login.issuer), userId })
    } catch (error) {
      refusal = error
    }
    expect(refusal).toMatchObject({ code: 'invalid_request', details: { field } })
  })
})
