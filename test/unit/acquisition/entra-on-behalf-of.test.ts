import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { createAcquisition } from '../../../src/acquisition/index.ts'
import { AcquisitionFailure } from '../../../src/core/failure-verdict.ts'
import { Secret } from '../../../src/core/secret.ts'
import { createHttpClient } from '../../../src/outbound/http-client.ts'
import { createFakeClock } from '../../support/fake-clock.ts'
import { oauthUpstream } from '../../support/oauth-upstream.ts'
import {
  fieldsOf,
  json,
  type ScriptedServer,
  startScriptedServer,
} from '../../support/scripted-server.ts'

const scopes = ['api://files/.default', 'offline_access']

let server: ScriptedServer
const clock = createFakeClock()

beforeEach(async () => {
  server = await startScriptedServer(
    json({
      token_type: 'Bearer',
      scope: 'api://files/read',
      expires_in: '1800',
      ext_expires_in: 1800,
      access_token: 'CNRY-AT-1',
      refresh_token: 'CNRY-RT-1',
    }),
  )
})
afterEach(() => server.close())

function setUp() {
  const methods = createAcquisition({ http: createHttpClient(), clock }).methods
  const upstream = oauthUpstream({
    mode: 'entra_obo',
    tokenEndpoint: `${server.origin}/tenant/oauth2/v2.0/token`,
    clientAuthentication: {
      method: 'client_secret_post',
      secret: new Secret('CNRY-CS-client-secret'),
    },
    resource: 'https://files.example.com/mcp',
    audiences: ['files'],
    scopes,
  })
  const acquire = () => methods.entra_obo.acquire?.(upstream, new Secret('CNRY-IN-1'))
  return { upstream, method: methods.entra_obo, acquire }
}

describe('Entra on behalf of', () => {
  it('M-X2: sends exactly the form that Entra asks for, and the token ends half an hour later', async () => {
    const tokens = await setUp().acquire()
    expect(fieldsOf(server.requests[0]?.form)).toEqual({
      grant_type: 'urn:ietf:params:oauth:grant-type:jwt-bearer',
      assertion: 'CNRY-IN-1',
      requested_token_use: 'on_behalf_of',
      scope: 'api://files/.default offline_access',
      client_id: 'onbehalf-client',
      client_secret: 'CNRY-CS-client-secret',
    })
    expect(tokens?.expiresAt).toEqual(new Date(clock.now().getTime() + 1_800_000))
    expect(tokens?.scopes).toEqual(['api://files/read'])
  })

  it('refreshes with the configured scopes, so that the refresh token is renewed too', async () => {
    const { method, upstream } = setUp()
    await method.refresh(upstream, new Secret('CNRY-RT-1'), ['api://files/read'])
    const form = server.requests[0]?.form
    expect(form?.get('scope')).toBe('api://files/.default offline_access')
    expect(form?.has('resource')).toBe(false)
    expect(form?.has('audience')).toBe(false)
  })

  it('X6: keeps the challenge of conditional access for the next sign-in', async () => {
    const claims = '{"access_token":{"capolids":{"essential":true,"values":["CNRY-CLAIMS"]}}}'
    server.script(
      json(
        {
          error: 'interaction_required',
          error_description: 'AADSTS50076: CNRY-TEXT',
          error_codes: [50076],
          suberror: 'basic_action',
          trace_id: 'CNRY-TRACE',
          claims,
        },
        400,
      ),
    )
    const failure = await setUp()
      .acquire()
      ?.catch((error: unknown) => error)
    expect(failure).toBeInstanceOf(AcquisitionFailure)
    const { verdict } = failure as AcquisitionFailure
    expect(verdict.kind === 'interaction_required' && verdict.claims?.reveal()).toBe(claims)
    expect(JSON.stringify(failure)).not.toContain('CNRY')
  })
})
