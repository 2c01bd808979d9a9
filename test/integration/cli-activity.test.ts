import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { type CliRun, onbehalf } from '../support/cli.ts'
import {
  byPath,
  json,
  type ReceivedRequest,
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

type Options = { readonly isWatched?: boolean; readonly columns?: number }
const cli = (argv: readonly string[], options: Options = {}): Promise<CliRun> =>
  onbehalf(argv, { env: { ONBEHALF_URL: broker.origin, ONBEHALF_TOKEN: token }, ...options })

function recordOf(index: number, more: Record<string, unknown> = {}) {
  return {
    id: `01970000-0000-7000-8000-${String(index).padStart(12, '0')}`,
    occurred_at: '2026-05-01T09:30:00.000Z',
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
    ...more,
  }
}
const lines = (records: readonly object[]) =>
  records.map((record) => `${JSON.stringify(record)}\n`).join('')
const queryOf = (request: ReceivedRequest | undefined) =>
  Object.fromEntries(new URL(request?.path ?? '', broker.origin).searchParams)

describe('activity list', () => {
  const long = recordOf(1, {
    user_id: 'a-person-with-a-very-long-name@a-very-long-domain.example.com',
    upstream: 'an-upstream-with-a-rather-long-name-too',
    reason: 'refresh_outcome_unknown',
  })

  it('prints a table that fits the terminal, with whole times and ids', async () => {
    broker.script(json({ items: [long, recordOf(2)], next_cursor: null }))
    const { stdout } = await cli(['activity', 'list'], { columns: 150 })
    for (const line of stdout.trimEnd().split('\n')) expect(line.length).toBeLessThanOrEqual(150)
    expect(stdout).toContain('2026-05-01T09:30:00.000Z')
    expect(stdout).toContain(long.id)
    expect(stdout).toContain('…')
  })

  it('cuts nothing where no terminal shows it', async () => {
    broker.script(json({ items: [long], next_cursor: null }))
    const { stdout } = await cli(['activity', 'list'])
    expect(stdout).toContain('a-person-with-a-very-long-name@a-very-long-domain.example.com')
    expect(stdout).not.toContain('…')
  })
})

describe('activity summary', () => {
  const items = [
    { bucket: '2026-05-01T00:00:00.000Z', upstream: 'files', outcome: 'success', count: 1204 },
    { bucket: '2026-05-01T00:00:00.000Z', upstream: null, outcome: 'failure', count: 3 },
  ]
  const argv = ['activity', 'summary', '--bucket', '1d', '--group-by', 'upstream,outcome']

  it('asks for the buckets, groups and filters that were written, and prints the counts', async () => {
    broker.script(json({ items }))
    const run = await cli([...argv, '--since', '2026-05-01', '--reason', 'not_connected'])
    expect(run).toMatchObject({ code: 0, stderr: '' })
    expect(run.stdout).toBe(
      [
        'BUCKET                    UPSTREAM  OUTCOME  COUNT',
        '2026-05-01T00:00:00.000Z  files     success  1204',
        '2026-05-01T00:00:00.000Z  -         failure  3',
        '',
      ].join('\n'),
    )
    const sent = new URL(broker.requests[0]?.path ?? '', broker.origin)
    expect([...sent.searchParams]).toEqual([
      ['reason', 'not_connected'],
      ['since', '2026-05-01'],
      ['bucket', '1d'],
      ['group_by', 'upstream'],
      ['group_by', 'outcome'],
    ])
  })

  it.each([
    ['json', `${JSON.stringify({ items }, undefined, 2)}\n`],
    ['ndjson', lines(items)],
    [
      'csv',
      'bucket,upstream,outcome,count\r\n2026-05-01T00:00:00.000Z,files,success,1204\r\n2026-05-01T00:00:00.000Z,,failure,3\r\n',
    ],
  ])('prints %s', async (format, expected) => {
    broker.script(json({ items }))
    expect((await cli([...argv, '-o', format])).stdout).toBe(expected)
  })

  it.each([
    [['--bucket', '2h'], /--bucket must be one of 1m, 1h, 1d/],
    [['--group-by', 'upstrem'], /Did you mean upstream\?/],
    [['--group-by', 'upstream,'], /empty value/],
  ])('is wrong usage before anything is sent: %j', async (more, said) => {
    const run = await cli(['activity', 'summary', ...more])
    expect(run).toMatchObject({ code: 2, stdout: '' })
    expect(run.stderr).toMatch(said)
    expect(broker.requests).toHaveLength(0)
  })

  it('says when there is nothing', async () => {
    broker.script(json({ items: [] }))
    expect((await cli(argv)).stdout).toBe('There are no records.\n')
  })
})

describe('activity export', () => {
  const records = Array.from({ length: 2500 }, (_, index) => recordOf(index))
  const path = '/api/v1/activity/export'

  it('M-V6: writes every record as NDJSON, and nothing else', async () => {
    broker.script(text(lines(records), 'application/x-ndjson'))
    const run = await cli(['activity', 'export', '--outcome', 'success', '--since', '2026-05-01'])
    expect(run).toEqual({ code: 0, stdout: lines(records), stderr: '' })
    expect(broker.requests.map((request) => request.path.split('?')[0])).toEqual([path])
    expect(queryOf(broker.requests[0])).toEqual({ outcome: 'success', since: '2026-05-01' })
  })

  it('M-V6: writes CSV with inert cells, JSON and a table too', async () => {
    const evil = recordOf(1, { user_id: '=1+1' })
    broker.script(text(lines([evil, recordOf(2)]), 'application/x-ndjson'))
    const csv = (await cli(['activity', 'export', '-o', 'csv'])).stdout.split('\r\n')
    expect(csv).toHaveLength(4)
    expect(csv[0]).toMatch(/^id,occurred_at,request_id,type,user_id,issuer,actor_kind,actor_id,/)
    expect(csv[1]).toContain(`,'=1+1,`)
    expect(JSON.parse((await cli(['activity', 'export', '-o', 'json'])).stdout)).toEqual([
      evil,
      recordOf(2),
    ])
    const table = (await cli(['activity', 'export', '-o', 'table'])).stdout.split('\n')
    expect(table[0]).toMatch(/^TIME +PERSON/)
    expect(table[2]).toContain(recordOf(2).id)
  })

  it('is empty and good when nothing fits', async () => {
    broker.script(text('', 'application/x-ndjson'))
    expect(await cli(['activity', 'export'])).toEqual({ code: 0, stdout: '', stderr: '' })
    expect((await cli(['activity', 'export', '-o', 'json'])).stdout).toBe('[]\n')
  })

  it('shows a bar to who watches, of what there is to come, and takes it away', async () => {
    broker.script(
      byPath({
        '/api/v1/activity/summary': json({ items: [{ count: 2000 }, { count: 500 }] }),
        [path]: text(lines(records), 'application/x-ndjson'),
      }),
    )
    const run = await cli(['activity', 'export', '--user-id', 'alice'], { isWatched: true })
    expect(run.stdout).toBe(lines(records))
    expect(run.stderr).toMatch(/\r\[[#-]{30}\] +\d+% {2}\d+ of 2500 records/)
    expect(run.stderr.endsWith('\r\u001b[K2500 records.\n')).toBe(true)
    expect(queryOf(broker.requests[0])).toMatchObject({ user_id: 'alice', bucket: '1d' })
  })

  it('counts without a total where counting is refused', async () => {
    broker.script(
      byPath({
        '/api/v1/activity/summary': json({ code: 'invalid_request' }, 400),
        [path]: text(lines(records), 'application/x-ndjson'),
      }),
    )
    const run = await cli(['activity', 'export'], { isWatched: true })
    expect(run.code).toBe(0)
    expect(run.stderr).toMatch(/\r\d+ records\r/)
  })

  it('says when it was cut off, and how far it came', async () => {
    broker.script((_request, response) => {
      response.writeHead(200, { 'content-type': 'application/x-ndjson' })
      response.write(lines(records.slice(0, 3)), () => response.destroy())
    })
    const run = await cli(['activity', 'export'])
    expect(run.code).toBe(1)
    expect(run.stdout).toBe(lines(records.slice(0, 3)))
    expect(run.stderr).toBe('The answer of the broker broke off. 3 records were written.\n')
  })
})

describe('activity tail', () => {
  const event = (record: { id: string }) =>
    `id: ${record.id}\nevent: activity\ndata: ${JSON.stringify(record)}\n\n`
  const ended = json({ code: 'forbidden' }, 403)

  /** Answers one connection after the other; the last answer is a refusal, which ends the command. */
  function connections(...bodies: readonly (string | ReturnType<typeof json>)[]): void {
    const left = [...bodies, ended]
    broker.script((request, response) => {
      const next = left.shift() ?? ended
      if (typeof next === 'string') text(next, 'text/event-stream')(request, response)
      else next(request, response)
    })
  }

  it('M-V8: prints records as they come, and after a lost connection goes on behind the last, each once', async () => {
    const [a, b, c] = [recordOf(1), recordOf(2), recordOf(3)]
    connections(
      `: follows\n\n${event(a)}${event(b)}`,
      `: follows\n\n${event(b)}: still there\n\n${event(c)}`,
    )
    const run = await cli(['activity', 'tail', '-o', 'ndjson', '--outcome', 'success'])
    expect(run.code).toBe(1)
    expect(run.stdout).toBe(lines([a, b, c]))
    expect(run.stderr).toContain('The connection was lost; connecting again …\nConnected again.\n')
    expect(run.stderr).toContain('403 forbidden')
    expect(broker.requests.map(({ headers }) => headers['last-event-id'])).toEqual([
      undefined,
      b.id,
      c.id,
    ])
    expect(broker.requests.map(({ headers }) => headers.accept)).toEqual(
      Array(3).fill('text/event-stream'),
    )
    expect(queryOf(broker.requests[0])).toEqual({ outcome: 'success' })
  })

  it('says that something is missing when the broker knows its place no more', async () => {
    const [a, b] = [recordOf(1), recordOf(2)]
    connections(event(a), json({ code: 'invalid_request' }, 400), event(b))
    const run = await cli(['activity', 'tail', '-o', 'csv'])
    expect(run.stdout.split('\r\n')).toHaveLength(4)
    expect(run.stderr).toContain('what came in meanwhile is missing here')
    expect(broker.requests[2]?.headers['last-event-id']).toBeUndefined()
  })

  it('prints a table with columns of usual width, cut to the terminal', async () => {
    connections(event(recordOf(1)) + event(recordOf(2, { user_id: 'x'.repeat(300) })))
    const run = await cli(['activity', 'tail'], { columns: 140 })
    const printed = run.stdout.trimEnd().split('\n')
    expect(printed).toHaveLength(3)
    for (const line of printed) expect(line.length).toBeLessThanOrEqual(140)
  })

  it('fails at once where it was never connected', async () => {
    broker.script(json({ code: 'storage_unavailable' }, 503))
    const run = await cli(['activity', 'tail'])
    expect(run).toMatchObject({ code: 1, stdout: '' })
    expect(broker.requests).toHaveLength(1)
  })

  it('takes the filters of what is to come alone', async () => {
    const run = await cli(['activity', 'tail', '--since', '2026-05-01'])
    expect(run.code).toBe(2)
    expect(broker.requests).toHaveLength(0)
  })
})
