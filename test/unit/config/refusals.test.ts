import { describe, expect, it } from 'vitest'
import {
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

/** A file, the one path that must be named, and words of the reason. */
type Refusal = readonly [name: string, file: FileValues, path: string, reason: RegExp]

function itRefuses(refusals: readonly Refusal[]): void {
  it.each(refusals)('%s', async (_name, file, path, reason) => {
    const problems = await problemsOf(file)
    expect(problems.map((problem) => problem.path)).toEqual([path])
    expect(problems[0]?.message).toMatch(reason)
  })
}

const twoIssuers = [{ issuer: 'https://a.example.com' }, { issuer: 'https://b.example.com' }]
const introspection = {
  endpoint: 'https://login.example.com/introspect',
  client_id: 'x',
  client_secret: 'y',
}
const twoIntrospecting = twoIssuers.map((issuer) => ({
  ...issuer,
  validation: 'introspection',
  introspection,
}))
const serviceWith = (changes: FileValues): FileValues =>
  identityWith({ services: [{ id: 'edge', key: goodServiceKey, ...changes }] })

describe('what is refused at start', () => {
  itRefuses([
    [
      'M-C2: an unknown mode, with the known ones',
      credentialWith({ mode: 'token_exchang' }),
      'upstreams.files.credential.mode',
      /one of oauth_connect, token_exchange, entra_obo, user_key; did you mean token_exchange\?$/,
    ],
    [
      'M-C2: a credential without a mode',
      credentialWith({ mode: undefined }),
      'upstreams.files.credential.mode',
      /is required: one of oauth_connect/,
    ],
    [
      'endpoints without a client of ours',
      credentialWith({
        issuer: undefined,
        client_id: undefined,
        authorization_endpoint: 'https://as.example.com/authorize',
        token_endpoint: 'https://as.example.com/token',
      }),
      'upstreams.files.credential.client_id',
      /is required with endpoints or a preset/,
    ],
    [
      'a preset without a client of ours',
      credentialWith({ issuer: undefined, client_id: undefined, preset: 'github' }),
      'upstreams.files.credential.client_id',
      /is required with endpoints or a preset/,
    ],
    [
      'a secret of no client',
      credentialWith({ client_id: undefined, client_secret: 'x' }),
      'upstreams.files.credential.client_id',
      /is required with a secret or key/,
    ],
    [
      'an http upstream without a client of ours',
      {
        ...upstreamWith({
          kind: 'http',
          credential: { mode: 'oauth_connect', issuer: 'https://as.example.com' },
        }),
      },
      'upstreams.files.credential.client_id',
      /is required for oauth_connect on an http upstream/,
    ],
    [
      'a written client at a server that is not',
      credentialWith({
        issuer: undefined,
        token_endpoint: undefined,
        authorization_endpoint: 'https://as.example.com/authorize',
      }),
      'upstreams.files.credential.token_endpoint',
      /or issuer is required for oauth_connect/,
    ],
    [
      'M-C2: an exchange with neither issuer nor token endpoint',
      credentialWith({ mode: 'token_exchange', issuer: undefined }),
      'upstreams.files.credential.token_endpoint',
      /or issuer is required for token_exchange/,
    ],
    [
      'M-C2: on-behalf-of with neither issuer nor token endpoint',
      credentialWith({ mode: 'entra_obo', issuer: undefined }),
      'upstreams.files.credential.token_endpoint',
      /or issuer is required for entra_obo/,
    ],
    [
      'a written client with neither issuer nor token endpoint',
      credentialWith({ issuer: undefined, authorization_endpoint: 'https://as.example.com/a' }),
      'upstreams.files.credential.token_endpoint',
      /or issuer is required for oauth_connect/,
    ],
    [
      'M-C3: connect without an authorization endpoint where nothing is discovered',
      credentialWith({ issuer: undefined, token_endpoint: 'https://as.example.com/t' }),
      'upstreams.files.credential.authorization_endpoint',
      /is required for oauth_connect/,
    ],
    [
      'subject_token_type id_token without store_subject_token',
      credentialWith({ mode: 'token_exchange', subject_token_type: 'id_token' }),
      'upstreams.files.credential.subject_token_type',
      /identity\.login\.store_subject_token: true/,
    ],
    [
      'several issuers and no way to tell whose people are admins',
      identityWith({ issuers: twoIssuers }),
      'identity.admins.issuer',
      /whose people are admins/,
    ],
    [
      'introspection at several issuers without share_opaque_tokens',
      identityWith({
        issuers: twoIntrospecting,
        admins: { issuer: 'https://a.example.com' },
      }),
      'identity.share_opaque_tokens',
      /must be true for introspection at more than one issuer/,
    ],
    [
      'a max_age above 30s',
      serviceWith({ max_age: '31s' }),
      'identity.services[0].max_age',
      /at most 30s/,
    ],
    [
      'a public_url with a path',
      fileWith({ public_url: 'https://broker.example.com/x' }),
      'public_url',
      /must be an origin/,
    ],
    [
      'a header name that is not a token',
      credentialWith({ header: 'X Token' }),
      'upstreams.files.credential.header',
      /must be a header name/,
    ],
    [
      'a header_format without {token}',
      credentialWith({ header_format: 'Bearer token' }),
      'upstreams.files.credential.header_format',
      /must hold \{token\} once/,
    ],
    [
      'a key that is not 32 bytes',
      fileWith({
        encryption: { keys: [{ id: 'k1', secret: Buffer.alloc(31).toString('base64') }] },
      }),
      'encryption.keys[0].secret',
      /base64 of 32 bytes, .*; this is the base64 of 31 bytes$/,
    ],
    [
      'a key in hex, which is base64 of another length',
      fileWith({ encryption: { keys: [{ id: 'k1', secret: '0a'.repeat(32) }] } }),
      'encryption.keys[0].secret',
      /this is the base64 of 48 bytes$/,
    ],
    [
      'M-S7: a key that is not base64',
      fileWith({ encryption: { keys: [{ id: 'k1', secret: '*'.repeat(44) }] } }),
      'encryption.keys[0].secret',
      /base64 of 32 bytes, as `onbehalf keys generate` prints it$/,
    ],
    ['no key', fileWith({ encryption: { keys: [] } }), 'encryption.keys', /at least one key/],
    ['no encryption at all', fileWith({ encryption: undefined }), 'encryption.keys', /is required/],
    [
      'one key id twice',
      fileWith({
        encryption: {
          keys: [
            { id: 'k1', secret: goodKey },
            { id: 'k1', secret: goodKey },
          ],
        },
      }),
      'encryption.keys[1].id',
      /id of another key/,
    ],
    [
      'M-C4: an upstream that is a command',
      upstreamWith({ command: 'npx', credential: credential() }),
      'upstreams.files.command',
      /\(stdio\)/,
    ],
    [
      'M-C4: an upstream of kind stdio',
      upstreamWith({ kind: 'stdio', credential: credential() }),
      'upstreams.files.kind',
      /\(stdio\)/,
    ],
    [
      'an audience that is also the client id of the sign-in',
      identityWith({
        issuers: [{ issuer: 'https://login.example.com', audience: ['api', 'onbehalf'] }],
        login: goodLogin,
      }),
      'identity.issuers[0].audience[1]',
      /also identity\.login\.client_id/,
    ],
    [
      'the default audience as the client id of the sign-in',
      identityWith({ login: { ...goodLogin, client_id: 'https://broker.example.com' } }),
      'identity.issuers[0].audience',
      /by default public_url/,
    ],
    [
      'an external_url as the client id of the sign-in',
      {
        ...upstreamWith({ external_url: 'https://edge.example.com', credential: credential() }),
        ...identityWith({ login: { ...goodLogin, client_id: 'https://edge.example.com' } }),
      },
      'upstreams.files.external_url',
      /also identity\.login\.client_id/,
    ],
    [
      'the address of an upstream here as the client id of the sign-in',
      {
        ...upstreamWith({ credential: credential() }),
        ...identityWith({
          login: { ...goodLogin, client_id: 'https://broker.example.com/mcp/files' },
        }),
      },
      'identity.login.client_id',
      /also the audience of upstreams\.files/,
    ],
    [
      'the same of an http upstream',
      {
        ...upstreamWith({ kind: 'http', credential: credential() }),
        ...identityWith({
          login: { ...goodLogin, client_id: 'https://broker.example.com/proxy/files' },
        }),
      },
      'identity.login.client_id',
      /also the audience of upstreams\.files/,
    ],
  ])

  it('M-C4: refuses a command in the place of a url, which is missing', async () => {
    const file = fileWith({ upstreams: { local: { command: 'npx', args: ['-y', 'server'] } } })
    const problems = await problemsOf(file)
    expect(problems).toContainEqual({
      path: 'upstreams.local.command',
      message: expect.stringContaining('(stdio)') as string,
    })
    expect(problems).toContainEqual({
      path: 'upstreams.local.args',
      message: expect.stringContaining('(stdio)') as string,
    })
    expect(problems.map(({ path }) => path)).toContain('upstreams.local.url')
  })
})

function credential(changes: FileValues = {}): FileValues {
  return {
    mode: 'token_exchange',
    token_endpoint: 'https://as.example.com/token',
    client_id: 'onbehalf',
    ...changes,
  }
}

describe('plain http', () => {
  const http = 'http://as.example.com/x'
  const places: readonly (readonly [path: string, file: (url: string) => FileValues])[] = [
    ['identity.issuers[0].issuer', (url) => issuerWith({ issuer: url })],
    ['identity.issuers[0].jwks_uri', (url) => issuerWith({ jwks_uri: url })],
    [
      'identity.issuers[0].introspection.endpoint',
      (url) =>
        issuerWith({
          validation: 'introspection',
          introspection: { ...introspection, endpoint: url },
        }),
    ],
    ['upstreams.files.url', (url) => upstreamWith({ url, credential: credential() })],
    [
      'upstreams.files.external_url',
      (url) => upstreamWith({ external_url: url, credential: credential() }),
    ],
    ['upstreams.files.credential.issuer', (url) => credentialWith({ issuer: url })],
    [
      'upstreams.files.credential.authorization_endpoint',
      (url) => credentialWith({ authorization_endpoint: url }),
    ],
    ['upstreams.files.credential.token_endpoint', (url) => credentialWith({ token_endpoint: url })],
    [
      'upstreams.files.credential.revocation_endpoint',
      (url) => credentialWith({ revocation_endpoint: url }),
    ],
  ]

  it.each(places)('P22: is refused outside loopback: %s', async (path, file) => {
    expect(await problemsOf(file(http))).toEqual([
      { path, message: expect.stringContaining('must be https') as string },
    ])
  })

  it.each(places)('is taken as it stands on loopback: %s', async (_path, file) => {
    for (const host of ['127.0.0.1:9', '127.9.9.9', 'localhost:9', 'as.localhost', '[::1]:9']) {
      expect(await problemsOf(file(`http://${host}/x`))).toEqual([])
    }
  })

  it.each(places)(
    'is allowed with allow_private_network of its own block: %s',
    async (path, file) => {
      const values = structuredClone(file(http))
      const block = path.startsWith('upstreams')
        ? (values['upstreams'] as { files: FileValues }).files
        : (values['identity'] as { issuers: FileValues[] }).issuers[0]
      Object.assign(block ?? {}, { allow_private_network: true })
      expect(await problemsOf(values)).toEqual([])
    },
  )

  it('is refused for what only looks like loopback', async () => {
    for (const host of ['localhost.example.com', '127.0.0.1.example.com', '128.0.0.1', '[::2]']) {
      expect(await problemsOf(credentialWith({ token_endpoint: `http://${host}/` }))).toHaveLength(
        1,
      )
    }
  })

  it('is refused for the sign-in unless its issuer or the login itself allows it', async () => {
    const issuer = 'http://login.internal'
    const withLogin = (issuerChanges: FileValues, loginChanges: FileValues): FileValues =>
      identityWith({
        issuers: [{ issuer, ...issuerChanges }],
        login: { ...goodLogin, issuer, ...loginChanges },
      })
    const paths = (await problemsOf(withLogin({}, {}))).map(({ path }) => path)
    expect(paths).toEqual(['identity.issuers[0].issuer', 'identity.login.issuer'])
    expect(await problemsOf(withLogin({ allow_private_network: true }, {}))).toEqual([])
    expect(
      await problemsOf(
        withLogin({ allow_private_network: true }, { allow_private_network: false }),
      ),
    ).toHaveLength(1)
  })
})

describe('M-N10: what a connection cannot do without', () => {
  it('is said at once: a known mode or its endpoints and a client id, and where people come back to', async () => {
    const file = upstreamWith({
      kind: 'http',
      credential: { mode: 'oauth_connect', token_endpoint: 'https://as.example.com/token' },
    })
    const upstreams = {
      ...(file['upstreams'] as FileValues),
      other: { url: 'https://other.example.com', kind: 'http', credential: { mode: 'oauth' } },
    }
    const problems = await problemsOf({ ...file, upstreams, public_url: '/broker' })
    expect(problems.map(({ path }) => path).toSorted()).toEqual([
      'public_url',
      'upstreams.files.credential.authorization_endpoint',
      'upstreams.files.credential.client_id',
      'upstreams.other.credential.mode',
    ])
  })
})

describe('public_url', () => {
  it.each([
    ['with a query', 'https://broker.example.com?x=1'],
    ['with an empty query', 'https://broker.example.com/?'],
    ['with a fragment', 'https://broker.example.com/#x'],
    ['with a user name', 'https://user@broker.example.com'],
    ['with a password', 'https://user:pass@broker.example.com'],
    ['with a backslash', 'https://broker.example.com\\x'],
    ['with a line break', 'https://broker.example.com\n'],
    ['with a space', ' https://broker.example.com'],
    ['of another scheme', 'ftp://broker.example.com'],
    ['without a scheme', 'broker.example.com'],
    ['with a scheme and no slashes', 'https:broker.example.com'],
    ['without a host', 'https://'],
    ['on plain http outside loopback', 'http://broker.example.com'],
  ])('is refused %s', async (_name, url) => {
    expect((await problemsOf(fileWith({ public_url: url }))).map(({ path }) => path)).toEqual([
      'public_url',
    ])
  })

  it('is required', async () => {
    expect(await problemsOf(fileWith({ public_url: undefined }))).toEqual([
      { path: 'public_url', message: expect.stringMatching(/^is required/) as string },
    ])
  })
})

describe('headers that carry the credential', () => {
  it.each([
    ['an empty name', { header: '' }],
    ['a name with a colon', { header: 'X-Token:' }],
    ['a name with a line break', { header: 'X-Token\r\nX-Other' }],
    ['a name outside ASCII', { header: 'X-Tökén' }],
    ['a header that frames the request', { header: 'Transfer-Encoding' }],
    ['the host', { header: 'host' }],
    ['a format with a line break', { header_format: 'Bearer {token}\r\nX-Other: 1' }],
    ['a format with a tab', { header_format: 'Bearer\t{token}' }],
    ['a format outside ASCII', { header_format: 'Bärer {token}' }],
    ['a format with two tokens', { header_format: '{token} {token}' }],
  ])('refuses %s', async (_name, changes) => {
    expect(await problemsOf(credentialWith(changes))).toHaveLength(1)
  })
})

describe('services', () => {
  const second = { id: 'other', key: 'another-key-another-key-another-key' }
  itRefuses([
    [
      'a key of 31 characters',
      serviceWith({ key: 'x'.repeat(31) }),
      'identity.services[0].key',
      /32 characters or more/,
    ],
    [
      'a key that cannot stand in a header',
      serviceWith({ key: `${'x'.repeat(40)} ` }),
      'identity.services[0].key',
      /printable ASCII/,
    ],
    ['no key', serviceWith({ key: undefined }), 'identity.services[0].key', /is required/],
    [
      'an empty list of keys',
      serviceWith({ key: undefined, keys: [] }),
      'identity.services[0].keys',
      /at least one/,
    ],
    [
      'both key and keys',
      serviceWith({ keys: ['another-key-another-key-another-key'] }),
      'identity.services[0].keys',
      /together with `key`/,
    ],
    [
      "another service's key",
      identityWith({
        services: [
          { id: 'edge', key: goodServiceKey },
          {
            ...second,
            key: undefined,
            keys: ['another-key-another-key-another-key', goodServiceKey],
          },
        ],
      }),
      'identity.services[1].keys[1]',
      /written twice/,
    ],
    [
      'the same key twice in one service',
      serviceWith({ key: undefined, keys: [goodServiceKey, goodServiceKey] }),
      'identity.services[0].keys[1]',
      /written twice/,
    ],
    [
      "another service's id",
      identityWith({
        services: [
          { id: 'edge', key: goodServiceKey },
          { ...second, id: 'edge' },
        ],
      }),
      'identity.services[1].id',
      /id of another service/,
    ],
  ])
})

describe('identity', () => {
  itRefuses([
    ['no issuer', identityWith({ issuers: [] }), 'identity.issuers', /at least one issuer/],
    ['no identity', fileWith({ identity: undefined }), 'identity.issuers', /is required/],
    [
      'one issuer twice',
      identityWith({
        issuers: [{ issuer: 'https://a.example.com' }, { issuer: 'https://a.example.com' }],
        admins: { issuer: 'https://a.example.com' },
      }),
      'identity.issuers[1].issuer',
      /listed twice/,
    ],
    [
      'a sign-in at an issuer that is not listed',
      identityWith({ login: { ...goodLogin, issuer: 'https://login.example.com/' } }),
      'identity.login.issuer',
      /one of identity\.issuers, to the letter/,
    ],
    [
      'admins of an issuer that is not listed',
      identityWith({ admins: { issuer: 'https://other.example.com' } }),
      'identity.admins.issuer',
      /one of identity\.issuers/,
    ],
    [
      'a sign-in without openid',
      identityWith({ login: { ...goodLogin, scopes: ['email'] } }),
      'identity.login.scopes',
      /openid/,
    ],
    [
      'introspection without where to ask',
      issuerWith({ validation: 'jwt_then_introspection' }),
      'identity.issuers[0].introspection',
      /is required with validation: jwt_then_introspection/,
    ],
    [
      'HS256 without a secret',
      issuerWith({ algorithms: ['RS256', 'HS256'] }),
      'identity.issuers[0].algorithms',
      /HS256 needs `secret`/,
    ],
    [
      'an unsigned token as an algorithm',
      issuerWith({ algorithms: ['none'] }),
      'identity.issuers[0].algorithms[0]',
      /must be one of RS256/,
    ],
    [
      'a client that should authenticate and has no secret',
      identityWith({ login: { ...goodLogin, client_auth: 'client_secret_basic' } }),
      'identity.login.client_secret',
      /is required with client_auth: client_secret_basic/,
    ],
    [
      'private_key_jwt without a key',
      credentialWith({ client_auth: 'private_key_jwt' }),
      'upstreams.files.credential.private_key',
      /is required with client_auth: private_key_jwt/,
    ],
    [
      'a private key that is none',
      credentialWith({
        private_key: '-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----',
      }),
      'upstreams.files.credential.private_key',
      /in PEM form/,
    ],
  ])

  it('needs no issuer of admins where there are explicitly none', async () => {
    const admins = { roles: [], users: [] }
    expect(await problemsOf(identityWith({ issuers: twoIssuers, admins }))).toEqual([])
  })
})

describe('everything else of the file', () => {
  itRefuses([
    [
      'a name of an upstream in capitals',
      fileWith({ upstreams: { Files: {} } }),
      'upstreams.Files',
      /a-z, 0-9 and -/,
    ],
    [
      'a name of an upstream that walks',
      fileWith({ upstreams: { '../x': {} } }),
      'upstreams["../x"]',
      /a-z, 0-9 and -/,
    ],
    [
      'a name of 64 characters',
      fileWith({ upstreams: { ['a'.repeat(64)]: {} } }),
      `upstreams["${'a'.repeat(64)}"]`,
      /1 to 63/,
    ],
    [
      'an http upstream without credential',
      upstreamWith({ kind: 'http' }),
      'upstreams.files.credential.mode',
      /is required/,
    ],
    [
      'connect on an http upstream without a client',
      upstreamWith({
        kind: 'http',
        credential: { mode: 'oauth_connect', issuer: 'https://as.example.com' },
      }),
      'upstreams.files.credential.client_id',
      /is required/,
    ],
    [
      'an endpoint that is a script',
      credentialWith({ authorization_endpoint: 'javascript:alert(1)' }),
      'upstreams.files.credential.authorization_endpoint',
      /http\(s\) URL/,
    ],
    [
      'an issuer with a query',
      credentialWith({ issuer: 'https://as.example.com?x=1' }),
      'upstreams.files.credential.issuer',
      /query/,
    ],
    [
      'a url with a password',
      upstreamWith({ url: 'https://u:p@files.example.com', credential: credential() }),
      'upstreams.files.url',
      /user name/,
    ],
    [
      'a resource with a fragment',
      credentialWith({ resource: 'https://files.example.com/#x' }),
      'upstreams.files.credential.resource',
      /without a fragment/,
    ],
    [
      'two scopes in one text',
      credentialWith({ scopes: ['a b'] }),
      'upstreams.files.credential.scopes[0]',
      /one scope/,
    ],
    [
      'a text for a list',
      credentialWith({ scopes: 'a' }),
      'upstreams.files.credential.scopes',
      /must be a list/,
    ],
    [
      'an unknown preset',
      credentialWith({ preset: 'githb' }),
      'upstreams.files.credential.preset',
      /did you mean github/,
    ],
    [
      'a preset that there is not, and that is no slip of the pen for another',
      credentialWith({ preset: 'gitlab' }),
      'upstreams.files.credential.preset',
      /must be one of atlassian, github, google, microsoft, slack$/,
    ],
    [
      'a duration without a unit',
      credentialWith({ refresh_before: 60 }),
      'upstreams.files.credential.refresh_before',
      /^must be text such as "60s"$/,
    ],
    [
      'a retention without a unit',
      fileWith({ audit: { retention: 90 } }),
      'audit.retention',
      /such as "1d"/,
    ],
    [
      'a max_age without a unit',
      serviceWith({ max_age: 10 }),
      'identity.services[0].max_age',
      /such as "30s"/,
    ],
    [
      "Entra's endpoint for everybody",
      credentialWith({
        mode: 'entra_obo',
        issuer: undefined,
        token_endpoint: 'https://login.microsoftonline.com/common/oauth2/v2.0/token',
      }),
      'upstreams.files.credential.token_endpoint',
      /must name your tenant/,
    ],
    [
      'a return_to with a path',
      fileWith({ return_to: ['https://app.example.com/x'] }),
      'return_to[0]',
      /must be an origin/,
    ],
    [
      'a return_to on plain http',
      fileWith({ return_to: ['http://app.example.com'] }),
      'return_to[0]',
      /must be https/,
    ],
    [
      'a database that is no PostgreSQL',
      fileWith({ database: { url: 'mysql://x' } }),
      'database.url',
      /postgres:\/\//,
    ],
    ['a pool of none', fileWith({ database: { pool: 0 } }), 'database.pool', /1 to 1000/],
    ['a port out of range', fileWith({ listen: { port: 65_536 } }), 'listen.port', /0 to 65535/],
    ['half a port', fileWith({ listen: { port: 80.5 } }), 'listen.port', /whole number/],
    [
      'metrics on the address of the service',
      fileWith({ listen: { port: 9000, metrics: { port: 9000 } } }),
      'listen.metrics',
      /another address/,
    ],
    [
      'a retention of less than a day',
      fileWith({ audit: { retention: '60s' } }),
      'audit.retention',
      /at least 1d/,
    ],
    [
      'a retention of half a day',
      fileWith({ audit: { retention: '36h' } }),
      'audit.retention',
      /whole days/,
    ],
    [
      'an unknown reaction to a full queue',
      fileWith({ audit: { when_full: 'ignore' } }),
      'audit.when_full',
      /refuse, drop/,
    ],
  ])
})

describe('what does not work yet', () => {
  const later = /is not available in this version yet/
  itRefuses([
    [
      'id_jag',
      {
        ...upstreamWith({ credential: credential({ mode: 'id_jag' }) }),
        ...identityWith({ login: { ...goodLogin, store_subject_token: true } }),
      },
      'upstreams.files.credential.mode',
      later,
    ],
    [
      'id_jag without anything that it will need',
      upstreamWith({ credential: { mode: 'id_jag', subject_token_type: 'id_token' } }),
      'upstreams.files.credential.mode',
      later,
    ],
    [
      'id_jag with the place where the assertion comes from',
      upstreamWith({
        credential: { mode: 'id_jag', idp: { issuer: 'https://idp.example.com', client_id: 'x' } },
      }),
      'upstreams.files.credential.mode',
      later,
    ],
    [
      'authorization_server',
      fileWith({ authorization_server: { enabled: true } }),
      'authorization_server.enabled',
      later,
    ],
    [
      'its settings',
      fileWith({ authorization_server: { registration: { dcr: { enabled: true } } } }),
      'authorization_server.registration',
      later,
    ],
    [
      'its lifetimes',
      fileWith({ authorization_server: { access_token_ttl: '5m' } }),
      'authorization_server.access_token_ttl',
      later,
    ],
  ])

  it('is accepted where it says the default in other words', async () => {
    const file = {
      ...upstreamWith({
        credential: credential({ step_up_scopes: [] }),
        timeouts: { connect: '5s', head: '120s', idle: '600s' },
      }),
      allowed_origins: [],
      audit: { durability: 'process', spool_limit: '1024MiB', destinations: [] },
      authorization_server: {
        enabled: false,
        clients: [],
        registration: { cimd: true, dcr: { enabled: false } },
        access_token_ttl: '600s',
        refresh_token_ttl: '30d',
        signing: 'ES256',
      },
    }
    expect(await problemsOf(file)).toEqual([])
  })
})
