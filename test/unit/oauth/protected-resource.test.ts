import { describe, expect, it } from 'vitest'
import { isResourceOf } from '../../../src/oauth/protected-resource.ts'

describe('a document speaks for an address', () => {
  const address = 'https://files.example.com/a/mcp'

  it.each([
    ['https://files.example.com/a/mcp', true],
    ['https://files.example.com/a/mcp/', true],
    ['https://FILES.example.com/a', true],
    ['https://files.example.com', true],
    ['https://files.example.com/', true],
    ['https://files.example.com:443/a/mcp', true],
    ['https://files.example.com/a/m', false],
    ['https://files.example.com/a/mcp/more', false],
    ['https://files.example.com/b', false],
    ['https://files.example.com:8443/a/mcp', false],
    ['http://files.example.com/a/mcp', false],
    ['https://example.com/a/mcp', false],
    ['https://files.example.com.evil.example/a/mcp', false],
    ['https://user@files.example.com/a/mcp', false],
    ['https://files.example.com/a/mcp#', false],
    ['https://files.example.com/a/mcp?x=1', false],
    ['files', false],
    ['', false],
  ])('%s: %s', (resource, expected) => {
    expect(isResourceOf(resource, address)).toBe(expected)
  })
})
