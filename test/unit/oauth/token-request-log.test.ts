import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { createAcquisition } from '../../../src/acquisition/index.ts'
import { Secret } from '../../../src/core/secret.ts'
import type { Upstream } from '../../../src/core/upstream.ts'
import { createHttpClient } from '../../../src/outbound/http-client.ts'
import { createFakeClock, type FakeClock } from '../../support/fake-clock.ts'
import { oauthUpstream } from '../../support/oauth-upstream.ts'
import { json, type ScriptedServer, startScriptedServer } from '../../support/scripted-server.ts'

let server: ScriptedServer
let clock: FakeClock
let lines: object[]

beforeEach(async () => {
  server = await startScriptedServer()
  clock = createFakeClock()
  lines = []
})
afterEach(() => server.close())

function setUp(changes: Partial<Upstream['credential']> = {}) {
  const ports = {
    http: createHttpClient(),
    clock,
    log: { warn: (line: object) => lines.push(line) },
  }
  const { methods, authorization: client } = createAcquisition(ports)
  const upstream = oauthUpstream(
    { mode: 'token_exchange', tokenEndpoint: `${server.origin}/token`, ...changes },
    { name: 'kc' },
  )
  const ended = (request: Promise<unknown> | undefined) =>
    Promise.resolve(request).then(
      () => 'fulfilled',
      () => 'refused',
    )
  return {
    exchange: () =>
      ended(methods.token_exchange.acquire?.(upstream, new Secret('CNRY-IN-subject'))),
    refresh: () =>
      ended(methods.token_exchange.refresh(upstream, new Secret('CNRY-RT-refresh'), [])),
    redeem: () =>
      ended(
        client.redeem(upstream, {
          code: new Secret('CNRY-CODE'),
          codeVerifier: new Secret('CNRY-VERIFIER'),
          redirectUri: 'https://broker.example.com/oauth/callback',
        }),
      ),
  }
}

const refused = (line: object) => ({ event: 'token_request_refused', upstream: 'kc', ...line })

describe('a token request that brings no token', () => {
  it('is told to the operator, for each grant', async () => {
    server.script(json({ error: 'invalid_client' }, 401))
    const { exchange, refresh, redeem } = setUp()
    expect([await exchange(), await refresh(), await redeem()]).toEqual(Array(3).fill('refused'))
    const line = { status: 401, oauth_error: 'invalid_client', verdict: 'misconfigured' }
    expect(lines).toEqual(
      ['exchange', 'refresh', 'code'].map((grant) => refused({ grant, ...line })),
    )
  })

  it.each([
    [
      400,
      { error: 'invalid_grant' },
      { oauth_error: 'invalid_grant', verdict: 'subject_token_refused' },
    ],
    [400, { error: 'invalid_target' }, { oauth_error: 'invalid_target', verdict: 'misconfigured' }],
    [403, { error: 'access_denied' }, { oauth_error: 'access_denied', verdict: 'denied' }],
    [503, 'CNRY-TEXT', { oauth_error: null, verdict: 'retry_at' }],
    [
      401,
      { error: 'invalid_client', error_codes: [99, 7000215] },
      { oauth_error: 'invalid_client', entra_code: 7000215, verdict: 'misconfigured' },
    ],
  ])('says %i %j in words of ours', async (status, body, line) => {
    server.script(json(body, status))
    await setUp().exchange()
    expect(lines).toEqual([refused({ grant: 'exchange', status, ...line })])
  })

  it('repeats nothing that was sent and nothing that the server wrote', async () => {
    server.script(
      json(
        {
          error: 'CNRY-word',
          error_description: 'CNRY-IN-subject is not good',
          suberror: 'CNRY-sub',
          error_codes: [424242],
          claims: '{"CNRY":1}',
        },
        400,
      ),
    )
    await setUp().exchange()
    expect(lines).toHaveLength(1)
    expect(lines[0]).toMatchObject({ oauth_error: 'other' })
    expect(JSON.stringify(lines)).not.toMatch(/CNRY|424242/)
  })

  it('is told once in ten seconds for one upstream and error', async () => {
    server.script(json({ error: 'invalid_client' }, 401))
    const { exchange } = setUp()
    await exchange()
    clock.advance(9)
    await exchange()
    expect(lines).toHaveLength(1)
    server.script(json({ error: 'invalid_scope' }, 400))
    await exchange()
    expect(lines).toHaveLength(2)
    server.script(json({ error: 'invalid_client' }, 401))
    clock.advance(1)
    await exchange()
    expect(lines).toHaveLength(3)
  })

  it('is not told of where a token came', async () => {
    server.script(json({ access_token: 'CNRY-AT', token_type: 'Bearer', expires_in: 60 }))
    expect(await setUp().exchange()).toBe('fulfilled')
    expect(lines).toEqual([])
  })

  it('never left where the metadata do not do, which is told once in ten seconds', async () => {
    server.script(json({ issuer: 'https://other.example.com' }))
    const { exchange } = setUp({ tokenEndpoint: undefined, issuer: server.origin })
    expect([await exchange(), await exchange()]).toEqual(['refused', 'refused'])
    expect(lines).toEqual([{ event: 'upstream_metadata_refused', upstream: 'kc' }])
  })
})
