import { describe, expect, it } from 'vitest'
import { headersBack, headersUp } from '../../../src/gateway/headers.ts'

const inboundToken = 'the-token-of-the-caller'
const credential = { header: 'X-Api-Key', value: 'own-key' }
const plainCall = {
  inboundToken,
  credential,
  withheld: undefined,
  added: undefined,
  isCounted: false,
}
const up = (...received: string[]) => headersUp(received, plainCall)

describe('headers on their way to an upstream', () => {
  it('pass as they came, in their order, with the credential as the last', () => {
    expect(up('Accept', 'text/event-stream', 'traceparent', '00-1', 'Accept', 'a/b')).toEqual([
      'Accept',
      'text/event-stream',
      'traceparent',
      '00-1',
      'Accept',
      'a/b',
      'X-Api-Key',
      'own-key',
    ])
  })

  it.each([
    'Authorization',
    'proxy-authorization',
    'Cookie',
    'DPoP',
    'Expect',
    'Forwarded',
    'Host',
    'Keep-Alive',
    'Proxy-Connection',
    'Remote-User',
    'TE',
    'Trailer',
    'Transfer-Encoding',
    'Upgrade',
    'X-Auth-Request-Email',
    'X-Forwarded-For',
    'x-forwarded-access-token',
    'X-Onbehalf-Service-Key',
    'X-Original-URL',
    'X-Real-IP',
    'X-Remote-User',
    'X_Forwarded_User',
    'x_api_key',
    'X-API-KEY',
  ])('P2: leave %s out', (name) => {
    expect(up(name, 'from-the-caller')).toEqual(['X-Api-Key', 'own-key'])
  })

  it('P1: leave out whatever holds the token of the caller', () => {
    expect(up('X-Anything', `pre ${inboundToken} post`)).toEqual(['X-Api-Key', 'own-key'])
  })

  it('P3: leave out what Connection names, but never the credential', () => {
    const headers = up(
      'Connection',
      'close, X-Hop',
      'X-Hop',
      '1',
      'Connection',
      'x-api-key',
      'A',
      '2',
    )
    expect(headers).toEqual(['A', '2', 'X-Api-Key', 'own-key'])
  })
})

describe('headers on their way back', () => {
  it('pass as they came', () => {
    expect(headersBack({ 'content-type': 'text/event-stream', link: ['a', 'b'] })).toEqual({
      'content-type': 'text/event-stream',
      link: ['a', 'b'],
      'x-content-type-options': 'nosniff',
    })
  })

  it.each([
    'set-cookie',
    'set-cookie2',
    'www-authenticate',
    'clear-site-data',
    'strict-transport-security',
    'alt-svc',
    'refresh',
    'access-control-allow-origin',
    'transfer-encoding',
    'connection',
  ])('P7, P8: leave %s out', (name) => {
    expect(headersBack({ [name]: 'x' })).toEqual({ 'x-content-type-options': 'nosniff' })
  })

  it('P7: give a page an origin of its own', () => {
    const headers = headersBack({ 'content-type': 'text/html; charset=utf-8' })
    expect(headers['content-security-policy']).toBe('sandbox')
  })
})
