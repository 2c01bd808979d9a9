import { generateKeyPairSync } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import type { UpstreamCredential } from '../../../src/core/upstream.ts'
import {
  configOf,
  credentialWith,
  type FileValues,
  fileWith,
  goodKey,
  goodLogin,
  goodServiceKey,
  identityWith,
  issuerWith,
  problemsOf,
  upstreamWith,
} from '../../support/config-files.ts'

async function credentialOf(file: FileValues): Promise<UpstreamCredential> {
  const upstream = (await configOf(file)).upstreams.get('files')
  if (upstream === undefined) throw new Error('no such upstream')
  return upstream.credential
}

describe('defaults', () => {
  it('are those that docs/configuration.md says', async () => {
    const config = await configOf(fileWith())
    expect(config).toMatchObject({
      publicUrl: 'https://broker.example.com',
      listen: { host: '127.0.0.1', port: 8080, metrics: undefined },
      database: { url: undefined, pool: 10 },
      identity: {
        issuers: [
          {
            audiences: ['https://broker.example.com'],
            validation: 'jwt',
            jwksUri: undefined,
            algorithms: ['RS256', 'ES256', 'EdDSA'],
            requiredScopes: [],
            requiredClaims: {},
            claims: { user: 'sub', email: 'email', roles: 'roles' },
            allowPrivateNetwork: false,
            requireAtJwt: false,
          },
        ],
        shareOpaqueTokens: false,
        login: undefined,
        admins: { issuer: 'https://login.example.com', roles: ['onbehalf-admin'], users: [] },
        services: [],
      },
      returnTo: [],
      audit: { whenFull: 'refuse', retentionDays: 90 },
    })
    expect(config.upstreams.size).toBe(0)
  })

  it('M-C1: a file without upstreams is good', async () => {
    expect(await problemsOf(fileWith())).toEqual([])
  })

  it('of login and services', async () => {
    const { identity } = await configOf(
      identityWith({ login: goodLogin, services: [{ id: 'edge', key: goodServiceKey }] }),
    )
    expect(identity.login).toMatchObject({
      clientAuthentication: { method: 'none' },
      scopes: ['openid', 'email'],
      storeSubjectToken: false,
      sessionSeconds: 12 * 3600,
      allowPrivateNetwork: false,
    })
    expect(identity.services[0]).toMatchObject({
      id: 'edge',
      upstreams: ['*'],
      maxAgeSeconds: 0,
      mayAssertUser: false,
      mayReadActivity: false,
      mayOffboard: false,
    })
  })

  it('of introspection', async () => {
    const introspection = {
      endpoint: 'https://login.example.com/i',
      client_id: 'x',
      client_secret: 'y',
    }
    const config = await configOf(issuerWith({ validation: 'introspection', introspection }))
    expect(config.identity.issuers[0]?.introspection).toMatchObject({ cacheSeconds: 30 })
  })

  it('M-C5: the credential goes into Authorization as a bearer', async () => {
    expect(await credentialOf(credentialWith({}))).toMatchObject({
      header: 'Authorization',
      headerFormat: 'Bearer {token}',
      refreshBeforeSeconds: 60,
      defaultLifetimeSeconds: 3600,
      refreshReuse: { kind: 'strict' },
      subjectTokenType: 'access_token',
      scopes: [],
      audiences: [],
      authorizationParameters: {},
      tokenParameters: {},
      tokenAnswerMember: undefined,
    })
  })

  it('M-C1: the url of an mcp upstream is enough, and everything else is discovered', async () => {
    expect(await credentialOf(upstreamWith({}))).toMatchObject({
      mode: 'oauth_connect',
      discovery: { issuer: true, resource: true, scopes: true, found: undefined },
      clientId: '',
      resource: 'https://files.example.com/mcp',
    })
  })

  it('of an mcp upstream without a client of ours: what is written stays', async () => {
    const written = { client_id: undefined, scopes: ['a'], resource: 'https://files.example.com' }
    expect(await credentialOf(credentialWith(written))).toMatchObject({
      discovery: { issuer: false, resource: false, scopes: false },
      issuer: 'https://as.example.com',
    })
    expect((await credentialOf(credentialWith({}))).discovery).toBeUndefined()
  })

  it('of an upstream', async () => {
    const config = await configOf(credentialWith({}))
    expect(config.upstreams.get('files')).toMatchObject({
      name: 'files',
      displayName: 'files',
      kind: 'mcp',
      allow: { roles: [], users: [] },
      externalUrl: undefined,
      allowPrivateNetwork: false,
    })
  })

  it('hold for settings that are written and empty (null)', async () => {
    const config = await configOf(
      fileWith({ listen: null, upstreams: null, audit: { retention: null } }),
    )
    expect(config.audit.retentionDays).toBe(90)
  })
})

describe('public_url', () => {
  it.each([
    ['https://broker.example.com/', 'https://broker.example.com'],
    ['https://Broker.Example.com', 'https://broker.example.com'],
    ['https://broker.example.com:443', 'https://broker.example.com'],
    ['http://127.0.0.1:8080/', 'http://127.0.0.1:8080'],
    ['http://localhost:8080', 'http://localhost:8080'],
    ['http://[::1]:8080', 'http://[::1]:8080'],
  ])(
    'T-12: %s is one origin without a trailing slash, which documents and challenges share',
    async (url, origin) => {
      const config = await configOf(fileWith({ public_url: url }))
      expect(config.publicUrl).toBe(origin)
      expect(config.identity.issuers[0]?.audiences).toEqual([origin])
    },
  )
})

describe('values', () => {
  it.each([
    ['0s', 0],
    ['90s', 90],
    ['10m', 600],
    ['12h', 43_200],
    ['2d', 172_800],
  ])('a duration of %s is %d seconds', async (text, seconds) => {
    expect(
      (await credentialOf(credentialWith({ refresh_before: text }))).refreshBeforeSeconds,
    ).toBe(seconds)
  })

  it.each(['60', '1.5h', '-1s', '1h30m', '60 s', '60S', '5ms', 's', '', '9999999999s', '3651d'])(
    '%j is no duration',
    async (text) => {
      expect(await problemsOf(credentialWith({ refresh_before: text }))).toHaveLength(1)
    },
  )

  it.each([
    ['strict', { kind: 'strict' }],
    ['none', { kind: 'none' }],
    ['30s', { kind: 'grace', graceSeconds: 30 }],
    ['10m', { kind: 'grace', graceSeconds: 600 }],
  ])('refresh_reuse %s', async (text, reuse) => {
    expect((await credentialOf(credentialWith({ refresh_reuse: text }))).refreshReuse).toEqual(
      reuse,
    )
  })

  it('audiences may be one or several', async () => {
    const several = issuerWith({ audience: ['a', 'b'] })
    expect((await configOf(several)).identity.issuers[0]?.audiences).toEqual(['a', 'b'])
    expect((await configOf(issuerWith({ audience: 'a' }))).identity.issuers[0]?.audiences).toEqual([
      'a',
    ])
    expect((await credentialOf(credentialWith({ audience: 'x' }))).audiences).toEqual(['x'])
    expect((await credentialOf(credentialWith({ audience: ['x', 'y'] }))).audiences).toEqual([
      'x',
      'y',
    ])
  })

  it('an issuer is kept to the letter', async () => {
    const file = identityWith({ issuers: [{ issuer: 'https://Login.example.com/' }] })
    expect((await configOf(file)).identity.issuers[0]?.issuer).toBe('https://Login.example.com/')
  })

  it('timeouts are as long as they are written, and never longer than a timer runs', async () => {
    const timeoutsOf = async (timeouts: FileValues) => {
      const file = upstreamWith({ credential: { mode: 'oauth_connect' }, timeouts })
      return (await configOf(file)).upstreams.get('files')?.timeouts
    }
    expect(await timeoutsOf({})).toEqual({ connectMs: 5000, headMs: 120_000, idleMs: 600_000 })
    expect(await timeoutsOf({ connect: '1m', head: '24d', idle: '90d' })).toEqual({
      connectMs: 60_000,
      headMs: 24 * 86_400_000,
      idleMs: 2_147_483_647,
    })
  })

  it('data_dir starts at the directory of the file', async () => {
    expect((await configOf(fileWith())).dataDir).toBe('/etc/onbehalf/.onbehalf')
    expect((await configOf(fileWith({ data_dir: '/var/lib/onbehalf' }))).dataDir).toBe(
      '/var/lib/onbehalf',
    )
  })

  it('one key of a service, or several', async () => {
    const keys = ['first-key-first-key-first-key-first', 'second-key-second-key-second-key-second']
    const { identity } = await configOf(
      identityWith({
        services: [
          { id: 'a', key: goodServiceKey },
          { id: 'b', keys, upstreams: [] },
        ],
      }),
    )
    expect(identity.services.map((service) => service.keys.map((key) => key.reveal()))).toEqual([
      [goodServiceKey],
      keys,
    ])
    expect(identity.services[1]?.upstreams).toEqual([])
  })

  it('several encryption keys, in their order', async () => {
    const other = Buffer.alloc(32, 9).toString('base64')
    const config = await configOf(
      fileWith({
        encryption: {
          keys: [
            { id: 'k2', secret: other },
            { id: 'k1', secret: goodKey },
          ],
        },
      }),
    )
    expect(config.encryptionKeys.map(({ id, secret }) => [id, secret.reveal()])).toEqual([
      ['k2', other],
      ['k1', goodKey],
    ])
  })

  it("admins are of the login's issuer, or the one that is written", async () => {
    const issuers = [{ issuer: 'https://a.example.com' }, { issuer: 'https://b.example.com' }]
    const login = { issuer: 'https://b.example.com', client_id: 'x' }
    expect((await configOf(identityWith({ issuers, login }))).identity.admins.issuer).toBe(
      'https://b.example.com',
    )
    const admins = { issuer: 'https://a.example.com', roles: [], users: ['alice'] }
    expect((await configOf(identityWith({ issuers, login, admins }))).identity.admins).toEqual(
      admins,
    )
  })

  it('the sign-in may reach what its issuer may', async () => {
    const issuers = [{ issuer: 'https://login.example.com', allow_private_network: true }]
    const config = await configOf(identityWith({ issuers, login: goodLogin }))
    expect(config.identity.login?.allowPrivateNetwork).toBe(true)
  })
})

describe('how our client authenticates', () => {
  const method = async (changes: FileValues): Promise<string> =>
    (await credentialOf(credentialWith(changes))).clientAuthentication.method
  const { privateKey } = generateKeyPairSync('ec', {
    namedCurve: 'P-256',
    privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
    publicKeyEncoding: { type: 'spki', format: 'pem' },
  })

  it('is by its secret in the header, unless another way is written', async () => {
    expect(await method({ client_secret: 'x' })).toBe('client_secret_basic')
    expect(await method({ client_secret: 'x', client_auth: 'client_secret_post' })).toBe(
      'client_secret_post',
    )
  })

  it('is by its key, where only that is written', async () => {
    const credential = await credentialOf(
      credentialWith({ private_key: privateKey, private_key_id: 'k' }),
    )
    expect(credential.clientAuthentication).toMatchObject({ method: 'private_key_jwt', keyId: 'k' })
  })

  it('is not at all for a public client', async () => {
    expect(await method({})).toBe('none')
    expect(await method({ client_auth: 'none' })).toBe('none')
  })

  it('M-C3: an exchange may have no client of its own, and needs no authorization endpoint', async () => {
    const credential = await credentialOf(
      upstreamWith({
        credential: { mode: 'token_exchange', token_endpoint: 'https://as.example.com/t' },
      }),
    )
    expect(credential).toMatchObject({ clientId: '', clientAuthentication: { method: 'none' } })
  })
})

describe('the resource that is sent (RFC 8707)', () => {
  const url = 'https://files.example.com/mcp'
  const written = 'https://files.example.com/other'
  it.each([
    // kind, resource_parameter, resource, what is sent
    ['mcp', undefined, undefined, url],
    ['mcp', undefined, written, written],
    ['mcp', 'auto', undefined, url],
    ['mcp', 'always', undefined, url],
    ['mcp', 'never', undefined, undefined],
    ['mcp', 'never', written, undefined],
    ['http', undefined, undefined, undefined],
    ['http', undefined, written, written],
    ['http', 'auto', undefined, undefined],
    ['http', 'always', undefined, url],
    ['http', 'always', written, written],
    ['http', 'never', written, undefined],
  ])('kind %s, resource_parameter %s, resource %s: %s', async (kind, rule, resource, sent) => {
    const file = upstreamWith({
      kind,
      credential: {
        mode: 'oauth_connect',
        issuer: 'https://as.example.com',
        client_id: 'x',
        resource_parameter: rule,
        resource,
      },
    })
    expect((await credentialOf(file)).resource).toBe(sent)
  })

  it('is none for Entra, which refuses it, unless it is written', async () => {
    const entra = { mode: 'entra_obo', client_id: 'x', scopes: ['api://x/.default'] }
    expect((await credentialOf(credentialWith(entra))).resource).toBeUndefined()
    expect((await credentialOf(credentialWith({ ...entra, resource: written }))).resource).toBe(
      written,
    )
  })
})

describe('parameters that are added', () => {
  it('are passed on, except those that every request sets itself', async () => {
    const credential = await credentialOf(
      credentialWith({
        authorization_parameters: {
          access_type: 'offline',
          state: 'x',
          redirect_uri: 'y',
          prompt: '',
        },
        token_parameters: { requested_token_type: 'z', client_secret: 'x', grant_type: 'y' },
      }),
    )
    expect(credential.authorizationParameters).toEqual({ access_type: 'offline', prompt: '' })
    expect(credential.tokenParameters).toEqual({ requested_token_type: 'z' })
  })
})
