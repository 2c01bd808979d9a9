import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { type CliRun, onbehalf } from '../support/cli.ts'
import {
  byPath,
  json,
  type ScriptedServer,
  startScriptedServer,
  text,
} from '../support/scripted-server.ts'

const token = 'cnry-access-token'
let broker: ScriptedServer
beforeAll(async () => {
  broker = await startScriptedServer()
})
beforeEach(() => {
  broker.requests.length = 0
})
afterAll(() => broker.close())

const cli = (...argv: string[]): Promise<CliRun> =>
  onbehalf(argv, { env: { ONBEHALF_URL: broker.origin, ONBEHALF_TOKEN: token } })

const files = {
  upstream: 'files',
  display_name: 'Files',
  mode: 'oauth_connect',
  status: 'connected',
  reason: null,
  scopes: ['files:read'],
  audience: 'https://files.example.com/mcp',
  method: 'connect',
  account: 'alice@example.com',
  expires_at: '2026-05-01T10:00:00Z',
  connected_at: '2026-05-01T09:00:00Z',
  last_used_at: null,
  connect_path: '/api/v1/connections/files/connect',
}
const record = {
  id: '01970000-0000-7000-8000-000000000001',
  occurred_at: '2026-05-01T09:30:00Z',
  request_id: '0b6f4f2e-3a52-4d53-9df4-0f3a6e7c8a11',
  type: 'credential_broker',
  user_id: 'alice',
  issuer: 'https://login.example.com',
  actor: { kind: 'service', id: 'edge' },
  upstream: 'files',
  action: 'inject',
  method: 'connect',
  outcome: 'success',
  reason: null,
  duration_ms: 3,
  details: { identity: 'token' },
}
/** What a server should never send, and what then must not be printed. */
const leaks = { access_token: 'cnry-at', refresh_token: 'cnry-rt', client_secret: 'cnry-cs' }

describe('connections list', () => {
  it('asks as the person whose token it is, and prints a table', async () => {
    broker.script(json({ connections: [files] }))
    const { code, stdout, stderr } = await cli('connections', 'list')
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(stdout).toBe(
      'UPSTREAM  STATUS     REASON  ACCOUNT            EXPIRES               LAST USED\n' +
        'files     connected  -       alice@example.com  2026-05-01T10:00:00Z  -\n',
    )
    expect(broker.requests).toHaveLength(1)
    expect(broker.requests[0]).toMatchObject({ method: 'GET', path: '/api/v1/connections' })
    expect(broker.requests[0]?.headers.authorization).toBe(`Bearer ${token}`)
  })

  it('M-K1: prints no secret, even one that the server sends', async () => {
    broker.script(json({ connections: [{ ...files, ...leaks }], ...leaks }))
    for (const format of ['table', 'json']) {
      const { code, stdout, stderr } = await cli('connections', 'list', '-o', format)
      expect(code).toBe(0)
      expect(stdout + stderr).not.toContain('cnry')
    }
    expect(JSON.parse((await cli('connections', 'list', '-o', 'json')).stdout)).toEqual({
      connections: [files],
    })
  })

  it('M-K1: says so when there is nothing', async () => {
    broker.script(json({ connections: [] }))
    expect((await cli('connections', 'list')).stdout).toBe('There are no upstreams for you.\n')
    expect(JSON.parse((await cli('connections', 'list', '-o', 'json')).stdout)).toEqual({
      connections: [],
    })
  })

  it('neutralises what would steer a terminal', async () => {
    const account = 'a\u001b[2J\u009b31m\u202eb\nc\u007f'
    broker.script(json({ connections: [{ ...files, account }] }))
    const table = await cli('connections', 'list')
    expect(table.stdout).toContain('a\\u001b[2J\\u009b31m\\u202eb\\u000ac\\u007f')
    const asJson = await cli('connections', 'list', '-o', 'json')
    for (const { stdout } of [table, asJson]) {
      expect(stdout.replaceAll('\n', '')).toMatch(/^[\x20-\x7e]*$/)
    }
    expect(JSON.parse(asJson.stdout)).toEqual({ connections: [{ ...files, account }] })
  })

  it('takes --url and --token before the environment, and a base path', async () => {
    broker.script(json({ connections: [] }))
    const run = await onbehalf(
      ['connections', 'list', '--url', `${broker.origin}/broker/`, '--token', 'other'],
      { env: { ONBEHALF_URL: 'http://127.0.0.1:1', ONBEHALF_TOKEN: token } },
    )
    expect(run.code).toBe(0)
    expect(broker.requests[0]?.path).toBe('/broker/api/v1/connections')
    expect(broker.requests[0]?.headers.authorization).toBe('Bearer other')
  })
})

describe('connections connect and disconnect', () => {
  it('prints the link, and only the link, on stdout', async () => {
    const link = {
      connect_url: 'https://broker.example.com/connect/abc',
      expires_at: '2026-05-01T09:10:00Z',
    }
    broker.script(json({ ...link, ...leaks }, 201))
    const run = await cli('connections', 'connect', 'files')
    expect(run).toMatchObject({ code: 0, stdout: `${link.connect_url}\n` })
    expect(run.stderr).toContain('browser')
    expect(broker.requests[0]).toMatchObject({
      method: 'POST',
      path: '/api/v1/connections/files/connect',
      body: '{}',
    })
    expect(broker.requests[0]?.headers['content-type']).toBe('application/json')
    expect(JSON.parse((await cli('connections', 'connect', 'files', '-o', 'json')).stdout)).toEqual(
      link,
    )
  })

  it.each(['javascript:alert(1)', 'file:///etc/passwd', 'x'])(
    'prints no link that is none: %s',
    async (connectUrl) => {
      broker.script(json({ connect_url: connectUrl, expires_at: 'x' }, 201))
      const run = await cli('connections', 'connect', 'files')
      expect(run).toMatchObject({ code: 1, stdout: '' })
    },
  )

  it.each([
    ['Files', 'files'],
    ['a/b', 'a%2Fb'],
    ['../me', '..%2Fme'],
    ['a?b#c%2F', 'a%3Fb%23c%252f'],
    ['ä', '%C3%A4'],
  ])('M-K1: the name %j is one lower-case segment: %s', async (name, segment) => {
    broker.script((_request, response) => response.writeHead(204).end())
    expect(await cli('connections', 'disconnect', name)).toEqual({
      code: 0,
      stdout: 'Disconnected.\n',
      stderr: '',
    })
    expect(broker.requests[0]).toMatchObject({
      method: 'DELETE',
      path: `/api/v1/connections/${segment}`,
    })
  })

  it.each(['.', '..'])('the name %j is wrong usage, and nothing is sent', async (name) => {
    expect((await cli('connections', 'disconnect', name)).code).toBe(2)
    expect(broker.requests).toHaveLength(0)
  })
})

describe('when the call fails', () => {
  const list = (): Promise<CliRun> => cli('connections', 'list')

  it('M-K1: a 401 comes with what to do', async () => {
    broker.script(json({ code: 'unauthenticated' }, 401))
    const run = await list()
    expect(run).toMatchObject({ code: 1, stdout: '' })
    expect(run.stderr).toContain('ONBEHALF_TOKEN')
    expect(run.stderr).not.toContain(token)
  })

  it.each([
    [
      'a code that we know',
      404,
      { code: 'unknown_upstream', title: 'cnry' },
      'The broker answered 404 unknown_upstream. There is no upstream of this name.',
    ],
    [
      'a code that we do not know',
      418,
      { code: 'teapot', detail: 'cnry' },
      'The broker answered 418 teapot.\n',
    ],
    ['a code that is none', 500, { code: 'cnry\u001b[2J' }, 'The broker answered 500.\n'],
    ['no code', 502, {}, 'The broker answered 502.\n'],
  ])('says the status and the code, never the text: %s', async (_name, status, body, said) => {
    broker.script(json(body, status))
    const run = await list()
    expect(run).toMatchObject({ code: 1, stdout: '' })
    expect(run.stderr).toContain(said)
    expect(run.stderr).not.toContain('cnry')
  })

  it.each([
    ['HTML', text('<html>cnry</html>', 'text/html')],
    ['another shape', json({ connections: [{ upstream: 'cnry' }] })],
    ['half a JSON', text('{"connections": [', 'application/json')],
    ['nothing', (_request: unknown, response: { end(): void }) => response.end()],
  ])('says when the answer is not ours: %s', async (_name, script) => {
    broker.script(script)
    const run = await list()
    expect(run).toMatchObject({ code: 1, stdout: '' })
    expect(run.stderr).toContain('not one of onbehalf')
    expect(run.stderr).not.toContain('cnry')
  })

  it('follows no redirect, which would take the token elsewhere', async () => {
    broker.script(
      byPath({
        '/api/v1/connections': (_request, response) =>
          response.writeHead(307, { location: `${broker.origin}/elsewhere` }).end(),
        '/elsewhere': json({ connections: [] }),
      }),
    )
    expect((await list()).code).toBe(1)
    expect(broker.requests.map(({ path }) => path)).toEqual(['/api/v1/connections'])
  })

  it('says when nobody answers', async () => {
    const gone = await startScriptedServer()
    await gone.close()
    const run = await onbehalf(['connections', 'list', '--url', gone.origin, '--token', token])
    expect(run).toEqual({
      code: 1,
      stdout: '',
      stderr: `No answer from ${gone.origin}. Is the broker running there?\n`,
    })
  })

  it.each([
    ['no URL', [], { ONBEHALF_TOKEN: token }, /set ONBEHALF_URL/],
    ['an empty URL', [], { ONBEHALF_URL: '', ONBEHALF_TOKEN: token }, /set ONBEHALF_URL/],
    ['no token', [], { ONBEHALF_URL: 'https://x' }, /set ONBEHALF_TOKEN/],
    ['a URL of another scheme', ['--url', 'file:///x'], { ONBEHALF_TOKEN: token }, /http\(s\) URL/],
    [
      'a URL with a password',
      ['--url', 'https://u:cnry@x'],
      { ONBEHALF_TOKEN: token },
      /http\(s\) URL/,
    ],
    [
      'a token with a line break',
      [],
      { ONBEHALF_URL: 'https://x', ONBEHALF_TOKEN: `${token}\r\nx: y` },
      /printable ASCII/,
    ],
  ])('is wrong usage before anything is sent: %s', async (_name, argv, env, said) => {
    const run = await onbehalf(['connections', 'list', ...argv], { env })
    expect(run).toMatchObject({ code: 2, stdout: '' })
    expect(run.stderr).toMatch(said)
    expect(run.stderr).not.toContain('cnry')
    expect(broker.requests).toHaveLength(0)
  })

  it('warns when the token travels over plain http', async () => {
    const fetched = { fetch: () => Promise.reject(new Error('offline')) }
    const run = await onbehalf(
      ['connections', 'list', '--url', 'http://broker.internal', '--token', token],
      {
        services: fetched,
      },
    )
    expect(run.stderr).toContain('warning: the token travels over plain http.')
  })
})

describe('activity list', () => {
  const page = { items: [record], next_cursor: null }

  it('sends every filter by the name that the API gives it', async () => {
    broker.script(json(page))
    const run = await cli(
      'activity',
      'list',
      '--type',
      'credential_broker,administration',
      '--user-id',
      'alice',
      '--user-id',
      'bob',
      '--issuer',
      'https://login.example.com',
      '--upstream',
      'files',
      '--action',
      'inject',
      '--method',
      'connect',
      '--outcome',
      'success,failure',
      '--reason',
      'not_connected',
      '--request-id',
      record.request_id,
      '--actor-id',
      'edge',
      '--since',
      '2026-05-01',
      '--until',
      '2026-05-02T00:00:00+02:00',
      '--limit',
      '10',
      '--cursor',
      'abc=',
    )
    expect(run.code).toBe(0)
    const sent = new URL(broker.requests[0]?.path ?? '', broker.origin)
    expect(sent.pathname).toBe('/api/v1/activity')
    expect([...sent.searchParams]).toEqual([
      ['type', 'credential_broker'],
      ['type', 'administration'],
      ['user_id', 'alice'],
      ['user_id', 'bob'],
      ['issuer', 'https://login.example.com'],
      ['upstream', 'files'],
      ['action', 'inject'],
      ['method', 'connect'],
      ['outcome', 'success'],
      ['outcome', 'failure'],
      ['reason', 'not_connected'],
      ['request_id', record.request_id],
      ['actor_id', 'edge'],
      ['since', '2026-05-01'],
      ['until', '2026-05-02T00:00:00+02:00'],
      ['limit', '10'],
      ['cursor', 'abc='],
    ])
  })

  it('--mine asks for the own records', async () => {
    broker.script(json(page))
    expect((await cli('activity', 'list', '--mine')).code).toBe(0)
    expect(broker.requests[0]?.path).toBe('/api/v1/me/activity')
  })

  it.each([
    ['--type', 'broker'],
    ['--type', 'credential_broker,'],
    ['--action', 'injekt'],
    ['--method', 'password'],
    ['--outcome', 'ok'],
    ['--reason', 'because'],
    ['--request-id', 'abc'],
    ['--since', 'yesterday'],
    ['--since', '2026-02-30'],
    ['--since', '2026-05-01T10:00'],
    ['--until', '2026-13-01'],
    ['--limit', '0'],
    ['--limit', '1001'],
    ['--limit', '1e2'],
    ['-o', 'yaml'],
  ])('M-K2: %s %s is refused here, exit 2, and nothing is sent', async (option, value) => {
    const run = await cli('activity', 'list', option, value)
    expect(run).toMatchObject({ code: 2, stdout: '' })
    expect(broker.requests).toHaveLength(0)
  })

  it('M-K2: a time range that ends before it begins is refused here', async () => {
    const run = await cli('activity', 'list', '--since', '2026-05-02', '--until', '2026-05-01')
    expect(run.code).toBe(2)
    expect(run.stderr).toContain('--since must be before --until')
  })

  it('prints a table, and how to go on', async () => {
    broker.script(json({ items: [record], next_cursor: 'next' }))
    const { stdout, stderr } = await cli('activity', 'list')
    const [head, row] = stdout.split('\n')
    expect(head?.split(/ {2,}/)).toEqual([
      'TIME',
      'PERSON',
      'UPSTREAM',
      'ACTION',
      'METHOD',
      'OUTCOME',
      'REASON',
      'ACTOR',
      'ID',
    ])
    expect(row?.split(/ {2,}/)).toEqual([
      record.occurred_at,
      'alice',
      'files',
      'inject',
      'connect',
      'success',
      '-',
      'service:edge',
      record.id,
    ])
    expect(stderr).toBe('There are more: --cursor next\n')
  })

  it('says so when there is nothing', async () => {
    broker.script(json({ items: [], next_cursor: null }))
    expect((await cli('activity', 'list')).stdout).toBe('There are no records.\n')
    expect((await cli('activity', 'list', '-o', 'ndjson')).stdout).toBe('')
  })

  it('prints JSON and NDJSON with the fields of the API and no others', async () => {
    const leaky = { ...record, ...leaks, details: { ...record.details, ...leaks } }
    broker.script(json({ items: [leaky, leaky], next_cursor: null }))
    const asJson = await cli('activity', 'list', '-o', 'json')
    expect(JSON.parse(asJson.stdout)).toEqual({ items: [record, record], next_cursor: null })
    const lines = (await cli('activity', 'list', '-o', 'ndjson')).stdout.trimEnd().split('\n')
    expect(lines.map((line): unknown => JSON.parse(line))).toEqual([record, record])
  })

  it('prints CSV in the order of the API, without formulas', async () => {
    const users = ['=1+1', '+1', '-1', '@x', '\tx', '\rx', 'a,"b"', 'plain']
    broker.script(
      json({ items: users.map((user_id) => ({ ...record, user_id })), next_cursor: null }),
    )
    const rows = (await cli('activity', 'list', '-o', 'csv')).stdout.trimEnd().split('\r\n')
    expect(rows[0]).toBe(
      'id,occurred_at,request_id,type,user_id,issuer,actor_kind,actor_id,upstream,action,method,outcome,reason,duration_ms,details',
    )
    const cells = rows
      .slice(1)
      .map((row) => row.split(',credential_broker,')[1]?.split(',https://')[0])
    expect(cells).toEqual([
      "'=1+1",
      "'+1",
      "'-1",
      "'@x",
      "'\\u0009x",
      "'\\u000dx",
      '"a,""b"""',
      'plain',
    ])
    expect(rows[1]).toContain(
      ',service,edge,files,inject,connect,success,,3,"{""identity"":""token""}"',
    )
  })
})

describe('activity show', () => {
  it('prints every field', async () => {
    broker.script(json(record))
    const { code, stdout } = await cli('activity', 'show', record.id.toUpperCase())
    expect(code).toBe(0)
    expect(broker.requests[0]?.path).toBe(`/api/v1/activity/${record.id}`)
    for (const field of ['request_id', 'actor_kind', 'duration_ms', 'details'])
      expect(stdout).toContain(field)
    expect(JSON.parse((await cli('activity', 'show', record.id, '-o', 'json')).stdout)).toEqual(
      record,
    )
  })

  it('M-K2: refuses an id that is none, and says when there is no such record', async () => {
    expect((await cli('activity', 'show', '../me')).code).toBe(2)
    expect(broker.requests).toHaveLength(0)
    broker.script(json({ code: 'not_found' }, 404))
    const run = await cli('activity', 'show', record.id)
    expect(run).toMatchObject({ code: 1, stdout: '' })
    expect(run.stderr).toContain('There is no such record.')
  })
})

describe('connections of another person, for admins', () => {
  const issuer = 'https://login.example.com'
  const ofAda = { ...files, issuer, user_id: 'ada/1' }

  it('--user lists what is stored for that person', async () => {
    broker.script(
      json({
        connections: [
          { ...ofAda, ...leaks },
          { ...ofAda, issuer: 'https://b.example' },
        ],
      }),
    )
    const run = await cli('connections', 'list', '--user', 'ada/1')
    expect(run.code).toBe(0)
    expect(broker.requests[0]?.path).toBe('/api/v1/admin/connections?user_id=ada%2F1')
    expect(run.stdout).toMatch(/^ISSUER +USER +UPSTREAM/)
    const narrowed = await cli(
      'connections',
      'list',
      '--user',
      'ada/1',
      '--issuer',
      issuer,
      '-o',
      'json',
    )
    expect(JSON.parse(narrowed.stdout)).toEqual({ connections: [ofAda] })
  })

  it('--user disconnects that person, whose issuer is looked up where it is not said', async () => {
    broker.script(
      byPath({
        '/api/v1/admin/connections': json({ connections: [ofAda] }),
        [`/api/v1/admin/users/${encodeURIComponent(issuer)}/ada%2F1/connections/files`]: text(
          '',
          'text/plain',
          204,
        ),
      }),
    )
    const run = await cli('connections', 'disconnect', 'files', '--user', 'ada/1')
    expect(run).toMatchObject({ code: 0, stdout: 'Disconnected.\n' })
    expect(broker.requests.map(({ method }) => method)).toEqual(['GET', 'DELETE'])
  })

  it('says when there is none, or more than one', async () => {
    broker.script(json({ connections: [] }))
    const none = await cli('connections', 'disconnect', 'files', '--user', 'ada/1')
    expect(none.code).toBe(1)
    broker.script(json({ connections: [ofAda, { ...ofAda, issuer: 'https://b.example' }] }))
    const several = await cli('connections', 'disconnect', 'files', '--user', 'ada/1')
    expect(several.code).toBe(1)
    expect(several.stderr).toContain('--issuer')
    expect((await cli('connections', 'list', '--issuer', issuer)).code).toBe(2)
  })
})

describe('connections connect, where a key is stored instead', () => {
  it('says where the key goes', async () => {
    broker.script(
      byPath({
        '/api/v1/connections/metrics/connect': json({ code: 'not_connectable' }, 409),
        '/api/v1/connections/metrics': json({
          ...files,
          upstream: 'metrics',
          mode: 'user_key',
          connect_path: null,
        }),
      }),
    )
    const run = await cli('connections', 'connect', 'metrics')
    expect(run.code).toBe(1)
    expect(run.stderr).toContain(`${broker.origin}/connections`)
    expect(run.stderr).toContain('/api/v1/connections/metrics/key')
  })
})
