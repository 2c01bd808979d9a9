import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { HttpClient } from '../../src/core/ports/http-client.ts'
import { createMetadataSource, metadataUrls } from '../../src/oauth/metadata.ts'
import { createHttpClient } from '../../src/outbound/http-client.ts'
import { createFakeClock, type FakeClock } from '../support/fake-clock.ts'
import { oauthUpstream } from '../support/oauth-upstream.ts'
import {
  byPath,
  json,
  type ScriptedServer,
  startScriptedServer,
  text,
} from '../support/scripted-server.ts'

let server: ScriptedServer
let clock: FakeClock

beforeEach(async () => {
  server = await startScriptedServer()
  clock = createFakeClock()
})

afterEach(() => server.close())

const upstream = oauthUpstream()

function source(http: HttpClient = createHttpClient()) {
  return createMetadataSource({ http, clock })
}

function document(issuer: string, extra: object = {}): object {
  return {
    issuer,
    authorization_endpoint: `${server.origin}/authorize`,
    token_endpoint: `${server.origin}/token`,
    revocation_endpoint: `${server.origin}/revoke`,
    code_challenge_methods_supported: ['plain', 'S256'],
    ...extra,
  }
}

describe('RFC 8414 §3: where the document is', () => {
  it('is asked for at both well-known places, RFC 8414 first', () => {
    expect(metadataUrls('https://as.example.com')).toEqual([
      'https://as.example.com/.well-known/oauth-authorization-server',
      'https://as.example.com/.well-known/openid-configuration',
    ])
    expect(metadataUrls('https://as.example.com/')).toEqual(metadataUrls('https://as.example.com'))
  })

  it('§3.1: puts the well-known part before an issuer’s path, and after it as OpenID Connect does', () => {
    expect(metadataUrls('https://as.example.com/tenant/1')).toEqual([
      'https://as.example.com/.well-known/oauth-authorization-server/tenant/1',
      'https://as.example.com/.well-known/openid-configuration/tenant/1',
      'https://as.example.com/tenant/1/.well-known/openid-configuration',
    ])
  })

  it('goes on to the next place when one has no document of this issuer', async () => {
    const issuer = `${server.origin}/tenant`
    server.script(
      byPath({
        '/.well-known/oauth-authorization-server/tenant': text('<html>', 'text/html'),
        '/.well-known/openid-configuration/tenant': json(document('https://other.example.com')),
        '/tenant/.well-known/openid-configuration': json(document(issuer)),
      }),
    )
    const metadata = await source().find(upstream, issuer)
    expect(metadata).toMatchObject({
      issuer,
      authorizationEndpoint: `${server.origin}/authorize`,
      tokenEndpoint: `${server.origin}/token`,
      revocationEndpoint: `${server.origin}/revoke`,
      supportsS256: true,
      issuerInResponses: false,
    })
    expect(server.requests.map(({ path }) => path)).toEqual([
      '/.well-known/oauth-authorization-server/tenant',
      '/.well-known/openid-configuration/tenant',
      '/tenant/.well-known/openid-configuration',
    ])
  })
})

describe('RFC 8414 §3.3: the document of exactly this issuer', () => {
  it.each([
    ['a trailing slash', (origin: string) => `${origin}/`],
    ['another case', (origin: string) => origin.replace('http', 'HTTP')],
    ['another port', () => 'http://127.0.0.1:1'],
    ['another server', () => 'https://evil.example.com'],
    ['nothing', () => undefined],
    ['a number', () => 1],
  ])('C8: one that names %s is not used', async (_what, issuer) => {
    server.script(json(document('', { issuer: issuer(server.origin) })))
    const found = source().find(upstream, server.origin)
    await expect(found).rejects.toMatchObject({ verdict: { kind: 'misconfigured' } })
  })
})

describe('endpoints that nobody should be sent to', () => {
  it.each([
    'javascript:alert(1)',
    'data:text/html,<script>',
    'file:///etc/passwd',
    'vbscript:x',
    'ftp://as.example.com/token',
    'http://as.example.com/token',
    'https://user:password@as.example.com/token',
    'https://as.example.com/token#fragment',
    '/token',
    '',
    `https://as.example.com/${'a'.repeat(3000)}`,
    7,
    null,
    ['https://as.example.com/token'],
  ])('C19: %s counts as absent', async (url) => {
    const issuer = 'https://as.example.com'
    const http = answering(
      JSON.stringify(
        document(issuer, {
          authorization_endpoint: url,
          token_endpoint: url,
          revocation_endpoint: url,
        }),
      ),
    )
    expect(await source(http).find(upstream, issuer)).toMatchObject({
      authorizationEndpoint: undefined,
      tokenEndpoint: undefined,
      revocationEndpoint: undefined,
    })
  })

  it('may be plain http where the issuer itself is this machine or the operator allowed it', async () => {
    const plain = { token_endpoint: 'http://as.internal/token' }
    server.script(json(document(server.origin, plain)))
    expect(await source().find(upstream, server.origin)).toMatchObject({
      tokenEndpoint: 'http://as.internal/token',
    })
    const issuer = 'https://as.internal'
    const http = answering(JSON.stringify(document(issuer, plain)))
    const allowed = oauthUpstream({}, { allowPrivateNetwork: true })
    expect(await source(http).find(allowed, issuer)).toMatchObject({
      tokenEndpoint: 'http://as.internal/token',
    })
  })

  it('members of wrong types and prototype keys are harmless', async () => {
    server.script(
      text(
        JSON.stringify(document(server.origin)).replace(
          '{',
          '{"__proto__":{"token_endpoint":"x"},"constructor":1,"authorization_response_iss_parameter_supported":"true",',
        ),
        'application/json',
      ),
    )
    expect(await source().find(upstream, server.origin)).toMatchObject({
      tokenEndpoint: `${server.origin}/token`,
      issuerInResponses: false,
    })
  })
})

describe('how long a document counts', () => {
  it('is asked for once in ten minutes, however many want it', async () => {
    server.script(json(document(server.origin)))
    const metadata = source()
    await Promise.all([1, 2, 3].map(() => metadata.find(upstream, server.origin)))
    clock.advance(599)
    await metadata.find(upstream, server.origin)
    expect(server.requests).toHaveLength(1)
    clock.advance(2)
    await metadata.find(upstream, server.origin)
    expect(server.requests).toHaveLength(2)
  })

  it('remembers a failure for five seconds', async () => {
    server.script(text('', 'text/plain', 503))
    const metadata = source()
    const failing = async () =>
      expect(metadata.find(upstream, server.origin)).rejects.toMatchObject({
        verdict: { kind: 'retry_at', answer: 'not_sent' },
      })
    await failing()
    const asked = server.requests.length
    clock.advance(4)
    await failing()
    expect(server.requests).toHaveLength(asked)
    server.script(json(document(server.origin)))
    clock.advance(2)
    expect(await metadata.find(upstream, server.origin)).toMatchObject({ issuer: server.origin })
  })

  it('keeps the last document for a day while the server cannot be asked, not when it says otherwise', async () => {
    server.script(json(document(server.origin)))
    const metadata = source()
    await metadata.find(upstream, server.origin)
    server.script(text('', 'text/plain', 500))
    clock.advance(3600)
    expect(await metadata.find(upstream, server.origin)).toMatchObject({ issuer: server.origin })
    server.script(json(document('https://evil.example.com')))
    clock.advance(10)
    await expect(metadata.find(upstream, server.origin)).rejects.toMatchObject({
      verdict: { kind: 'misconfigured' },
    })
    server.script(text('', 'text/plain', 500))
    clock.advance(10)
    await expect(metadata.find(upstream, server.origin)).rejects.toMatchObject({
      verdict: { kind: 'retry_at' },
    })
  })

  it('does not keep a document longer than that day', async () => {
    server.script(json(document(server.origin)))
    const metadata = source()
    await metadata.find(upstream, server.origin)
    server.script(text('', 'text/plain', 500))
    clock.advance(86_401)
    await expect(metadata.find(upstream, server.origin)).rejects.toMatchObject({
      verdict: { kind: 'retry_at' },
    })
  })

  it('says that an address was refused, and that nothing was sent', async () => {
    await expect(source().find(upstream, 'https://10.0.0.1')).rejects.toMatchObject({
      verdict: { kind: 'retry_at', answer: 'not_sent', addressRefused: true },
    })
  })
})

/** A network in which every server says the same. */
function answering(body: string): HttpClient {
  return { send: () => Promise.resolve({ status: 200, headers: {}, body }) }
}
