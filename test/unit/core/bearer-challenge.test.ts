import { describe, expect, it } from 'vitest'
import { readBearerChallenge, readScopes } from '../../../src/core/bearer-challenge.ts'

describe('a Bearer challenge', () => {
  it.each([
    ['Bearer', undefined, undefined],
    ['bearer scope="a b"', undefined, ['a', 'b']],
    ['Bearer resource_metadata="https://x/y", scope="a"', 'https://x/y', ['a']],
    ['Bearer realm="x, y=z", scope=a', undefined, ['a']],
    ['Basic realm="x", Bearer scope="a", Basic scope="b"', undefined, ['a']],
    ['DPoP algs="ES256", Bearer resource_metadata = "https://x"', 'https://x', undefined],
    ['Bearer scope="a\\"b c"', undefined, ['c']],
    ['Bearer scope="a", scope="b"', undefined, ['a']],
    ['Bearer SCOPE="a a"', undefined, ['a']],
  ])('%s', (header, resourceMetadata, scopes) => {
    expect(readBearerChallenge(header)).toEqual({ error: undefined, resourceMetadata, scopes })
  })

  it.each([[undefined], [''], ['Basic realm="Bearer"'], ['="'], ['x'.repeat(9000)]])(
    'there is none in %s',
    (header) => {
      expect(readBearerChallenge(header)).toBeUndefined()
    },
  )

  it('takes no longer over a long one than over a short one, a character', () => {
    expect(readBearerChallenge(`Bearer ${'a="\\'.repeat(2000)}`)).toEqual({
      error: undefined,
      resourceMetadata: undefined,
      scopes: undefined,
    })
  })

  it('asks for a hundred scopes at most', () => {
    expect(readScopes(Array.from({ length: 500 }, (_, at) => `s${at}`))).toHaveLength(100)
  })
})
