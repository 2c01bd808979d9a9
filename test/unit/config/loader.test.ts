import { describe, expect, it } from 'vitest'
import {
  configOf,
  credentialWith,
  fileWith,
  goodKey,
  identityWith,
  issuerWith,
  type load,
  problemsOf,
  warningsOf,
} from '../../support/config-files.ts'

describe('every problem at once', () => {
  const file = `
public_url: http://broker.example.com/path
listen: { port: "8080", prot: 1 }
encrpytion: {}
encryption:
  keys:
    - { id: k1, secret: abc }
    - { id: k1, secret: "\${UNSET_KEY}" }
identity:
  issuers:
    - issuer: https://a.example.com
    - { issuer: http://b.example.com, validation: introspection }
  services:
    - { id: edge, key: short, max_age: 60s }
upstreams:
  files: { url: ftp://files.example.com, command: npx }
  tickets:
    url: https://tickets.example.com
    credential: { mode: token_exchang, header: "a b", client_secrt: x }
  wiki:
    url: https://wiki.example.com
    credential: { mode: token_exchange, client_id: x }
audit: { durability: disk }
`

  it('names each by its path, in one go, whatever the kind of check that found it', async () => {
    const problems = await problemsOf(file)
    expect(problems.map(({ path }) => path)).toEqual([
      'encrpytion',
      'encryption.keys[0].secret',
      'encryption.keys[1].id',
      'encryption.keys[1].secret',
      'identity.admins.issuer',
      'identity.issuers[1].introspection',
      'identity.issuers[1].issuer',
      'identity.services[0].key',
      'identity.services[0].max_age',
      'listen.port',
      'listen.prot',
      'public_url',
      'upstreams.files.command',
      'upstreams.files.url',
      'upstreams.tickets.credential.client_secrt',
      'upstreams.tickets.credential.header',
      'upstreams.tickets.credential.mode',
      'upstreams.wiki.credential.token_endpoint',
    ])
  })

  it('says nothing about what depends on a setting that is wrong itself', async () => {
    const paths = async (changes: Record<string, unknown>): Promise<string[]> =>
      (await problemsOf(identityWith(changes))).map(({ path }) => path)
    const login = { issuer: 'https://login.example.com', client_id: 'onbehalf' }
    expect(await paths({ issuers: [{ issuer: 'nonsense' }], login })).toEqual([
      'identity.issuers[0].issuer',
    ])
    expect(await paths({ issuers: [{ isuer: 'https://login.example.com' }], login })).toEqual([
      'identity.issuers[0].issuer',
      'identity.issuers[0].isuer',
    ])
  })

  it('takes a misspelt setting for the one that was meant', async () => {
    const file2 = credentialWith({ mode: 'token_exchange', issuer: undefined, isuer: 'https://x' })
    expect((await problemsOf(file2)).map(({ path }) => path)).toEqual([
      'upstreams.files.credential.isuer',
    ])
  })
})

describe('unknown settings', () => {
  const messageFor = async (file: Parameters<typeof load>[0]): Promise<string | undefined> =>
    (await problemsOf(file))[0]?.message

  it.each([
    ['publc_url', 'public_url'],
    ['retrun_to', 'return_to'],
    ['upstream', 'upstreams'],
    ['datadir', 'data_dir'],
    ['allowedOrigins', 'allowed_origins'],
  ])('%s: did you mean %s?', async (name, near) => {
    expect(await messageFor(fileWith({ [name]: {} }))).toBe(
      `is not a known setting; did you mean ${near}?`,
    )
  })

  it.each([
    ['token_url', 'token_endpoint'],
    ['secret', 'client_secret'],
    ['authorizationUrl', 'authorization_endpoint'],
    ['auth_method', 'client_auth'],
  ])('in a credential %s: did you mean %s, which has a word of it?', async (name, near) => {
    expect(await messageFor(credentialWith({ [name]: 'x' }))).toBe(
      `is not a known setting; did you mean ${near}?`,
    )
  })

  it('names no neighbour when none is near', async () => {
    expect(await messageFor(fileWith({ telemetry: true }))).toBe('is not a known setting')
    expect(await messageFor(fileWith({ x: true }))).toBe('is not a known setting')
  })

  it.each(['__proto__', 'constructor', 'toString', '<<x'])('knows no %s', async (name) => {
    const text = `${JSON.stringify(fileWith()).slice(0, -1)}, ${JSON.stringify(name)}: {"a": 1}}`
    expect(await problemsOf(text)).toHaveLength(1)
  })

  it('takes a prototype key for a name of an upstream like any other', async () => {
    const text = `${JSON.stringify(fileWith()).slice(0, -1)}, "upstreams": {"__proto__": {}}}`
    expect(await problemsOf(text)).toHaveLength(1)
    const upstream = {
      url: 'https://x.example.com',
      credential: { mode: 'token_exchange', token_endpoint: 'https://x.example.com' },
    }
    const config = await configOf(fileWith({ upstreams: { constructor: upstream } }))
    expect([...config.upstreams.keys()]).toEqual(['constructor'])
  })
})

const deepMappings = Array.from({ length: 500 }, (_, depth) => `${' '.repeat(depth)}a:`).join('\n')

describe('a file that cannot be read', () => {
  it.each([
    ['empty', '', /is empty.*onbehalf init/],
    ['comments only', '# nothing\n', /is empty/],
    ['a list', '- a\n- b\n', /must be a mapping/],
    ['a text', 'hello', /must be a mapping/],
    ['a number', '5', /must be a mapping/],
    ['broken indentation', 'a:\n  b: 1\n c: 2\n', /line 3/],
    ['an open bracket', 'a: [1, 2', /bracket/],
    ['an open quote', 'a: "x', /missing/],
    ['an open JSON', '{"a": 1', /bracket/],
    ['a tab as indentation', 'a:\n\tb: 1\n', /line 2/],
    ['two documents', 'a: 1\n---\nb: 2\n', /more than one document/],
    ['a tag', 'a: !secret x\n', /tags/],
    ['an alias without anchor', 'a: *x\n', /alias/],
    ['a map as a key', '? {a: 1}\n: 2\n', /key/],
    ['more than 1 MiB', `a: ${'x'.repeat(1024 * 1024)}`, /larger than 1 MiB/],
    ['100,000 brackets', '['.repeat(100_000), /nested too deeply/],
    ['100,000 lists on a line', '- '.repeat(100_000), /nested too deeply/],
    ['100,000 questions on a line', '? '.repeat(100_000), /nested too deeply/],
    ['mappings as deep as the file is long', deepMappings, /nested too deeply/],
    ['binary', '\u0000\u0001\u0002', /./],
  ])('is refused with what is wrong: %s', async (_name, text, reason) => {
    const problems = await problemsOf(text)
    expect(problems.length).toBeGreaterThan(0)
    expect(problems[0]?.message).toMatch(reason)
  })

  it('takes brackets and dashes inside values for what they are', async () => {
    const value = `${'['.repeat(60)} ${'- '.repeat(60)}`
    const file = credentialWith({ authorization_parameters: { hint: value } })
    expect(await problemsOf(file)).toEqual([])
    expect(await problemsOf(`data_dir: |\n  ${value}\n  - - -\n`)).not.toContainEqual({
      path: '',
      message: 'is nested too deeply',
    })
  })

  it('is refused when aliases multiply', async () => {
    const levels = Array.from({ length: 9 }, (_, level) => {
      const inner = level === 0 ? '"x"' : `*l${level - 1}`
      return `l${level}: &l${level} [${Array.from({ length: 9 }, () => inner).join(', ')}]`
    })
    const started = process.memoryUsage().heapUsed
    const problems = await problemsOf(levels.join('\n'))
    expect(problems).toEqual([{ path: '', message: expect.stringContaining('aliases') as string }])
    expect(process.memoryUsage().heapUsed - started).toBeLessThan(100 * 1024 * 1024)
  })

  it('is refused when a value contains itself', async () => {
    const problems = await problemsOf('return_to: &a [*a]\n')
    expect(problems).toContainEqual({
      path: 'return_to[0]',
      message: 'contains itself through an alias',
    })
  })

  it.each([
    ['YAML', 'listen: { port: 1 }\nreturn_to: []\nlisten: { port: 2 }\n', 'listen'],
    [
      'YAML, deeper',
      'upstreams:\n  a:\n    url: https://a\n    url: https://b\n',
      'upstreams.a.url',
    ],
    ['JSON', '{"listen": {"port": 1, "port": 2}}', 'listen.port'],
    ['a list', 'encryption: { keys: [{ id: k1, id: k2 }] }', 'encryption.keys[0].id'],
  ])('names a key that is written twice: %s', async (_name, text, path) => {
    expect(await problemsOf(text)).toEqual([
      {
        path,
        message: expect.stringMatching(/^is written twice \(line \d+, column \d+\)$/) as string,
      },
    ])
  })
})

describe('YAML', () => {
  const yaml = `
# a comment may hold \${ANYTHING}
public_url: https://broker.example.com
encryption: { keys: [{ id: k1, secret: ${goodKey} }] }
identity:
  issuers: [{ issuer: https://login.example.com }]
  login:
upstreams:
`
  it('may have a byte order mark, comments and blocks without anything in them', async () => {
    const config = await configOf(`\uFEFF${yaml}`)
    expect(config.identity.login).toBeUndefined()
    expect(config.upstreams.size).toBe(0)
  })

  it('may share blocks through merge keys and aliases', async () => {
    const config = await configOf(`${yaml.replace('upstreams:', '')}
upstreams:
  a:
    url: https://a.example.com
    credential: &shared
      mode: token_exchange
      token_endpoint: https://as.example.com/token
      client_id: x
  b:
    url: https://b.example.com
    credential:
      <<: *shared
      client_id: y
`)
    expect(config.upstreams.get('b')?.credential).toMatchObject({
      tokenEndpoint: 'https://as.example.com/token',
      clientId: 'y',
    })
  })

  it('needs quotes around text that reads as a number', async () => {
    const text = yaml.replace(
      'login:',
      'login: { issuer: https://login.example.com, client_id: 12345 }',
    )
    expect(await problemsOf(text)).toEqual([
      { path: 'identity.login.client_id', message: 'must be text; put it in quotes' },
    ])
  })

  it('M-C6: says the same as JSON', async () => {
    const values = {
      ...credentialWith({ scopes: ['a'], refresh_reuse: '30s' }),
      return_to: ['https://app.example.com'],
      listen: { port: 0, metrics: { port: 9090 } },
    }
    const fromJson = await configOf(JSON.stringify(values, undefined, 2))
    const { stringify } = await import('yaml')
    expect(await configOf(stringify(values))).toEqual(fromJson)
    expect(fromJson.listen).toEqual({
      host: '127.0.0.1',
      port: 0,
      metrics: { host: '127.0.0.1', port: 9090 },
    })
  })
})

describe('secrets', () => {
  const canary = 'cnry-7f3a-s3cr3t'
  const surroundings = {
    env: { BAD: canary, DATABASE_URL: `mysql://user:${canary}@db` },
    files: { '/run/secrets/bad': `${canary}\n` },
  }

  it.each([
    ['a key', fileWith({ encryption: { keys: [{ id: 'k1', secret: canary }] } })],
    ['a key from a variable', fileWith({ encryption: { keys: [{ id: 'k1', secret: '${BAD}' }] } })],
    [
      'a key from a file',
      fileWith({ encryption: { keys: [{ id: 'k1', secret: '${file:/run/secrets/bad}' }] } }),
    ],
    ['a service key', identityWith({ services: [{ id: 'edge', key: canary }] })],
    ['a private key', credentialWith({ private_key: canary })],
    ['a secret as a list', credentialWith({ client_secret: [canary] })],
    ['a secret as a mapping', credentialWith({ client_secret: { value: canary } })],
    [
      'a URL with a password',
      credentialWith({ token_endpoint: `https://x:${canary}@as.example.com` }),
    ],
    ['a database', fileWith({ database: { url: '${DATABASE_URL}' } })],
    ['a database that is written', fileWith({ database: { url: `mysql://user:${canary}@db` } })],
    ['a secret in the place of a choice', credentialWith({ client_auth: canary })],
    ['a secret in the place of a number', fileWith({ listen: { port: '${BAD}' } })],
    ['a half placeholder', credentialWith({ client_secret: `\${${canary}` })],
    [
      'a key without a space after its colon',
      `encryption: { keys: [{ id: k1, secret:${canary} }] }`,
    ],
    ['an alias by accident', `a: *${canary}`],
    ['a tag by accident', `a: !${canary} x`],
    ['a reserved character', `a: @${canary}`],
    ['a percent sign', `%${canary}\n---\na: 1`],
    ['an open quote', `a: "${canary}`],
    ['a colon in a value', `a: ${canary}: x`],
    ['two values on a line', `a: "x" ${canary}`],
    ['a file that is only a secret', canary],
    ['an unknown escape', `a: "\\q${canary}"`],
  ])('are not printed, nor parts of them: %s', async (_name, file) => {
    const problems = await problemsOf(file, surroundings)
    expect(problems.length).toBeGreaterThan(0)
    const said = JSON.stringify(problems)
    expect(said).not.toContain('cnry')
    expect(said).not.toContain('s3cr3t')
  })

  it('print as [secret] in the configuration itself', async () => {
    const file = {
      ...credentialWith({ client_secret: canary }),
      database: { url: '${DATABASE_URL}' },
    }
    const config = await configOf(file, {
      env: { DATABASE_URL: `postgres://user:${canary}@db/x` },
    })
    expect(JSON.stringify(config)).not.toContain(canary)
    expect(config.database.url?.reveal()).toContain(canary)
  })
})

describe('warnings', () => {
  it.each([
    [
      'private addresses of an issuer',
      issuerWith({ allow_private_network: true }),
      'identity.issuers[0].allow_private_network',
    ],
    [
      'private addresses of an upstream',
      credentialUpstream({ allow_private_network: true }),
      'upstreams.files.allow_private_network',
    ],
    [
      'shared opaque tokens',
      identityWith({ share_opaque_tokens: true }),
      'identity.share_opaque_tokens',
    ],
    [
      'a short HMAC secret',
      issuerWith({ algorithms: ['HS256'], secret: 'short' }),
      'identity.issuers[0].secret',
    ],
    [
      'a secret that nothing uses',
      issuerWith({ secret: 'x'.repeat(32) }),
      'identity.issuers[0].secret',
    ],
    [
      'asserted people',
      identityWith({ services: [{ id: 'e', key: 'x'.repeat(32), may_assert_user: true }] }),
      'identity.services[0].may_assert_user',
    ],
    [
      'a service for an upstream that is none',
      identityWith({ services: [{ id: 'e', key: 'x'.repeat(32), upstreams: ['fils'] }] }),
      'identity.services[0].upstreams[0]',
    ],
    [
      'a parameter that is ours',
      credentialWith({ authorization_parameters: { state: 'x' } }),
      'upstreams.files.credential.authorization_parameters.state',
    ],
    [
      'a client secret that is not sent',
      credentialWith({ client_auth: 'none', client_secret: 'x' }),
      'upstreams.files.credential.client_secret',
    ],
    [
      'where the assertion of another mode comes from',
      credentialWith({ idp: { issuer: 'https://idp.example.com', client_id: 'x' } }),
      'upstreams.files.credential.idp',
    ],
  ])('tell of %s', async (_name, file, path) => {
    expect((await warningsOf(file)).map((warning) => warning.path)).toEqual([path])
  })

  it('tell that nobody can connect without a sign-in', async () => {
    const file = { ...credentialWith({}), ...identityWith({}) }
    expect(await warningsOf(file)).toEqual([
      {
        path: 'upstreams.files.credential.mode',
        message: expect.stringContaining('identity.login') as string,
      },
    ])
  })

  it('are none for the plain case', async () => {
    expect(await warningsOf(credentialWith({}))).toEqual([])
  })
})

function credentialUpstream(changes: Record<string, unknown>): Record<string, unknown> {
  const file = credentialWith({})
  const upstreams = file['upstreams'] as { files: Record<string, unknown> }
  return { ...file, upstreams: { files: { ...upstreams.files, ...changes } } }
}
