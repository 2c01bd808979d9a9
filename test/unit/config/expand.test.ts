import { describe, expect, it } from 'vitest'
import {
  configOf,
  credentialWith,
  fileWith,
  goodKey,
  issuerWith,
  problemsOf,
  type Surroundings,
} from '../../support/config-files.ts'

/** What `display_name` becomes: a text anywhere in the file. */
async function expanded(text: string, surroundings: Surroundings): Promise<string | undefined> {
  const file = credentialWith({})
  const upstreams = file['upstreams'] as { files: Record<string, unknown> }
  upstreams.files['display_name'] = text
  return (await configOf(file, surroundings)).upstreams.get('files')?.displayName
}

describe('expansion in text', () => {
  const env = { NAME: 'value', EMPTY: '', OTHER: '${NAME}', _X9: 'x' }
  const files = { '/run/secrets/x': 'from file\n', '/run/secrets/two': 'one\n\n', '/crlf': 'a\r\n' }

  it.each([
    ['${NAME}', 'value'],
    ['a ${NAME} b', 'a value b'],
    ['${NAME}${_X9}', 'valuex'],
    ['${MISSING:-default}', 'default'],
    ['${NAME:-default}', 'value'],
    ['${EMPTY:-default}', 'default'],
    ['a${EMPTY}b', 'ab'],
    ['a${MISSING:-}b', 'ab'],
    ['${MISSING:-http://x:8080/a-b}', 'http://x:8080/a-b'],
    ['${file:/run/secrets/x}', 'from file'],
    ['<${file:/run/secrets/x}>', '<from file>'],
    ['${file:/crlf}', 'a'],
    ['$NAME', '$NAME'],
    ['{token} $5', '{token} $5'],
  ])('%s becomes %s', async (text, value) => {
    expect(await expanded(text, { env, files })).toBe(value)
  })

  it('happens once: what comes in is not read again', async () => {
    expect(await expanded('${OTHER}', { env })).toBe('${NAME}')
  })

  it('removes the final line break of a file only', async () => {
    const config = await configOf(credentialWith({ client_secret: '${file:/run/secrets/two}' }), {
      files,
    })
    const { clientAuthentication } = config.upstreams.get('files')?.credential ?? {}
    expect(
      clientAuthentication?.method === 'client_secret_basic' &&
        clientAuthentication.secret.reveal(),
    ).toBe('one\n')
  })

  it("starts relative files at the configuration's directory", async () => {
    expect(await expanded('${file:name.txt}', { files: { '/etc/onbehalf/name.txt': 'x' } })).toBe(
      'x',
    )
  })

  it('happens after parsing, so a comment and a value with YAML characters are safe', async () => {
    const text = `# \${MISSING}\n${JSON.stringify(fileWith({ encryption: { keys: [{ id: '${ID}', secret: goodKey }] } }))}`
    expect(await problemsOf(text, { env: { ID: 'k1, secret: x' } })).toEqual([
      { path: 'encryption.keys[0].id', message: expect.stringContaining('letters') as string },
    ])
  })
})

describe('a value that is wholly a placeholder', () => {
  it('is read as its field is: a number, a switch, a list, a text', async () => {
    const file = {
      ...issuerWith({
        require_at_jwt: '${AT_JWT}',
        required_scopes: '${SCOPES}',
        required_claims: { hd: '${DOMAIN}' },
      }),
      listen: { port: '${PORT}', metrics: { port: '${METRICS:-9090}' } },
      database: { pool: '${file:/pool}' },
    }
    const config = await configOf(file, {
      env: { AT_JWT: 'true', SCOPES: 'a, b', PORT: '0', DOMAIN: '42' },
      files: { '/pool': '25\n' },
    })
    expect(config.listen).toMatchObject({ port: 0, metrics: { port: 9090 } })
    expect(config.database.pool).toBe(25)
    expect(config.identity.issuers[0]).toMatchObject({
      requireAtJwt: true,
      requiredScopes: ['a', 'b'],
      requiredClaims: { hd: '42' },
    })
  })

  it('is a mapping or a list where it is written as JSON, in which nothing is expanded again', async () => {
    const file = issuerWith({
      audience: '${AUDIENCE}',
      algorithms: '${ALGORITHMS}',
      required_claims: '${file:/claims}',
    })
    const config = await configOf(file, {
      env: { AUDIENCE: '["a", "b,c"]', ALGORITHMS: '["ES256"]' },
      files: { '/claims': '{ "hd": "${X}", "level": 2 }\n' },
    })
    expect(config.identity.issuers[0]).toMatchObject({
      audiences: ['a', 'b,c'],
      algorithms: ['ES256'],
      requiredClaims: { hd: '${X}', level: 2 },
    })
  })

  it('is checked like what is written in the file where it is a mapping', async () => {
    const file = issuerWith({ claims: '${CLAIMS}' })
    expect(await problemsOf(file, { env: { CLAIMS: '{"usr":"oid"}' } })).toEqual([
      {
        path: 'identity.issuers[0].claims.usr',
        message: 'is not a known setting; did you mean user?',
      },
    ])
    expect(await problemsOf(file, { env: { CLAIMS: '{"user":' } })).toEqual([
      { path: 'identity.issuers[0].claims', message: 'must be a mapping of settings' },
    ])
  })

  it('stays text where text belongs, whatever it looks like', async () => {
    const config = await configOf(credentialWith({ client_id: '${ID}' }), { env: { ID: '0123' } })
    expect(config.upstreams.get('files')?.credential.clientId).toBe('0123')
  })

  it.each([
    ['yes', { require_at_jwt: '${X}' }, 'must be true or false'],
    ['TRUE', { require_at_jwt: '${X}' }, 'must be true or false'],
  ])('is refused when %s is not of that type', async (value, changes, message) => {
    expect(await problemsOf(issuerWith(changes), { env: { X: value } })).toEqual([
      { path: 'identity.issuers[0].require_at_jwt', message },
    ])
  })

  it.each(['', '80a', '0x50', '1e3', ' 80', 'Infinity'])('is no port: %j', async (value) => {
    const problems = await problemsOf(fileWith({ listen: { port: '${X}' } }), { env: { X: value } })
    expect(problems.map(({ path }) => path)).toEqual(['listen.port'])
  })

  it('is left out where its default is empty', async () => {
    const file = { ...credentialWith({ client_secret: '${S:-}' }), database: { url: '${DB:-}' } }
    const config = await configOf(file)
    expect(config.database.url).toBeUndefined()
    expect(config.upstreams.get('files')?.credential.clientAuthentication.method).toBe('none')
  })

  it('is not left out where the variable itself is empty', async () => {
    const file = credentialWith({ client_secret: '${S}' })
    expect(await problemsOf(file, { env: { S: '' } })).toEqual([
      { path: 'upstreams.files.credential.client_secret', message: 'must not be empty' },
    ])
  })
})

describe('what cannot be had', () => {
  it('names every variable that is not set, and only that', async () => {
    const file = {
      ...fileWith({ encryption: { keys: [{ id: 'k1', secret: '${NO_KEY}' }] } }),
      public_url: 'https://${NO_HOST}:${NO_PORT}',
    }
    expect(await problemsOf(file)).toEqual([
      { path: 'encryption.keys[0].secret', message: 'the environment variable NO_KEY is not set' },
      { path: 'public_url', message: 'the environment variable NO_HOST is not set' },
      { path: 'public_url', message: 'the environment variable NO_PORT is not set' },
    ])
  })

  it('says once of a secret that is not set, not that it is required as well', async () => {
    const upstream = (credential: Record<string, string>) => ({
      url: 'https://files.example.com',
      kind: 'http',
      credential: {
        mode: 'token_exchange',
        issuer: 'https://as.example.com',
        client_id: 'x',
        ...credential,
      },
    })
    const upstreams = {
      a: upstream({ client_auth: 'client_secret_post', client_secret: '${NO_SECRET}' }),
      b: upstream({ client_auth: 'private_key_jwt', private_key: '${NO_PEM}' }),
    }
    expect((await problemsOf(fileWith({ upstreams }))).map(({ message }) => message)).toEqual([
      'the environment variable NO_SECRET is not set',
      'the environment variable NO_PEM is not set',
    ])
  })

  it('takes nothing from the prototype of the environment', async () => {
    expect(await problemsOf(fileWith({ data_dir: '${constructor}' }))).toEqual([
      { path: 'data_dir', message: 'the environment variable constructor is not set' },
    ])
  })

  it('names a file that is not there', async () => {
    expect(await problemsOf(fileWith({ data_dir: '${file:/run/secrets/none}' }))).toEqual([
      {
        path: 'data_dir',
        message: 'the file /run/secrets/none cannot be read: there is no such file',
      },
    ])
  })

  it.each([
    '${',
    '${}',
    '${1A}',
    '${A',
    '${A-b}',
    '${A:?b}',
    '${file:}',
    '${A:-${B}}',
    'x ${a b} y',
  ])('refuses what only looks like one: %s', async (text) => {
    expect(await problemsOf(fileWith({ data_dir: text }), { env: { A: 'a', B: 'b' } })).toEqual([
      { path: 'data_dir', message: expect.stringContaining('holds a `${`') as string },
    ])
  })

  it('takes an unset block of its own for a problem, not for a setting left out', async () => {
    expect(await problemsOf(fileWith({ database: { url: '${DATABASE_URL}' } }))).toEqual([
      { path: 'database.url', message: 'the environment variable DATABASE_URL is not set' },
    ])
  })
})

describe('M-C7: where the database is', () => {
  const fromEnvironment = { env: { DATABASE_URL: 'postgres://environment/x' } }

  it('is database.url, when it is written', async () => {
    const file = fileWith({ database: { url: 'postgresql://file/x' } })
    expect((await configOf(file, fromEnvironment)).database.url?.reveal()).toBe(
      'postgresql://file/x',
    )
  })

  it('is the embedded one when it is not, whatever the environment holds', async () => {
    for (const database of [undefined, {}, { pool: 3 }]) {
      const config = await configOf(fileWith({ database }), fromEnvironment)
      expect(config.database.url).toBeUndefined()
    }
    expect((await configOf(fileWith())).database).toEqual({ url: undefined, pool: 10 })
  })

  it('M-C7: encryption keys come from the file alone', async () => {
    const problems = await problemsOf(fileWith({ encryption: undefined }), {
      env: { ONBEHALF_KEY: goodKey },
    })
    expect(problems.map(({ path }) => path)).toEqual(['encryption.keys'])
  })

  it('refuses a URL that is none, by the field', async () => {
    const file = fileWith({ database: { url: '${DATABASE_URL}' } })
    const problems = await problemsOf(file, { env: { DATABASE_URL: 'sqlite:x' } })
    expect(problems).toEqual([{ path: 'database.url', message: 'must be a postgres:// URL' }])
  })
})
