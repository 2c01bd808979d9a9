import { describe, expect, it } from 'vitest'
import { targetBelow } from '../../../src/gateway/target.ts'

const base = new URL('https://api.example.com/v1/')

describe('a path below the base of an upstream', () => {
  it.each([
    ['', '/v1/'],
    ['/', '/v1/'],
    ['/repos', '/v1/repos'],
    ['/repos/', '/v1/repos/'],
    ['/projects/group%2Fname?ref=a%20b', '/v1/projects/group%2Fname?ref=a%20b'],
    ['/a;v=1/b', '/v1/a;v=1/b'],
    ['/...', '/v1/...'],
    ['/%E2%82%AC', '/v1/%E2%82%AC'],
    ['?q=../..', '/v1/?q=../..'],
  ])('P5: sends %j as it is', (tail, target) => {
    expect(targetBelow(base, tail)).toBe(target)
  })

  it.each([
    '/../admin',
    '/..',
    '/a/../b',
    '/./a',
    '/%2e%2e/admin',
    '/%2E./admin',
    '/..%2fadmin',
    '/a%2f..%2f..%2fadmin',
    '/%252e%252e/admin',
    '/..%5cadmin',
    '/..\\admin',
    '/%5c..%5cadmin',
    '/..;/admin',
    '/..;x=1/admin',
    '/%2e%2e;/admin',
    '//evil.example/x',
    '/a//b',
    '/%2f%2fevil.example',
    '/a%00b',
    '/a%0d%0aX-Injected:1',
    '/a\r\nb',
    '/a b',
    '/a#b',
    '/%',
    '/%zz',
    '/%c0%ae%c0%ae/admin',
    '@evil.example/x',
    'x',
    '/%25252525252e%25252525252e/admin',
    '/é',
  ])('P5: refuses %j', (tail) => {
    expect(targetBelow(base, tail)).toBeUndefined()
  })

  it('keeps the query of the configured address for the address itself', () => {
    expect(targetBelow(new URL('https://mcp.example.com/mcp?key=1'), '')).toBe('/mcp?key=1')
  })
})
