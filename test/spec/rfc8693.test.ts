import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { createAcquisition } from '../../src/acquisition/index.ts'
import { AcquisitionFailure } from '../../src/core/failure-verdict.ts'
import { Secret } from '../../src/core/secret.ts'
import { createHttpClient } from '../../src/outbound/http-client.ts'
import { createFakeClock } from '../support/fake-clock.ts'
import { oauthUpstream } from '../support/oauth-upstream.ts'
import {
  fieldsOf,
  json,
  type ScriptedServer,
  startScriptedServer,
} from '../support/scripted-server.ts'

const success = {
  access_token: 'CNRY-AT-1',
  issued_token_type: 'urn:ietf:params:oauth:token-type:access_token',
  token_type: 'Bearer',
  expires_in: 3600,
}

let server: ScriptedServer
const clock = createFakeClock()

beforeEach(async () => {
  server = await startScriptedServer(json(success))
})
afterEach(() => server.close())

function exchange(credential: Parameters<typeof oauthUpstream>[0] = {}, token = 'CNRY-IN-1') {
  const methods = createAcquisition({ http: createHttpClient(), clock }).methods
  const upstream = oauthUpstream({
    mode: 'token_exchange',
    tokenEndpoint: `${server.origin}/token`,
    ...credential,
  })
  return methods.token_exchange.acquire?.(upstream, new Secret(token))
}

async function failureOf(sent: Promise<unknown> | undefined): Promise<unknown> {
  try {
    return await sent
  } catch (failure) {
    return failure
  }
}

async function verdictOf(error: unknown, status = 400) {
  server.script(json(error, status))
  const failure = await failureOf(exchange())
  expect(failure).toBeInstanceOf(AcquisitionFailure)
  return (failure as AcquisitionFailure).verdict
}

describe('RFC 8693 §2.1: the request', () => {
  it('M-X1: has exactly the parameters of an exchange, and the token ends an hour later', async () => {
    const tokens = await exchange({
      resource: 'https://files.example.com/mcp',
      scopes: ['files:read', 'files:write'],
      clientAuthentication: {
        method: 'client_secret_post',
        secret: new Secret('CNRY-CS-client-secret'),
      },
    })
    expect(fieldsOf(server.requests[0]?.form)).toEqual({
      grant_type: 'urn:ietf:params:oauth:grant-type:token-exchange',
      subject_token: 'CNRY-IN-1',
      subject_token_type: 'urn:ietf:params:oauth:token-type:access_token',
      requested_token_type: 'urn:ietf:params:oauth:token-type:access_token',
      resource: 'https://files.example.com/mcp',
      scope: 'files:read files:write',
      client_id: 'onbehalf-client',
      client_secret: 'CNRY-CS-client-secret',
    })
    expect(tokens?.expiresAt).toEqual(new Date(clock.now().getTime() + 3_600_000))
  })

  it('names every audience, and neither resource nor scope where there is none', async () => {
    await exchange({ audiences: ['files', 'https://files.example.com'], scopes: [] })
    const form = server.requests[0]?.form
    expect(form?.getAll('audience')).toEqual(['files', 'https://files.example.com'])
    expect(form?.has('resource')).toBe(false)
    expect(form?.has('scope')).toBe(false)
  })

  it.each([
    ['access_token', 'urn:ietf:params:oauth:token-type:access_token'],
    ['id_token', 'urn:ietf:params:oauth:token-type:id_token'],
    ['jwt', 'urn:ietf:params:oauth:token-type:jwt'],
  ] as const)(
    '§3: says that the subject token is of the type %s',
    async (subjectTokenType, urn) => {
      await exchange({ subjectTokenType })
      expect(server.requests[0]?.form.get('subject_token_type')).toBe(urn)
    },
  )

  it('takes written parameters along', async () => {
    await exchange({ tokenParameters: { requested_issuer: 'github' } })
    expect(server.requests[0]?.form.get('requested_issuer')).toBe('github')
  })
})

describe('RFC 8693 §2.2.1: the answer', () => {
  it('may be no access token by itself', async () => {
    server.script(json({ ...success, token_type: 'N_A' }))
    expect((await exchange())?.accessToken.reveal()).toBe('CNRY-AT-1')
  })

  it('may bring a refresh token, as Keycloak’s does', async () => {
    server.script(
      json({
        ...success,
        refresh_token: 'CNRY-RT-1',
        refresh_expires_in: 0,
        'not-before-policy': 0,
        session_state: 'x',
      }),
    )
    expect((await exchange())?.refreshToken?.reveal()).toBe('CNRY-RT-1')
  })

  it('without a lifetime makes a token that ends when its upstream says so', async () => {
    const { expires_in: _, ...withoutIt } = success
    server.script(json(withoutIt))
    expect((await exchange())?.expiresAt).toBeUndefined()
  })
})

describe('RFC 8693 §2.2.2: the refusal', () => {
  it.each(['invalid_request', 'invalid_grant', 'invalid_token'])(
    '%s is one of the subject token',
    async (error) => {
      expect(await verdictOf({ error })).toEqual({ kind: 'subject_token_refused' })
    },
  )

  it.each(['invalid_target', 'invalid_client', 'unauthorized_client', 'invalid_scope'])(
    '%s is one of the configuration',
    async (error) => {
      expect(await verdictOf({ error })).toEqual({ kind: 'misconfigured' })
    },
  )

  it('access_denied is the server’s policy', async () => {
    expect(await verdictOf({ error: 'access_denied' }, 403)).toEqual({ kind: 'denied' })
  })

  it('X5: echoes of the subject token go nowhere', async () => {
    const echoed = {
      error: 'invalid_request',
      error_description: 'bad CNRY-IN-1',
      claims: 'CNRY-IN-1',
    }
    expect(JSON.stringify(await verdictOf(echoed))).not.toContain('CNRY')
  })
})
