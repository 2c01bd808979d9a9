import { describe, expect, it } from 'vitest'
import { presetNames, presets } from '../../../src/config/presets/index.ts'
import type { UpstreamCredential } from '../../../src/core/upstream.ts'
import {
  configOf,
  credentialWith,
  type FileValues,
  problemsOf,
} from '../../support/config-files.ts'

async function credentialOf(changes: FileValues): Promise<UpstreamCredential> {
  const config = await configOf(credentialWith({ issuer: undefined, ...changes }))
  const upstream = config.upstreams.get('files')
  if (upstream === undefined) throw new Error('no such upstream')
  return upstream.credential
}

describe.each(presetNames)('preset %s', (name) => {
  const preset = presets[name]

  it('names https endpoints of one provider, without query', () => {
    const urls = [preset.authorizationEndpoint, preset.tokenEndpoint, preset.revocationEndpoint]
    for (const url of urls.filter((written) => written !== undefined)) {
      expect(new URL(url).href).toBe(url)
      expect(url).toMatch(/^https:\/\/[a-z0-9.-]+\/[A-Za-z0-9._/-]+$/)
    }
  })

  it('sets no parameter that every request sets itself', () => {
    const own = ['client_id', 'redirect_uri', 'response_type', 'scope', 'state', 'code_challenge']
    expect(
      Object.keys(preset.authorizationParameters ?? {}).filter((key) => own.includes(key)),
    ).toEqual([])
  })

  it('is all that a client id needs besides', async () => {
    const credential = await credentialOf({ preset: name })
    expect(credential).toMatchObject({
      authorizationEndpoint: preset.authorizationEndpoint,
      tokenEndpoint: preset.tokenEndpoint,
      resource: undefined,
    })
  })

  it('gives way to every written value', async () => {
    const written = {
      authorization_endpoint: 'https://as.example.com/a',
      token_endpoint: 'https://as.example.com/t',
      revocation_endpoint: 'https://as.example.com/r',
      client_secret: 'x',
      client_auth: 'client_secret_basic',
      authorization_parameters: { prompt: 'login', extra: 'x' },
      refresh_reuse: '30s',
      resource_parameter: 'always',
    }
    expect(await credentialOf({ preset: name, ...written })).toMatchObject({
      authorizationEndpoint: written.authorization_endpoint,
      tokenEndpoint: written.token_endpoint,
      revocationEndpoint: written.revocation_endpoint,
      clientAuthentication: { method: 'client_secret_basic' },
      authorizationParameters: { ...preset.authorizationParameters, prompt: 'login', extra: 'x' },
      refreshReuse: { kind: 'grace', graceSeconds: 30 },
      resource: 'https://files.example.com/mcp',
    })
  })

  it('names no endpoint where an issuer is written, which says them all', async () => {
    expect(await credentialOf({ preset: name, issuer: 'https://as.example.com' })).toMatchObject({
      issuer: 'https://as.example.com',
      authorizationEndpoint: undefined,
      tokenEndpoint: undefined,
      revocationEndpoint: undefined,
    })
  })

  it('is for connecting: an exchange still names its own server', async () => {
    const problems = await problemsOf(
      credentialWith({ issuer: undefined, preset: name, mode: 'entra_obo', scopes: ['x'] }),
    )
    expect(problems.map(({ path }) => path)).toEqual(['upstreams.files.credential.token_endpoint'])
  })
})

describe('what providers need', () => {
  it('Google: offline access, asked for each time', async () => {
    expect((await credentialOf({ preset: 'google' })).authorizationParameters).toEqual({
      access_type: 'offline',
      prompt: 'consent',
    })
  })

  it('Slack: the token of the person inside the answer', async () => {
    expect((await credentialOf({ preset: 'slack' })).tokenAnswerMember).toBe('authed_user')
  })

  it('GitHub: the secret in the body, and a resource only where it is written', async () => {
    const credential = await credentialOf({ preset: 'github', client_secret: 'x' })
    expect(credential.clientAuthentication.method).toBe('client_secret_post')
    const resource = 'https://files.example.com'
    expect((await credentialOf({ preset: 'github', resource })).resource).toBe(resource)
  })
})
