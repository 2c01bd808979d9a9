import { describe, expect, it } from 'vitest'
import { isOwnPath, isReturnTo, resultAddress } from '../../../src/core/return-to.ts'

const origins = ['https://broker.example.com', 'https://app.example.com:8443']

describe('C12: where a browser may be sent after a connect', () => {
  it.each([
    '/',
    '/connections?a=b#c',
    '/a//b',
    '/%2F%2Fevil.com',
    'https://broker.example.com',
    'https://broker.example.com/x',
    'https://app.example.com:8443?x=1',
    'https://app.example.com:8443#x',
    `/${'a'.repeat(2047)}`,
  ])('%s', (value) => {
    expect(isReturnTo(value, origins)).toBe(true)
  })

  it.each([
    '',
    'x',
    '//evil.com',
    '///evil.com',
    '/\\evil.com',
    '/..//evil.com',
    '/./\t/evil.com',
    '/a\nb',
    '/a\u0000b',
    '/a\u0085b',
    '/a b',
    '\\\\evil.com',
    'javascript:alert(1)',
    'data:text/html,x',
    'http://broker.example.com/',
    'HTTPS://BROKER.EXAMPLE.COM/',
    'https://broker.example.com.evil.com/',
    'https://broker.example.com@evil.com/',
    'https://broker.example.com:8080/',
    'https://app.example.com/',
    'https://evil.com/https://broker.example.com',
    `/${'a'.repeat(2048)}`,
  ])('never %j', (value) => {
    expect(isReturnTo(value, origins)).toBe(false)
    expect(isOwnPath(value)).toBe(false)
  })
})

describe('the result of a connect in an address', () => {
  it.each([
    [undefined, '/connections?upstream=files&connected=1'],
    ['/', '/?upstream=files&connected=1'],
    ['/a?b=c#d', '/a?b=c&upstream=files&connected=1#d'],
    ['/a?upstream=other&connected=0', '/a?upstream=files&connected=1'],
    ['https://app.example.com', 'https://app.example.com/?upstream=files&connected=1'],
  ])('%s becomes %s', (returnTo, address) => {
    expect(resultAddress(returnTo, 'files', { connected: true })).toBe(address)
  })

  it('says a failure in one of our words, and nothing of an earlier result', () => {
    const address = resultAddress('/a?connected=1', 'files', { error: 'access_denied' })
    expect(address).toBe('/a?upstream=files&error=access_denied')
  })
})
