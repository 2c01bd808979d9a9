import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { createAcquisition } from '../../src/acquisition/index.ts'
import {
  authorizationErrorLabels,
  isFromExpectedIssuer,
  parseCallbackParameters,
} from '../../src/core/callback-parameters.ts'
import { BrokerError } from '../../src/core/errors.ts'
import { createHttpClient } from '../../src/outbound/http-client.ts'
import { createFakeClock } from '../support/fake-clock.ts'
import { oauthUpstream } from '../support/oauth-upstream.ts'
import {
  byPath,
  json,
  type ScriptedServer,
  startScriptedServer,
} from '../support/scripted-server.ts'

const issuer = 'https://as.example.com/tenant'

describe('RFC 9207 §2.4: an answer of the server that was asked', () => {
  const promised = { expectedIssuer: issuer, issuerRequired: true }
  const notPromised = { expectedIssuer: issuer, issuerRequired: false }

  it('is taken with its issuer, promised or not', () => {
    expect(isFromExpectedIssuer(issuer, promised)).toBe(true)
    expect(isFromExpectedIssuer(issuer, notPromised)).toBe(true)
  })

  it('is refused without an issuer where the metadata promise one, and taken where not', () => {
    expect(isFromExpectedIssuer(undefined, promised)).toBe(false)
    expect(isFromExpectedIssuer(undefined, notPromised)).toBe(true)
  })

  it.each([
    'https://evil.example.com',
    `${issuer}/`,
    'https://as.example.com',
    'https://AS.example.com/tenant',
    'https://as.example.com:443/tenant',
    'https://as.example.com/%74enant',
    encodeURIComponent(issuer),
    ` ${issuer}`,
    '',
  ])('C6: is refused with the issuer %j', (iss) => {
    expect(isFromExpectedIssuer(iss, promised)).toBe(false)
    expect(isFromExpectedIssuer(iss, notPromised)).toBe(false)
  })
})

describe('what an authorization request expects of its answer', () => {
  let server: ScriptedServer
  beforeEach(async () => {
    server = await startScriptedServer()
  })
  afterEach(() => server.close())

  function metadata(extra: object): void {
    const { origin } = server
    server.script(
      byPath({
        '/.well-known/oauth-authorization-server': json({
          issuer: origin,
          authorization_endpoint: `${origin}/authorize`,
          token_endpoint: `${origin}/token`,
          code_challenge_methods_supported: ['S256'],
          ...extra,
        }),
      }),
    )
  }

  async function expected(credential: Parameters<typeof oauthUpstream>[0]) {
    const client = createAcquisition({
      http: createHttpClient(),
      clock: createFakeClock(),
    }).authorization
    const { expectedIssuer, issuerRequired } = await client.request(oauthUpstream(credential), {
      redirectUri: 'https://broker.example.com/callback/files',
      scopes: [],
      claims: undefined,
    })
    return { expectedIssuer, issuerRequired }
  }

  it('§3: is what the metadata promise', async () => {
    metadata({ authorization_response_iss_parameter_supported: true })
    expect(await expected({ issuer: server.origin })).toEqual({
      expectedIssuer: server.origin,
      issuerRequired: true,
    })
  })

  it('is an issuer to compare, but none to demand, where they promise nothing', async () => {
    metadata({})
    expect(await expected({ issuer: server.origin })).toEqual({
      expectedIssuer: server.origin,
      issuerRequired: false,
    })
  })

  it('counts the promise also where the endpoints are written beside the issuer', async () => {
    metadata({ authorization_response_iss_parameter_supported: true })
    const authorizationEndpoint = 'https://as.example.com/authorize'
    expect(await expected({ issuer: server.origin, authorizationEndpoint })).toEqual({
      expectedIssuer: server.origin,
      issuerRequired: true,
    })
  })

  it('goes without metadata where the endpoints are written and there are none', async () => {
    const authorizationEndpoint = 'https://as.example.com/authorize'
    expect(await expected({ issuer: server.origin, authorizationEndpoint })).toEqual({
      expectedIssuer: server.origin,
      issuerRequired: false,
    })
    expect(await expected({ authorizationEndpoint })).toEqual({
      expectedIssuer: undefined,
      issuerRequired: false,
    })
  })
})

describe('RFC 6749 §4.1.2: the parameters of the answer', () => {
  function parse(query: string) {
    return parseCallbackParameters(new URLSearchParams(query))
  }

  it('are a state with a code', () => {
    const answer = parse(
      'code=CNRY-CODE-1&state=s&iss=https%3A%2F%2Fas.example.com&session_state=x',
    )
    expect(answer).toMatchObject({ kind: 'code', state: 's', iss: 'https://as.example.com' })
    expect(answer.kind === 'code' && answer.code.reveal()).toBe('CNRY-CODE-1')
  })

  it.each(authorizationErrorLabels)('or a state with the error %s', (label) => {
    expect(parse(`state=s&error=${label}&error_description=CNRY`)).toEqual({
      kind: 'error',
      state: 's',
      iss: undefined,
      label,
    })
  })

  it.each(['weird', '', '<script>alert(1)</script>', 'ACCESS_DENIED', '__proto__', 'a\r\nb'])(
    'C13: call the error %j by our own word',
    (error) => {
      expect(parse(`state=s&error=${encodeURIComponent(error)}`)).toMatchObject({
        label: 'authorization_denied',
      })
    },
  )

  it.each([
    'code=c',
    'state=s',
    'state=&code=c',
    'state=s&code=',
    'state=s&code=c&error=access_denied',
    'state=s&state=s&code=c',
    'state=s&code=c&code=d',
    'state=s&error=access_denied&error=access_denied',
    'state=s&code=c&iss=a&iss=a',
    'state=s&code=c&scope=a&scope=b',
    'code[]=c&state=s',
    `state=s&code=${'c'.repeat(5000)}`,
    `state=${'s'.repeat(5000)}&code=c`,
    '',
  ])('C15: are refused as %s', (query) => {
    expect(() => parse(query)).toThrow(BrokerError)
  })
})
