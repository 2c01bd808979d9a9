import { inspect } from 'node:util'
import { gzipSync } from 'node:zlib'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { createAcquisition } from '../../src/acquisition/index.ts'
import { AcquisitionFailure, type FailureVerdict } from '../../src/core/failure-verdict.ts'
import type { HttpClient } from '../../src/core/ports/http-client.ts'
import { Secret } from '../../src/core/secret.ts'
import type { Upstream } from '../../src/core/upstream.ts'
import { createHttpClient } from '../../src/outbound/http-client.ts'
import { createFakeClock } from '../support/fake-clock.ts'
import { oauthUpstream } from '../support/oauth-upstream.ts'
import {
  json,
  type Script,
  type ScriptedServer,
  startScriptedServer,
  text,
} from '../support/scripted-server.ts'

const redirectUri = 'https://broker.example.com/callback/files'
/** All that these requests hold and all that the server says begins so. */
const canary = 'CNRY'

const lost = { kind: 'retry_at', answer: 'lost' } as const
const complete = { kind: 'retry_at', answer: 'complete' } as const

let server: ScriptedServer
let bystander: ScriptedServer
let log: unknown[]
/** Our ten seconds, shortened where a server is silent. */
let patienceMs: number

const gzipBomb = gzipSync(Buffer.alloc(50 * 1024 ** 2, ' '))
const silence: Script = () => {
  // Never answers.
}
const silenceAfterHead: Script = (_request, response) => {
  response.writeHead(200).flushHeaders()
}

beforeEach(async () => {
  server = await startScriptedServer()
  bystander = await startScriptedServer(json({ access_token: 'CNRY-AT-bystander' }))
  log = []
  patienceMs = 10_000
})

afterEach(() => Promise.all([server.close(), bystander.close()]))

/** The real client, with the patience of the test. */
function patientHttp(): HttpClient {
  const http = createHttpClient({ log: (line) => log.push(line) })
  return {
    send: (request) =>
      http.send({ ...request, deadlineMs: Math.min(patienceMs, request.deadlineMs) }),
  }
}

function atServer(credential: Parameters<typeof oauthUpstream>[0] = {}): Upstream {
  return oauthUpstream({
    tokenEndpoint: `${server.origin}/token`,
    authorizationEndpoint: `${server.origin}/authorize`,
    ...credential,
  })
}

/** Every request of ours that carries something worth stealing. */
const requests: Readonly<Record<string, (upstream: Upstream) => Promise<unknown>>> = {
  code: (upstream) =>
    createAcquisition({ http: patientHttp(), clock: createFakeClock() }).authorization.redeem(
      upstream,
      {
        code: new Secret('CNRY-CODE-1'),
        codeVerifier: new Secret('CNRY-VERIF-1'),
        redirectUri,
      },
    ),
  refresh: (upstream) => methods().oauth_connect.refresh(upstream, new Secret('CNRY-RT-1'), []),
  exchange: async (upstream) =>
    methods().token_exchange.acquire?.(upstream, new Secret('CNRY-IN-1')),
  'on behalf of': async (upstream) =>
    methods().entra_obo.acquire?.(upstream, new Secret('CNRY-IN-1')),
}

function methods() {
  return createAcquisition({ http: patientHttp(), clock: createFakeClock() }).methods
}

/** The verdict, after making sure that nothing of the requests or of the answers is in the failure or the log. */
async function verdictOf(sent: Promise<unknown>): Promise<FailureVerdict> {
  const failure = await sent.then(
    () => undefined,
    (error: unknown) => error,
  )
  expect(failure).toBeInstanceOf(AcquisitionFailure)
  expectNoCanary(failure)
  expectNoCanary(log)
  return (failure as AcquisitionFailure).verdict
}

function expectNoCanary(value: unknown): void {
  expect(inspect(value, { depth: 20, showHidden: true, maxStringLength: null })).not.toContain(
    canary,
  )
  expect(JSON.stringify(value) ?? '').not.toContain(canary)
  for (let cause = value; cause instanceof Error; cause = cause.cause) {
    expect(`${cause.message} ${cause.stack}`).not.toContain(canary)
  }
}

it('the canary would be found', () => {
  expect(() => expectNoCanary(new Error('x', { cause: new Error('CNRY-AT-1') }))).toThrow()
  expect(() => expectNoCanary([{ deep: { er: ['CNRY-AT-1'] } }])).toThrow()
})

describe.each(Object.entries(requests))('C20: a %s request that is answered with', (_kind, ask) => {
  const answers: readonly (readonly [string, Script, FailureVerdict])[] = [
    ['HTML', text('<html>CNRY-TEXT</html>', 'text/html'), lost],
    ['nothing', text('', 'application/json'), lost],
    ['an empty object', json({}), lost],
    [
      'half a JSON text',
      (_request, response) => {
        response.writeHead(200, { 'content-length': '100' })
        response.write('{"access_token":"CNRY-AT-half', () => response.socket?.destroy())
      },
      lost,
    ],
    [
      'half a JSON text that says it is whole',
      text('{"access_token":"CNRY-AT-half', 'application/json'),
      lost,
    ],
    [
      '1 GB',
      (_request, response) => {
        response.writeHead(200, { 'content-type': 'application/json' })
        response.write('{"access_token":"CNRY-AT-1","x":"')
        const chunk = 'CNRY'.repeat(16_384)
        let left = 16_384
        const push = () => {
          while (left > 0 && !response.destroyed) {
            left -= 1
            if (!response.write(chunk)) return
          }
          response.end('"}')
        }
        response.on('drain', push)
        push()
      },
      lost,
    ],
    [
      'a compressed token',
      (_request, response) => {
        const packed = gzipSync(JSON.stringify({ access_token: 'CNRY-AT-1' }))
        response.writeHead(200, { 'content-encoding': 'gzip' }).end(packed)
      },
      lost,
    ],
    [
      'a gzip bomb',
      (_request, response) => {
        response.writeHead(200, { 'content-encoding': 'gzip' }).end(gzipBomb)
      },
      lost,
    ],
    ['silence', silence, lost],
    ['a head, and then silence', silenceAfterHead, lost],
    ['a reset', (_request, response) => response.socket?.resetAndDestroy(), lost],
    ['a token in two lines', json({ access_token: 'CNRY-AT-1\r\nX-Injected: 1' }), lost],
    ['a token of another type', json({ access_token: 'CNRY-AT-1', token_type: 'mac' }), lost],
    [
      'prototype keys',
      text('{"__proto__":{"access_token":"CNRY-AT-1"}}', 'application/json'),
      lost,
    ],
    [
      'M-N6: 200 and an error of its own',
      json({ error: 'CNRY-error', error_description: 'CNRY-TEXT' }),
      complete,
    ],
    [
      'M-X3: a 400 that repeats our secrets',
      (request, response) => {
        const echo = JSON.stringify({ error: 'CNRY-error', error_description: request.body })
        response.writeHead(400, { 'content-type': 'application/json' }).end(echo)
      },
      complete,
    ],
    [
      'a misconfigured client and secrets in the text',
      json({ error: 'invalid_client', error_description: 'CNRY-CS-client-secret' }, 401),
      { kind: 'misconfigured' },
    ],
    ['a 500 with a stack', text('CNRY-TEXT at /srv/as.js:1', 'text/plain', 500), complete],
    [
      'a status and headers of its own',
      text('', 'text/plain', 418, { 'x-secret': 'CNRY-TEXT', 'set-cookie': 'CNRY=1' }),
      complete,
    ],
  ]

  it.each(answers)(
    '%s: gives a verdict, and nothing of it travels on',
    async (_what, script, verdict) => {
      server.script(script)
      if (script === silence || script === silenceAfterHead) patienceMs = 1000
      expect(await verdictOf(ask(atServer()))).toEqual(verdict)
      expect(server.requests).toHaveLength(1)
    },
  )

  it.each([301, 302, 303, 307, 308])('a redirect %i: nothing follows it', async (status) => {
    server.script(text('', 'text/plain', status, { location: `${bystander.origin}/CNRY` }))
    expect(await verdictOf(ask(atServer()))).toEqual(complete)
    expect(bystander.connections()).toBe(0)
  })

  it('lifetimes as text, and no token type: is taken', async () => {
    server.script(json({ access_token: 'CNRY-AT-1', expires_in: '3600' }))
    expect(await ask(atServer())).toMatchObject({ expiresAt: new Date('2026-11-21T13:00:00Z') })
  })
})

describe('metadata of a hostile server', () => {
  const client = () =>
    createAcquisition({ http: patientHttp(), clock: createFakeClock() }).authorization
  const options = { redirectUri, scopes: [], claims: undefined }

  function metadata(extra: object): Script {
    return json({
      issuer: server.origin,
      authorization_endpoint: `${server.origin}/authorize`,
      token_endpoint: `${server.origin}/token`,
      code_challenge_methods_supported: ['S256'],
      ...extra,
    })
  }

  function discovered(): Upstream {
    return oauthUpstream({ issuer: server.origin })
  }

  it.each([
    ['HTML', text('<html>CNRY-TEXT', 'text/html'), 'misconfigured'],
    ['half a document', text('{"issuer":"CNRY', 'application/json'), 'misconfigured'],
    ['another issuer', json({ issuer: 'https://CNRY.example.com' }), 'misconfigured'],
    ['silence', silence, 'retry_at'],
    [
      'too much',
      (_request, response) => {
        response.end(`{"issuer":"${'CNRY'.repeat(100_000)}"}`)
      },
      'retry_at',
    ],
    ['an error', text('CNRY-TEXT', 'text/plain', 503), 'retry_at'],
  ] as const satisfies readonly (readonly [string, Script, string])[])(
    'as %s: nothing of it travels on, and no token request is made',
    async (_what, script, kind) => {
      server.script(script)
      if (script === silence) patienceMs = 1000
      for (const ask of Object.values(requests)) {
        const verdict = await verdictOf(ask(discovered()))
        expect(verdict).toEqual(
          kind === 'retry_at' ? { kind, answer: 'not_sent' } : { kind: 'misconfigured' },
        )
      }
      expect(server.requests.every(({ method }) => method === 'GET')).toBe(true)
    },
  )

  it.each(['javascript:alert(1)', 'data:text/html,x', 'file:///etc/passwd', '//evil', 'CNRY'])(
    'C19: sends no browser to %s',
    async (url) => {
      server.script(metadata({ authorization_endpoint: url }))
      expect(await verdictOf(client().request(discovered(), options))).toEqual({
        kind: 'misconfigured',
      })
    },
  )

  it('C18: leads no request to another service of this machine', async () => {
    const endpoint = `${bystander.origin}/token`
    server.script(metadata({ token_endpoint: endpoint, revocation_endpoint: endpoint }))
    for (const ask of Object.values(requests)) {
      expect(await verdictOf(ask(discovered()))).toEqual({
        kind: 'retry_at',
        answer: 'not_sent',
        addressRefused: true,
      })
    }
    const revoked = methods().oauth_connect.revoke(
      discovered(),
      new Secret('CNRY-RT-1'),
      'refresh_token',
    )
    expect((await verdictOf(revoked)).kind).toBe('retry_at')
    expect(bystander.connections()).toBe(0)
    expect(log).toContainEqual({
      event: 'outbound_request_failed',
      fault: 'address_refused',
      at: 'upstreams.files',
      setting: 'upstreams.files.allow_private_network',
    })
  })

  it.each([
    'http://169.254.169.254/latest/meta-data',
    'http://[::ffff:169.254.169.254]/',
    'http://2852039166/',
    'http://100.100.100.200/',
  ])('C18: leads no request to %s, even where private addresses are allowed', async (url) => {
    server.script(metadata({ token_endpoint: url }))
    const allowed = { ...discovered(), allowPrivateNetwork: true }
    expect(await verdictOf(requests['refresh']?.(allowed) ?? Promise.resolve())).toMatchObject({
      answer: 'not_sent',
      addressRefused: true,
    })
  })

  it('serves its own origin, and another private one where the operator allowed that', async () => {
    server.script((request, response) => {
      const isDocument = request.method === 'GET'
      const script = isDocument ? metadata({}) : json({ access_token: 'CNRY-AT-own' })
      script(request, response)
    })
    expect(await requests['refresh']?.(discovered())).toHaveProperty('accessToken')
    server.script(metadata({ token_endpoint: `${bystander.origin}/token` }))
    const allowed = { ...discovered(), allowPrivateNetwork: true }
    expect(await requests['refresh']?.(allowed)).toHaveProperty('accessToken')
    expect(bystander.requests).toHaveLength(1)
  })
})
