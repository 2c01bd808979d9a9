import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import type { Issuer } from '../../src/core/issuer.ts'
import { createFakeClock, type FakeClock } from '../support/fake-clock.ts'
import { api, at, authenticatorOf, outcomeOf } from '../support/identity-room.ts'
import {
  claimsOf,
  introspectingConfig,
  introspectionPath,
  issuerConfig,
  publicUrl,
  startIssuer,
  type TestIssuer,
} from '../support/issuer-server.ts'
import { json } from '../support/scripted-server.ts'

let clock: FakeClock
let login: TestIssuer
let other: TestIssuer
let lines: object[]

beforeAll(async () => {
  clock = createFakeClock()
  login = await startIssuer(clock)
  other = await startIssuer(clock)
})
beforeEach(() => {
  lines = []
})
afterAll(() => Promise.all([login.close(), other.close()]))

function authenticator(issuer: Issuer = issuerConfig(login.issuer)) {
  return authenticatorOf([issuer], { clock, log: { warn: (line) => lines.push(line) } })
}

const refused = (check: string, issuer: string | null = login.issuer) => ({
  event: 'token_refused',
  issuer,
  check,
})

describe('a token that is not taken', () => {
  it.each<[string, () => Promise<string>, (Partial<Issuer> | undefined)?]>([
    ['audience', () => login.mint({ aud: 'CNRY-elsewhere' })],
    ['expired', () => login.mint({ exp: 1 })],
    ['signature', async () => `${(await login.mint()).slice(0, -8)}AAAAAAAA`],
    ['signature', () => login.mint({}, { header: { kid: 'CNRY-kid' } })],
    ['typ', () => login.mint({}, { header: { typ: 'CNRY+jwt' } })],
    ['typ', () => login.mint({ at_hash: 'CNRY' })],
    ['claims', () => login.mint({ sub: '' })],
    ['claims', () => login.mint({ cnf: { jkt: 'CNRY' } })],
    ['claims', () => login.mint({ nbf: 9_999_999_999 })],
    ['scope', () => login.mint({ scope: 'CNRY' }), { requiredScopes: ['onbehalf'] }],
  ])('is told to the operator by its issuer and the check %s', async (check, mint, changes) => {
    const token = await mint()
    const room = authenticator(issuerConfig(login.issuer, changes))
    expect(await outcomeOf(room, token)).toMatch(/^(unauthenticated|insufficient_scope)$/)
    expect(lines).toEqual([refused(check)])
  })

  it('names no issuer that is not configured, and none where there is none', async () => {
    const room = authenticator()
    await outcomeOf(room, await other.mint())
    await outcomeOf(room, 'CNRY-opaque')
    expect(lines).toEqual([refused('issuer', null), refused('format', null)])
  })

  it('is told of at the upstream that it is not for, also when it was good elsewhere before', async () => {
    const room = authenticator()
    const token = await login.mint({ aud: `${publicUrl}/mcp/a` })
    expect(await outcomeOf(room, token, at('a'))).toBe('accepted')
    expect(lines).toEqual([])
    expect(await outcomeOf(room, token, at('b'))).toBe('unauthenticated')
    expect(lines).toEqual([refused('audience')])
  })

  it.each([
    ['inactive', { active: false }],
    ['issuer', { iss: 'https://CNRY.example.com' }],
    ['typ', { typ: 'Refresh' }],
    ['expired', { exp: 1 }],
    ['audience', { aud: 'CNRY' }],
  ])('is told by what an introspection says: %s', async (check, changes) => {
    login.script(
      introspectionPath,
      json({ active: true, ...claimsOf(login.issuer, clock), ...changes }),
    )
    await outcomeOf(authenticator(introspectingConfig(login.issuer)), 'CNRY-opaque')
    expect(lines).toEqual([refused(check)])
  })
})

describe('a flood of tokens', () => {
  it('writes one line for a check and ten seconds, whoever the tokens are of', async () => {
    const room = authenticator()
    for (let count = 0; count < 20; count += 1) {
      await outcomeOf(room, `CNRY-${count}`, api)
      await outcomeOf(room, await login.mint({ aud: `CNRY-${count}` }), api)
      await outcomeOf(room, 'x'.repeat(9000), api)
    }
    expect(lines).toEqual([refused('format', null), refused('audience')])
    clock.advance(10)
    await outcomeOf(room, 'CNRY-again')
    expect(lines).toHaveLength(3)
  })
})
