import { chmod, mkdtemp, readdir, readFile, rm, stat, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { startTestBroker, type TestBroker } from '../support/broker.ts'
import { authorizeAs, createBrowser } from '../support/browser.ts'
import { type CliRun, onbehalf } from '../support/cli.ts'
import {
  byPath,
  fieldsOf,
  json,
  type Script,
  type ScriptedServer,
  startScriptedServer,
} from '../support/scripted-server.ts'

let home: string
beforeEach(async () => {
  home = await mkdtemp(join(tmpdir(), 'onbehalf-login-'))
})
afterEach(() => rm(home, { recursive: true, force: true }))

const fileIn = (folder: string) => join(folder, '.config', 'onbehalf', 'sessions.json')

/** Runs a command as somebody with this home; `visit` is the person at the browser. */
function cli(
  argv: readonly string[],
  options: {
    readonly visit?: (url: URL) => Promise<unknown>
    readonly env?: Record<string, string>
  } = {},
): Promise<CliRun> {
  const { visit, env = {} } = options
  let visited: Promise<unknown> = Promise.resolve()
  return new Promise((resolve, reject) => {
    const run = onbehalf(argv, {
      env: { HOME: home, ...env },
      isWatched: visit !== undefined,
      services: {
        openBrowser(url) {
          visited = visit?.(url) ?? visited
          // A sign-in that the test cannot finish would be waited for.
          visited.catch(reject)
          return visit !== undefined
        },
      },
    })
    run.then((end) => visited.then(() => resolve(end)), reject)
  })
}

type KeptFile = {
  last: string
  sessions: { url: string; accessToken: string; refreshToken?: string; expiresAt?: string }[]
}

async function kept(): Promise<KeptFile> {
  return JSON.parse(await readFile(fileIn(home), 'utf8')) as KeptFile
}

async function change(edit: (session: KeptFile['sessions'][number]) => void): Promise<void> {
  const file = await kept()
  for (const session of file.sessions) edit(session)
  await writeFile(fileIn(home), JSON.stringify(file))
}

describe('onbehalf login, at a broker and a real identity provider', () => {
  let broker: TestBroker
  beforeAll(async () => {
    broker = await startTestBroker()
  }, 30_000)
  afterAll(() => broker.stop())

  const as = (person: string) => async (url: URL) => {
    const browser = createBrowser()
    return browser.open(await authorizeAs(browser, url, { choose: person }))
  }
  const signIn = async (person: string): Promise<CliRun> => {
    const run = await cli(['login', '--url', broker.url], { visit: as(person) })
    for (const { accessToken, refreshToken } of (await kept()).sessions) {
      broker.scan.register('session token', accessToken)
      if (refreshToken !== undefined) broker.scan.register('session token', refreshToken)
    }
    return run
  }
  const refreshes = () =>
    broker.identityProvider
      .received('/token')
      .filter(
        ({ body }) => new URLSearchParams(body.toString()).get('grant_type') === 'refresh_token',
      ).length

  it('asks for a code with PKCE, a state and the broker as resource, and comes back to this machine', async () => {
    const { code, stdout, stderr } = await signIn('ada')
    expect(code).toBe(0)
    const [link = '', who] = stdout.split('\n')
    const asked = new URL(link)
    expect(asked.origin).toBe(broker.identityProvider.issuer)
    expect(fieldsOf(asked.searchParams)).toMatchObject({
      response_type: 'code',
      code_challenge_method: 'S256',
      resource: broker.url,
      scope: 'openid offline_access',
      prompt: 'consent',
      state: expect.stringMatching(/^[\w-]{43}$/) as string,
      redirect_uri: expect.stringMatching(/^http:\/\/127\.0\.0\.1:\d+\/callback$/) as string,
    })
    expect(who).toBe(`Signed in at ${broker.url} as ada@example.test (ada).`)
    expect(stderr).toContain(fileIn(home))
  })

  it('keeps the session for its owner alone, whole, and prints nothing of it', async () => {
    const { stdout, stderr } = await signIn('ada')
    const path = fileIn(home)
    expect((await stat(path)).mode & 0o777).toBe(0o600)
    expect((await stat(dirname(path))).mode & 0o777).toBe(0o700)
    expect(await readdir(dirname(path))).toEqual(['sessions.json'])
    const [session] = (await kept()).sessions
    expect(session?.accessToken).toMatch(/^ey/)
    expect(session?.refreshToken).toBeTypeOf('string')
    expect(stdout + stderr).not.toContain(session?.accessToken)
    expect(stdout + stderr).not.toContain(session?.refreshToken)
  })

  it('is the session of connections and activity, which then need neither URL nor token', async () => {
    await signIn('linus')
    const connections = await cli(['connections', 'list'])
    expect(connections).toMatchObject({ code: 0, stderr: '' })
    expect(connections.stdout).toMatch(/^files +not_connected/m)
    expect(await cli(['activity', 'list', '-o', 'ndjson'])).toMatchObject({ code: 0 })
    expect(await cli(['activity', 'verify', '--url', broker.url])).toMatchObject({ code: 0 })
  })

  it('is replaced by the next one, for the broker that was signed in at last', async () => {
    await signIn('linus')
    const again = await cli(['login'], { visit: as('grace') })
    expect(again.code).toBe(0)
    expect((await kept()).sessions).toHaveLength(1)
    expect(await cli(['activity', 'list'])).toMatchObject({ code: 1 })
    expect(await cli(['activity', 'list', '--mine'])).toMatchObject({ code: 0 })
  })

  it('is passed over where a token is given', async () => {
    await signIn('ada')
    const run = await cli(['connections', 'list'], {
      env: { ONBEHALF_URL: broker.url, ONBEHALF_TOKEN: 'another' },
    })
    expect(run).toMatchObject({ code: 1, stdout: '' })
    expect(run.stderr).toContain('set ONBEHALF_TOKEN')
    expect(await cli(['connections', 'list', '--token', 'another'])).toMatchObject({ code: 2 })
  })

  it('is renewed before it ends, once over all commands that run', async () => {
    await signIn('ada')
    const [before] = (await kept()).sessions
    await change((session) => {
      session.expiresAt = new Date(Date.now() + 5000).toISOString()
    })
    const earlier = refreshes()
    const runs = await Promise.all(
      Array.from({ length: 4 }, () => cli(['connections', 'list', '-o', 'json'])),
    )
    expect(runs.map(({ code }) => code)).toEqual([0, 0, 0, 0])
    expect(refreshes() - earlier).toBe(1)
    const [after] = (await kept()).sessions
    expect(after?.refreshToken).not.toBe(before?.refreshToken)
    expect((await stat(fileIn(home))).mode & 0o777).toBe(0o600)
    expect(await readdir(dirname(fileIn(home)))).toEqual(['sessions.json'])
  })

  it('is renewed when the broker does not accept it', async () => {
    await signIn('ada')
    await change((session) => {
      session.accessToken = `${session.accessToken}x`
    })
    expect(await cli(['connections', 'list'])).toMatchObject({ code: 0, stderr: '' })
  })

  it('is over when it cannot be renewed, and then says what to do', async () => {
    await signIn('ada')
    const [spent] = (await kept()).sessions
    const expired = '2026-01-01T00:00:00.000Z'
    await change((session) => {
      session.expiresAt = expired
    })
    expect(await cli(['connections', 'list'])).toMatchObject({ code: 0 })
    await change((session) => {
      Object.assign(session, { ...spent, expiresAt: expired })
    })
    const run = await cli(['connections', 'list'])
    expect(run).toMatchObject({ code: 1, stdout: '' })
    expect(run.stderr).toBe('Your session is over. Sign in again: `onbehalf login`.\n')
    await change((session) => {
      delete session.refreshToken
    })
    expect((await cli(['connections', 'list'])).stderr).toBe(run.stderr)
  })

  it('is not used where others may read it', async () => {
    await signIn('ada')
    await chmod(fileIn(home), 0o640)
    const run = await cli(['connections', 'list'])
    expect(run).toMatchObject({ code: 1, stdout: '' })
    expect(run.stderr).toContain('may be read or written by others')
  })

  it('goes to no other broker', async () => {
    await signIn('ada')
    const other = await startScriptedServer()
    const run = await cli(['connections', 'list', '--url', other.origin])
    await other.close()
    expect(run.code).toBe(2)
    expect(run.stderr).toContain('Who are you?')
    expect(other.requests).toEqual([])
  })

  it('does not wait for a command that was killed while it renewed', async () => {
    await signIn('ada')
    const lock = `${fileIn(home)}.lock`
    await writeFile(lock, '')
    await utimes(lock, new Date(0), new Date(0))
    await change((session) => {
      session.expiresAt = '2026-01-01T00:00:00.000Z'
    })
    expect(await cli(['connections', 'list'])).toMatchObject({ code: 0, stderr: '' })
    expect(await readdir(dirname(lock))).toEqual(['sessions.json'])
  })

  it('takes a file that is none of ours for no session', async () => {
    await signIn('ada')
    await writeFile(fileIn(home), '{"sessions":')
    expect(await cli(['connections', 'list'])).toMatchObject({ code: 2 })
  })
})

describe('onbehalf login, where something is wrong', () => {
  let server: ScriptedServer
  beforeAll(async () => {
    server = await startScriptedServer()
  })
  afterAll(() => server.close())

  type Parts = {
    readonly document?: Record<string, unknown>
    readonly metadata?: Record<string, unknown>
    readonly token?: Script
    readonly me?: Script
  }
  /** Broker and issuer at once; all of it good but for what the test puts in its place. */
  function serve({ document, metadata, token, me }: Parts = {}): void {
    server.requests.length = 0
    const issuer = server.origin
    server.script(
      byPath({
        '/.well-known/oauth-protected-resource': json({
          resource: issuer,
          authorization_servers: [issuer],
          scopes_supported: ['connections'],
          ...document,
        }),
        '/.well-known/oauth-authorization-server': json({
          issuer,
          authorization_endpoint: `${issuer}/authorize`,
          token_endpoint: `${issuer}/token`,
          registration_endpoint: `${issuer}/register`,
          authorization_response_iss_parameter_supported: true,
          scopes_supported: ['openid', 'connections'],
          token_endpoint_auth_methods_supported: ['none'],
          ...metadata,
        }),
        '/register': json({ client_id: 'registered' }, 201),
        '/token': token ?? json({ access_token: 'cnry-at', token_type: 'Bearer', expires_in: 60 }),
        '/api/v1/me':
          me ?? json({ issuer, user_id: 'ada\u001b[2J', email: null, admin: false, roles: [] }),
      }),
    )
  }
  const login = (visit: (url: URL) => Promise<unknown>, ...argv: string[]) =>
    cli(['login', '--url', server.origin, ...argv], { visit })
  const asked = (path: string) => server.requests.filter((request) => request.path === path)
  /** Where the browser is sent back to; a member that is undefined is left out. */
  const answering =
    (more: Record<string, string | undefined> = {}) =>
    async (url: URL): Promise<Response> => {
      const { redirect_uri: redirectUri = '', state } = fieldsOf(url.searchParams)
      const answer = { code: 'c0de', state, iss: server.origin, ...more }
      const back = new URL(redirectUri)
      for (const [name, value] of Object.entries(answer)) {
        if (value !== undefined) back.searchParams.set(name, value)
      }
      return fetch(back)
    }
  const nothingKept = () => expect(readFile(fileIn(home), 'utf8')).rejects.toThrow(/ENOENT/)

  it('works before anything is broken, and shows control characters', async () => {
    serve()
    let page: Response | undefined
    const { code, stdout, stderr } = await login(async (url) => {
      page = await answering()(url)
    })
    expect({ code, stderr: stderr.includes('cannot be renewed') }).toEqual({
      code: 0,
      stderr: true,
    })
    expect(stdout).toContain('as ada\\u001b[2J.')
    expect(stdout + stderr).not.toContain('cnry')
    expect(page?.status).toBe(200)
    expect(await page?.text()).toContain('You are signed in.')
    expect(fieldsOf(asked('/token')[0]?.form)).toMatchObject({
      grant_type: 'authorization_code',
      client_id: 'registered',
      code: 'c0de',
      resource: server.origin,
      code_verifier: expect.stringMatching(/^[\w-]{43,}$/) as string,
    })
    expect(JSON.parse(asked('/register')[0]?.body ?? '')).toMatchObject({
      application_type: 'native',
      token_endpoint_auth_method: 'none',
    })
  })

  it('waits on where an answer has another state, which says nothing and changes nothing', async () => {
    serve()
    const statuses: number[] = []
    const { code } = await login(async (url) => {
      const stranger = await answering({ state: 'guessed', code: 'stolen' })(url)
      const without = await answering({ state: undefined })(url)
      statuses.push(stranger.status, without.status)
      await answering()(url)
    })
    expect(code).toBe(0)
    expect(statuses).toEqual([400, 400])
    expect(asked('/token')).toHaveLength(1)
  })

  it.each([
    ['RFC 9207: another issuer', { iss: 'https://other.example.com' }, 'is not one of'],
    ['RFC 9207: no issuer where one is promised', { iss: undefined }, 'is not one of'],
    ['no code', { code: undefined }, 'is not one of'],
    ['a refusal', { code: undefined, error: 'access_denied' }, 'did not sign you in'],
    ['a refusal of another issuer', { error: 'x', iss: 'https://o.example' }, 'is not one of'],
  ])('asks for no token after an answer with %s', async (_what, more, says) => {
    serve()
    let page: Response | undefined
    const { code, stderr } = await login(async (url) => {
      page = await answering({ ...more, error_description: 'cnry-text' })(url)
    })
    expect(code).toBe(1)
    expect(stderr).toContain(says)
    expect(stderr).not.toContain('cnry')
    expect(page?.status).toBe(400)
    expect(asked('/token')).toEqual([])
    await nothingKept()
  })

  it.each<[string, Parts, string]>([
    [
      'the issuer gives no token',
      { token: json({ error: 'invalid_grant', error_description: 'cnry' }, 400) },
      'gave no token',
    ],
    ['the token endpoint is away', { token: json({}, 503) }, 'Try again.'],
    ['the broker does not accept the token', { me: json({}, 401) }, 'not for this broker'],
  ])('keeps nothing where %s', async (_what, parts, says) => {
    serve(parts)
    const { code, stderr } = await login(answering())
    expect(code).toBe(1)
    expect(stderr).toContain(says)
    expect(stderr).not.toContain('cnry')
    await nothingKept()
  })

  it.each<[string, Parts, readonly string[], string]>([
    [
      'the broker is another',
      { document: { resource: 'https://other.example.com' } },
      [],
      'is of another resource',
    ],
    [
      'it has to be said which issuer',
      { document: { authorization_servers: ['https://a.example', 'https://b.example'] } },
      [],
      '--issuer https://a.example, --issuer https://b.example',
    ],
    ['the broker names another issuer', {}, ['--issuer', 'https://a.example'], 'The broker takes'],
    ['the issuer is another', { metadata: { issuer: 'https://o.example' } }, [], 'another issuer'],
    [
      'nothing registers there',
      { metadata: { registration_endpoint: undefined } },
      [],
      'pass --client-id',
    ],
  ])('shows no link where %s', async (_what, parts, argv, says) => {
    serve(parts)
    const { code, stdout, stderr } = await cli(['login', '--url', server.origin, ...argv])
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
    expect(stderr).toContain(says)
  })

  it('asks as it is told: a client that is registered, scopes, no resource', async () => {
    serve({ metadata: { registration_endpoint: undefined } })
    let request: URL | undefined
    const { code } = await login(
      (url) => {
        request = url
        return answering()(url)
      },
      '--client-id',
      'cli',
      '--scope',
      'api://x/access',
      '--no-resource',
    )
    expect(code).toBe(0)
    expect(fieldsOf(request?.searchParams)).toMatchObject({
      client_id: 'cli',
      scope: 'api://x/access',
    })
    expect(request?.searchParams.has('resource')).toBe(false)
    expect(fieldsOf(asked('/token')[0]?.form)).not.toHaveProperty('resource')
  })

  it('keeps away from private addresses that the broker names', async () => {
    const run = await cli(['login', '--url', 'https://192.168.0.1'])
    expect(run.code).toBe(1)
    expect(run.stderr).toContain('--allow-private-network')
  })

  it.each([
    [[]],
    [['--url', 'ftp://x']],
    [['--url', 'https://b.example', '--port', '0']],
    [['--url', 'https://b.example', '--scope', '"']],
    [['--url', 'https://b.example', 'ada']],
  ])('%j is wrong usage', async (argv) => {
    expect((await cli(['login', ...argv])).code).toBe(2)
  })

  it('needs a home', async () => {
    const run = await onbehalf(['login', '--url', server.origin])
    expect(run.code).toBe(2)
    expect(run.stderr).toContain('HOME')
  })
})
