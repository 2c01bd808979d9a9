import { describe, expect, it } from 'vitest'
import {
  authorizationErrorLabels,
  isFromExpectedIssuer,
  parseCallbackParameters,
} from '../../../src/core/callback-parameters.ts'
import { BrokerError } from '../../../src/core/errors.ts'

const parse = (query: string) => parseCallbackParameters(new URLSearchParams(query))

describe('an authorization response (RFC 6749 §4.1.2)', () => {
  it('is a code or an error, with a state', () => {
    const answer = parse('state=s&code=c&iss=https://as')
    expect(answer).toMatchObject({ kind: 'code', state: 's', iss: 'https://as' })
    expect(answer.kind === 'code' && answer.code.reveal()).toBe('c')
    expect(parse('state=s&error=access_denied&error_description=x&session_state=y')).toEqual({
      kind: 'error',
      state: 's',
      iss: undefined,
      label: 'access_denied',
    })
  })

  it.each([
    '',
    'code=c',
    'state=&code=c',
    'state=s',
    'state=s&code=',
    'state=s&code=c&error=access_denied',
    'state=s&code=c&state=s',
    'state=s&code=c&code=c',
    'state=s&code=c&iss=a&iss=a',
    'state=s&code=c&unknown=1&unknown=2',
    `state=s&code=${'c'.repeat(4097)}`,
  ])('%s is none', (query) => {
    expect(() => parse(query)).toThrow(BrokerError)
  })

  it('M-H7: names an error in our words, and any other in one of them', () => {
    for (const label of authorizationErrorLabels) {
      expect(parse(`state=s&error=${label}`)).toMatchObject({ label })
    }
    for (const error of ['', 'ACCESS_DENIED', 'constructor', '<script>']) {
      expect(parse(`state=s&error=${encodeURIComponent(error)}`)).toMatchObject({
        label: 'authorization_denied',
      })
    }
  })
})

describe('RFC 9207 §2.4: the issuer of an answer', () => {
  const expected = { expectedIssuer: 'https://as', issuerRequired: true }

  it('is compared as it is', () => {
    expect(isFromExpectedIssuer('https://as', expected)).toBe(true)
    expect(isFromExpectedIssuer('https://as/', expected)).toBe(false)
    expect(isFromExpectedIssuer('HTTPS://AS', expected)).toBe(false)
    expect(isFromExpectedIssuer('', expected)).toBe(false)
  })

  it('may be missing only where no metadata promise it', () => {
    expect(isFromExpectedIssuer(undefined, expected)).toBe(false)
    expect(isFromExpectedIssuer(undefined, { ...expected, issuerRequired: false })).toBe(true)
    const unknown = { expectedIssuer: undefined, issuerRequired: false }
    expect(isFromExpectedIssuer('https://as', unknown)).toBe(true)
  })
})
