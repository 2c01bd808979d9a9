import { describe, expect, it } from 'vitest'
import { challengedScopes } from '../../../src/gateway/step-up.ts'

describe('what an upstream asks more scope for', () => {
  it.each([
    ['Bearer error="insufficient_scope", scope="a b"', ['a', 'b']],
    ['Bearer scope=a, error=insufficient_scope', ['a']],
    ['Bearer error="insufficient_scope"', []],
    ['DPoP algs="ES256", Bearer error="insufficient_scope", scope="a"', ['a']],
    ['Bearer error="invalid_token", scope="a"', undefined],
    ['Bearer error_description="no, error=insufficient_scope it says", scope="a"', undefined],
    ['Basic error="insufficient_scope", scope="a"', undefined],
  ])('%s', (challenge, scopes) => {
    const headers = { 'www-authenticate': challenge }
    expect(challengedScopes({ status: 403, headers })).toEqual(scopes)
  })

  it('reads all lines of the header as one', () => {
    const lines = ['Basic realm="x"', 'Bearer error="insufficient_scope", scope="a"']
    const headers = { 'www-authenticate': lines }
    expect(challengedScopes({ status: 403, headers })).toEqual(['a'])
  })

  it('asks for nothing where there is no challenge, or another status', () => {
    expect(challengedScopes({ status: 403, headers: {} })).toBeUndefined()
    const headers = { 'www-authenticate': 'Bearer error="insufficient_scope", scope="a"' }
    expect(challengedScopes({ status: 401, headers })).toBeUndefined()
  })
})
