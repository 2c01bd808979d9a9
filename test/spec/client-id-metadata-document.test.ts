import { Provider } from 'oidc-provider/lib/provider.js'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { bindLoopback, type LoopbackServer } from '../../src/demo/loopback-server.ts'
import { startTestBroker, type TestBroker } from '../support/broker.ts'

const publicUrl = 'https://broker.example.com'
const clientId = `${publicUrl}/oauth-client/notes`

describe('our own document, as an authorization server reads it (Client ID Metadata Document)', () => {
  let broker: TestBroker
  let server: LoopbackServer

  beforeAll(async () => {
    broker = await startTestBroker({
      change(config) {
        config.public_url = publicUrl
        Object.assign(config.upstreams, { notes: { url: 'https://notes.example.com/mcp' } })
      },
    })
    server = await bindLoopback()
    const provider = new Provider(server.url, {
      features: {
        clientIdMetadataDocument: {
          enabled: true,
          ack: 'draft-02',
          allowFetch: () => true,
          allowClient: () => true,
        },
        devInteractions: { enabled: false },
      },
      interactions: { url: () => '/interaction' },
      // The broker is where its public URL says; there is no such name on this machine.
      fetch: async (url) => broker.broker.app.fetch(new Request(url)),
    })
    const answer = provider.callback()
    server.serve(async (request, response) => {
      await answer(request, response)
    })
  })
  afterAll(async () => {
    await server.stop()
    await broker.stop()
  })

  const authorize = (redirectUri: string, id = clientId) =>
    fetch(
      `${server.url}/auth?${new URLSearchParams({
        client_id: id,
        redirect_uri: redirectUri,
        response_type: 'code',
        scope: 'openid',
        code_challenge: 'E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM',
        code_challenge_method: 'S256',
      }).toString()}`,
      { redirect: 'manual' },
    )

  it('is one that it accepts, with the redirect URI of this upstream only', async () => {
    const accepted = await authorize(`${publicUrl}/callback/notes`)
    expect([accepted.status, accepted.headers.get('location')]).toEqual([303, '/interaction'])
    expect((await authorize(`${publicUrl}/callback/files`)).status).toBe(400)
  })

  it('is public and may be kept, and names no secret', async () => {
    const answer = await broker.broker.app.fetch(new Request(clientId))
    expect(answer.headers.get('cache-control')).toContain('public')
    expect(await answer.json()).toEqual({
      client_id: clientId,
      client_name: 'onbehalf (broker.example.com)',
      client_uri: publicUrl,
      redirect_uris: [`${publicUrl}/callback/notes`],
      grant_types: ['authorization_code', 'refresh_token'],
      response_types: ['code'],
      application_type: 'web',
      token_endpoint_auth_method: 'none',
    })
  })

  it.each(['files', 'unknown', ''])('is not there for %s', async (name) => {
    const answer = await broker.broker.app.fetch(new Request(`${publicUrl}/oauth-client/${name}`))
    expect(answer.status).toBe(404)
  })
})
