import { createHash } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { connect } from 'node:net'
import { gzipSync } from 'node:zlib'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { endpoints } from '../support/authorization-server.ts'
import { startTestBroker, type TestBroker } from '../support/broker.ts'
import { type PlainUpstream, startPlainUpstream } from '../support/plain-upstream.ts'

type Json = Record<string, unknown>
type Headers_ = Record<string, string>

const version = 'io.modelcontextprotocol/protocolVersion'
const capabilities = 'io.modelcontextprotocol/clientCapabilities'

/** Messages as a hostile client or upstream writes them: no SDK would. */
describe('/mcp, with what no SDK sends', () => {
  let upstream: PlainUpstream
  let broker: TestBroker

  beforeAll(async () => {
    upstream = await startPlainUpstream()
    broker = await startTestBroker({
      filesUrl: `${upstream.url}/mcp`,
      change(config) {
        config.upstreams.files['timeouts'] = { head: '30s', idle: '5s' }
        const other = structuredClone(config.upstreams.files)
        Object.assign(config.upstreams, { other })
      },
    })
  })
  afterAll(async () => {
    await broker.stop()
    await upstream.stop()
  })
  let before = 0
  beforeEach(() => {
    upstream.answerWith(answerAsServer)
    before = upstream.hits.length
  })
  const leavers: AbortController[] = []
  afterEach(async () => {
    for (const one of leavers.splice(0)) one.abort()
    await disconnect('ada')
  })
  /** What reached the upstream, but for the gateway's own question. */
  const hits = () =>
    upstream.hits.slice(before).filter(({ body }) => !body.toString().includes('onbehalf-discover'))

  const disconnect = (person: string) => broker.call('DELETE', '/api/v1/connections/files', person)

  const modernHeaders = (method: string, name?: string): Headers_ => ({
    'mcp-protocol-version': '2026-07-28',
    'mcp-method': method,
    ...(name === undefined ? {} : { 'mcp-name': name }),
  })
  const modern = (method: string, params: Json = {}, elicits = false): Json => ({
    jsonrpc: '2.0',
    id: 7,
    method,
    params: {
      ...params,
      _meta: {
        [version]: '2026-07-28',
        [capabilities]: elicits ? { elicitation: { url: {} } } : {},
      },
    },
  })

  async function send(
    person: string,
    body: unknown,
    headers: Headers_ = {},
    at: { method?: string; upstream?: string; signal?: AbortSignal } = {},
  ): Promise<Response> {
    const { method = 'POST', upstream: name = 'files', signal } = at
    return fetch(`${broker.url}/mcp/${name}`, {
      method,
      headers: {
        authorization: `Bearer ${await broker.tokenOf(person)}`,
        accept: 'application/json, text/event-stream',
        'content-type': 'application/json',
        ...headers,
      },
      ...(body === undefined
        ? {}
        : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
      ...(signal === undefined ? {} : { signal }),
    })
  }

  async function ask(person: string, body: Json, headers: Headers_ = {}, at = {}) {
    const answer = await send(person, body, headers, at)
    const text = await answer.text()
    return { status: answer.status, body: (text === '' ? {} : JSON.parse(text)) as Json }
  }

  const tool = (params: Json = {}, elicits = true) =>
    modern('tools/call', { name: 'echo', arguments: { n: 1 }, ...params }, elicits)
  const toolHead = modernHeaders('tools/call', 'echo')

  /** A stream of events that somebody reads. */
  async function stream(answer: Response) {
    const reader = answer.body?.getReader()
    let text = ''
    let ended: 'end' | 'cut' | undefined
    void (async () => {
      try {
        for (;;) {
          const next = await reader?.read()
          if (next === undefined || next.done) break
          text += Buffer.from(next.value).toString()
        }
        ended = 'end'
      } catch {
        ended = 'cut'
      }
    })()
    const events = () =>
      text
        .split('\n\n')
        .flatMap((event) => /^data: (.*)$/m.exec(event)?.[1] ?? [])
        .map((data) => JSON.parse(data) as { method?: string; params?: Json; result?: Json })
    return { events, text: () => text, ended: () => ended }
  }

  function leaver(): AbortSignal {
    const controller = new AbortController()
    leavers.push(controller)
    return controller.signal
  }

  async function session(person: string, caps: Json = {}): Promise<Headers_> {
    const params = {
      protocolVersion: '2025-11-25',
      capabilities: caps,
      clientInfo: { name: 'raw', version: '1' },
    }
    const body = { jsonrpc: '2.0', id: 0, method: 'initialize', params }
    const answer = await send(person, body)
    await answer.text()
    return { 'mcp-session-id': answer.headers.get('mcp-session-id') ?? '' }
  }

  describe('a body that disagrees with its head', () => {
    const base64 = (text: string) => `=?base64?${Buffer.from(text).toString('base64')}?=`

    it.each([
      ['another method', tool(), modernHeaders('tools/list', 'echo')],
      ['no method', tool(), { 'mcp-protocol-version': '2026-07-28', 'mcp-name': 'echo' }],
      ['another case', tool(), modernHeaders('Tools/Call', 'echo')],
      ['another name', tool(), modernHeaders('tools/call', 'other')],
      ['no name', tool(), modernHeaders('tools/call')],
      ['a name that only the head has', tool({ name: undefined }), toolHead],
      ['a name that is no text', tool({ name: 1 }), modernHeaders('tools/call', '1')],
      ['another name in Base64', tool(), modernHeaders('tools/call', base64('other'))],
      ['Base64 within Base64', tool(), modernHeaders('tools/call', base64(base64('echo')))],
      [
        'a URI',
        modern('resources/read', { uri: 'a://b' }),
        modernHeaders('resources/read', 'a://c'),
      ],
      ['no version in the body', { ...tool(), params: { name: 'echo' } }, toolHead],
      ['no version in the head', tool(), { 'mcp-method': 'tools/call', 'mcp-name': 'echo' }],
      [
        'an older version in the head',
        tool(),
        { ...toolHead, 'mcp-protocol-version': '2025-11-25' },
      ],
    ] as [string, Json, Headers_][])(
      '%s: 400, and nothing goes up',
      async (_what, body, headers) => {
        const answer = await ask('grace', body, headers)
        expect(answer).toMatchObject({ status: 400, body: { error: { code: -32020 } } })
        expect(hits()).toEqual([])
      },
    )

    it('a name in Base64 that agrees is taken', async () => {
      const body = tool({ name: 'größe' }, false)
      const answer = await ask('grace', body, modernHeaders('tools/call', base64('größe')))
      expect(answer).toMatchObject({ status: 200, body: { result: { isError: true } } })
    })

    it.each(['Mcp-Method', 'Mcp-Name', 'MCP-Protocol-Version', 'Mcp-Session-Id'])(
      '%s twice is 400, whichever would be read',
      async (name) => {
        const { request } = await import('node:http')
        const token = await broker.tokenOf('grace')
        const status = await new Promise((resolve, reject) => {
          const sent = request(`${broker.url}/mcp/files`, {
            method: 'POST',
            headers: [
              'Host',
              'x',
              'Authorization',
              `Bearer ${token}`,
              ...Object.entries(toolHead).flat(),
              name,
              'a',
              name,
              'b',
            ],
          })
          sent.on('response', ({ statusCode }) => resolve(statusCode)).on('error', reject)
          sent.end(JSON.stringify(tool()))
        })
        expect(status).toBe(400)
        expect(hits()).toEqual([])
      },
    )
  })

  // Some parsers take the first of two, and some the last: the head would agree with one, and the other be run.
  describe('a member that comes twice', () => {
    const text = (more: Json = {}) =>
      JSON.stringify(tool({ arguments: 'ARGUMENTS', ...more }, false))
    const twice: [string, string][] = [
      ['a method', text().replace('"method":', '"method":"tools/list","method":')],
      ['parameters', text().replace('"params":', '"params":{"name":"rm"},"params":')],
      ['a name', text().replace('"name":', '"name":"rm","name":')],
      ['a name in another spelling', text().replace('"name":', '"n\\u0061me":"rm","name":')],
      [
        'a name behind a name',
        text().replace('"arguments":"ARG', '"name" : "echo","arguments":"ARG'),
      ],
      ['a revision', text().replace(`"${version}":`, `"${version}":"2025-11-25","${version}":`)],
      [
        'a requestState',
        text({ requestState: 'x' }).replace('"req', '"requestState":"onbehalf.x","req'),
      ],
    ]

    it.each(twice)('%s: 400', async (_what, body) => {
      expect(body.length).toBeGreaterThan(text().length)
      const answer = await send('grace', body, toolHead)
      expect([answer.status, await answer.json()]).toMatchObject([400, { error: { code: -32600 } }])
      expect(hits()).toEqual([])
    })

    it('2025, and in a batch: 400', async () => {
      const opened = await session('ada')
      const message = '{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}'
      for (const body of [message, `[${message}]`]) {
        const answer = await send('ada', body, opened)
        expect([answer.status, await answer.text()]).toEqual([
          400,
          expect.stringContaining('twice'),
        ])
      }
    })

    it('in another object is another member', async () => {
      await broker.connect('ada')
      const given =
        '{"name":"\\"name\\":","method":[{"name":1},{"name":1}],"a":{"name":{}},"":"\\\\"}'
      const body = text().replace('"ARGUMENTS"', given)
      expect((await send('ada', body, toolHead)).status).toBe(200)
      expect(hits().map((hit) => hit.body.toString())).toEqual([body])
    })
  })

  describe('what is no message of its revision', () => {
    it.each([
      ['no JSON', '{', -32700],
      ['nothing', '', -32700],
      ['a text', '"x"', -32700],
      ['no JSON-RPC', '{"id":1,"method":"tools/list"}', -32700],
      ['an id that is an object', '{"jsonrpc":"2.0","id":{},"method":"ping"}', -32700],
      ['an empty batch', '[]', -32700],
      ['a batch with a stranger', '[{"jsonrpc":"2.0","id":1,"method":"ping"},1]', -32700],
      ['50,000 brackets', '['.repeat(50_000), -32700],
      ['a batch of 2026', JSON.stringify([modern('tools/list')]), -32600],
    ])('%s: 400', async (_what, body, code) => {
      const answer = await send('grace', body)
      expect(answer.status).toBe(400)
      expect(await answer.json()).toMatchObject({ error: { code } })
      expect(hits()).toEqual([])
    })

    it('P18: 10 MB of JSON and 20,000 levels are an ordinary call', async () => {
      const deep = `${'{"a":'.repeat(20_000)}1${'}'.repeat(20_000)}`
      const body = JSON.stringify(tool({ arguments: { big: 'x'.repeat(10_000_000) } }, false))
      const nested = JSON.stringify(tool({}, false)).replace('"n":1', `"n":${deep}`)
      for (const text of [body, nested]) {
        expect((await send('grace', text, toolHead)).status).toBe(200)
      }
    })

    it.each([
      ['GET', '2026-07-28', 405],
      ['DELETE', '2026-07-28', 405],
      ['PUT', '2026-07-28', 405],
      ['PUT', '2025-11-25', 405],
      ['PATCH', '2025-11-25', 405],
      ['HEAD', '2025-11-25', 405],
      ['OPTIONS', '2025-11-25', 405],
      ['GET', '2031-01-01', 400],
      ['DELETE', '2031-01-01', 400],
      ['GET', '2025-11-25', 400],
    ])('%s of %s is %i', async (method, revision, status) => {
      const answer = await send(
        'grace',
        undefined,
        { 'mcp-protocol-version': revision },
        { method },
      )
      expect(answer.status).toBe(status)
      const allowed = revision === '2026-07-28' ? 'POST' : 'GET, POST, DELETE'
      expect(answer.headers.get('allow')).toBe(status === 405 ? allowed : null)
      expect(hits()).toEqual([])
    })

    it('an unknown revision is -32022 with those that are known', async () => {
      const body = { jsonrpc: '2.0', id: 1, method: 'tools/list', params: {} }
      const answer = await ask('grace', body, { 'mcp-protocol-version': '2031-01-01' })
      expect(answer).toMatchObject({
        status: 400,
        body: { id: 1, error: { code: -32022, data: { requested: '2031-01-01' } } },
      })
    })

    it('2025: an initialize in a batch begins no session', async () => {
      const params = { protocolVersion: '2025-03-26', capabilities: {}, clientInfo: {} }
      const body = JSON.stringify([{ jsonrpc: '2.0', id: 0, method: 'initialize', params }])
      const answer = await send('grace', body)
      expect([answer.status, answer.headers.get('mcp-session-id')]).toEqual([400, null])
    })
  })

  describe('a requestState', () => {
    const answers = { onbehalf_connect: { action: 'decline' }, own: { action: 'accept' } }
    type Call = { person?: string; state: string; body?: Json; head?: Headers_; upstream?: string }

    async function stateOf(body = tool(), person = 'grace'): Promise<string> {
      const { body: prompt } = await ask(person, body, toolHead)
      expect(prompt['result']).toMatchObject({ resultType: 'input_required' })
      return String((prompt['result'] as Json)['requestState'])
    }

    const retry = ({ person = 'ada', state, body = tool(), head = toolHead }: Call) => {
      const params = { ...(body['params'] as Json), requestState: state, inputResponses: answers }
      return ask(person, { ...body, params }, head)
    }

    async function misfits(): Promise<[string, string, Json?, Headers_?][]> {
      const own = await stateOf(tool(), 'ada')
      const flipped = own.slice(0, -2) + (own.endsWith('AA') ? 'BB' : 'AA')
      return [
        ['another person’s', await stateOf()],
        ['for other arguments', await stateOf(tool({ arguments: { n: 2 } }), 'ada')],
        ['tampered with', flipped],
        ['cut', own.slice(0, 40)],
        ['empty', 'onbehalf.'],
        ['made up', `onbehalf.${createHash('sha512').update('x').digest('base64url')}`],
        [
          'for another method',
          own,
          modern('prompts/get', { name: 'echo', arguments: { n: 1 } }),
          modernHeaders('prompts/get', 'echo'),
        ],
      ]
    }

    it('that does not fit is never sent up, with its answer; the upstream’s own answers are', async () => {
      const cases = await misfits()
      await broker.connect('ada')
      for (const [what, state, body = tool(), head = toolHead] of cases) {
        before = upstream.hits.length
        expect([what, (await retry({ state, body, head })).status]).toEqual([what, 200])
        const [hit] = hits()
        const sent = JSON.parse(hit?.body.toString() ?? '{}') as { params: Json }
        expect([what, sent.params['requestState']]).toEqual([what, undefined])
        expect([what, sent.params['inputResponses']]).toEqual([what, { own: { action: 'accept' } }])
      }
    })

    it('that names an encryption key is no news of a missing one, and its words are in no log', async () => {
      const id = Buffer.from('said.by-a.caller')
      const like = Buffer.concat([Buffer.of(0xb7, 1, id.length), id, Buffer.alloc(80)])
      const state = `onbehalf.${like.toString('base64url')}`
      expect((await retry({ person: 'grace', state })).status).toBe(200)
      const told = broker.logged.filter((line) => /encryption_key_missing|said\.by/.test(line))
      expect(told).toEqual([])
    })

    it('for another upstream does not fit', async () => {
      const state = await stateOf(tool(), 'ada')
      const params = {
        ...(tool()['params'] as Json),
        requestState: state,
        inputResponses: { onbehalf_connect: { action: 'decline' } },
      }
      const answer = await ask('ada', { ...tool(), params }, toolHead, { upstream: 'other' })
      // As if without it: asked once more, and not declined.
      expect(answer.body['result']).toMatchObject({ resultType: 'input_required' })
    })

    it('that is the upstream’s passes byte for byte, with everything beside it', async () => {
      await broker.connect('ada')
      before = upstream.hits.length
      const params = { ...(tool()['params'] as Json), requestState: 'of-the-upstream' }
      const text = JSON.stringify(
        { ...tool(), params: { ...params, inputResponses: answers } },
        null,
        3,
      )
      expect((await send('ada', text, toolHead)).status).toBe(200)
      expect(hits().map(({ body }) => body.toString())).toEqual([text])
    })

    it('of ours, played again after its success, is taken out and means nothing', async () => {
      const state = await stateOf(tool(), 'ada')
      await broker.connect('ada')
      before = upstream.hits.length
      for (const _time of [1, 2]) await retry({ state })
      const sent = hits().map(({ body }) => body.toString())
      expect(sent).toHaveLength(2)
      expect(sent.join('')).not.toMatch(/onbehalf|requestState/)
    })
  })

  describe('records', () => {
    const recordsOf = async (requestId: string) =>
      (await broker.records(1)).filter((row) => row.request_id === requestId)

    it.each([
      ['tools/call', tool({}, false), toolHead, ['connect failure']],
      [
        'completion/complete',
        modern('completion/complete'),
        modernHeaders('completion/complete'),
        ['connect failure'],
      ],
      ['tools/list', modern('tools/list'), modernHeaders('tools/list'), []],
      ['server/discover', modern('server/discover'), modernHeaders('server/discover'), []],
    ] as [string, Json, Headers_, string[]][])(
      'of %s before the connection: a prompt leaves one, the gateway’s own answers none',
      async (_method, body, headers, expected) => {
        const requestId = crypto.randomUUID()
        await ask('grace', body, { ...headers, 'x-request-id': requestId })
        // One that is there for certain, after it.
        const last = crypto.randomUUID()
        await ask('grace', tool({}, false), { ...toolHead, 'x-request-id': last })
        await expect.poll(async () => (await recordsOf(last)).length).toBe(1)
        const rows = await recordsOf(requestId)
        expect(rows.map(({ action, outcome }) => `${action} ${outcome}`)).toEqual(expected)
      },
    )

    it('connect_files of a person who is connected leaves none; that of another upstream is a tool like any', async () => {
      await broker.connect('ada')
      before = upstream.hits.length
      const own = crypto.randomUUID()
      const said = await ask('ada', tool({ name: 'connect_files' }), {
        ...modernHeaders('tools/call', 'connect_files'),
        'x-request-id': own,
      })
      expect(JSON.stringify(said.body)).toContain('is connected')
      expect(hits()).toEqual([])
      const last = crypto.randomUUID()
      await ask('ada', tool({ name: 'connect_other' }), {
        ...modernHeaders('tools/call', 'connect_other'),
        'x-request-id': last,
      })
      expect(hits()).toHaveLength(1)
      await expect.poll(async () => (await recordsOf(last)).length).toBe(1)
      expect(await recordsOf(own)).toEqual([])
    })
  })

  describe('a credential that is refused', () => {
    const refresh = () => broker.authorizationServer.requests({ grantType: 'refresh_token' }).length

    it('P16: an upstream that refuses every credential costs at most 5 renewals a minute', async () => {
      await broker.connect('ada')
      upstream.answerWith((_request, response) => response.writeHead(401).end())
      const already = refresh()
      for (let call = 0; call < 8; call += 1) {
        const { status } = await ask('ada', tool({}, false), toolHead)
        expect(status).toBe(502)
      }
      expect(refresh() - already).toBe(5)
    })

    it.each(['2026-07-28', '2025-11-25'])(
      '%s: where nothing can renew it, the answer is the way to connect again',
      async (revision) => {
        await broker.connect('ada')
        const own = revision === '2025-11-25' ? await session('ada') : toolHead
        upstream.answerWith((_request, response) => response.writeHead(401).end())
        broker.authorizationServer.fail(
          endpoints.token,
          { kind: 'answer', status: 400, body: '{"error":"invalid_grant"}' },
          1,
        )
        const call =
          revision === '2025-11-25'
            ? { jsonrpc: '2.0', id: 3, method: 'tools/call', params: { name: 'echo' } }
            : tool({}, false)
        const { status, body } = await ask('ada', call, own)
        expect(status).toBe(200)
        expect(JSON.stringify(body)).toMatch(/"isError":true.*\/connect\/[\w-]{43}/)
      },
    )

    it('P17: a call that the upstream ran before it broke off is not made again', async () => {
      await broker.connect('ada')
      before = upstream.hits.length
      upstream.answerWith((request) => request.socket.destroy())
      const { status, body } = await ask('ada', tool({}, false), toolHead)
      expect([status, body['code']]).toEqual([503, 'upstream_unavailable'])
      expect(hits()).toHaveLength(1)
      let breakOff = () => {}
      upstream.answerWith((request, response) => {
        response.writeHead(200, { 'content-type': 'text/event-stream' })
        response.write('data: {}\n\n')
        breakOff = () => request.socket.destroy()
      })
      const cut = await stream(await send('ada', tool({}, false), toolHead))
      breakOff()
      await expect.poll(cut.ended).toBe('cut')
      expect(hits()).toHaveLength(2)
    })
  })

  describe('streams before the connection', () => {
    it('2026-07-28: listen is acknowledged, told what changed, and goes on as the upstream’s, without its acknowledgement', async () => {
      const notifications = { toolsListChanged: true, promptsListChanged: false }
      const body = modern('subscriptions/listen', { notifications })
      const head = { ...modernHeaders('subscriptions/listen'), 'mcp-session-id': 'of-nobody' }
      const listening = await stream(await send('ada', body, head, { signal: leaver() }))
      await expect.poll(() => listening.events().length).toBe(1)
      expect(listening.events()[0]).toMatchObject({
        method: 'notifications/subscriptions/acknowledged',
        params: { notifications: { toolsListChanged: true } },
      })
      before = upstream.hits.length
      await broker.connect('ada')
      await expect.poll(() => listening.events().length).toBe(3)
      const meta = { 'io.modelcontextprotocol/subscriptionId': 7 }
      expect(listening.events().slice(1)).toEqual([
        expect.objectContaining({
          method: 'notifications/tools/list_changed',
          params: { _meta: meta },
        }),
        expect.objectContaining({ params: { _meta: meta, own: 'ä€' } }),
      ])
      // The client's own message, as its person, and no session that is none of the upstream's business.
      const [hit] = hits()
      expect(JSON.parse(hit?.body.toString() ?? '')).toEqual(body)
      expect(hit?.headers['mcp-session-id']).toBeUndefined()
      expect(listening.text()).not.toContain('acknowledged-by-the-upstream')
      // From here on a disconnect cuts it.
      await disconnect('ada')
      await expect.poll(listening.ended).toBe('cut')
    })

    it('2025: a stream that the upstream does not have stays open, and is cut by a disconnect', async () => {
      const own = await session('ada')
      const waiting = await stream(
        await send('ada', undefined, own, { method: 'GET', signal: leaver() }),
      )
      await broker.connect('ada')
      await expect.poll(() => waiting.events().length).toBeGreaterThan(0)
      expect(waiting.events()[0]).toMatchObject({ method: 'notifications/tools/list_changed' })
      await expect.poll(() => hits().some(({ method }) => method === 'GET')).toBe(true)
      expect(waiting.ended()).toBeUndefined()
      await disconnect('ada')
      await expect.poll(waiting.ended).toBe('cut')
    })

    it('2025: an upstream that fails ends the stream, so that its client opens another', async () => {
      const own = await session('ada')
      const waiting = await stream(
        await send('ada', undefined, own, { method: 'GET', signal: leaver() }),
      )
      upstream.answerWith((request) => request.socket.destroy())
      await broker.connect('ada')
      await expect.poll(waiting.ended).toBe('end')
    })

    it('count among the 100 of their person, who has them again when they end', async () => {
      const own = await session('ada')
      const opened = await Promise.all(
        Array.from({ length: 100 }, () =>
          send('ada', undefined, own, { method: 'GET', signal: leaver() }),
        ),
      )
      expect(new Set(opened.map(({ status }) => status))).toEqual(new Set([200]))
      const tooMany = await send('ada', tool(), toolHead)
      expect([tooMany.status, ((await tooMany.json()) as Json)['code']]).toEqual([
        429,
        'too_many_streams',
      ])
      expect((await send('grace', tool(), toolHead)).status).toBe(200)
      for (const one of leavers.splice(0)) one.abort()
      await expect.poll(async () => (await send('ada', tool(), toolHead)).status).toBe(200)
    })

    it('P19: a reader that takes nothing is let go after `idle`, and the upstream with it', async () => {
      await broker.connect('ada')
      let isLetGo = false
      upstream.answerWith((request, response) => {
        if (request.headers['mcp-method'] !== 'tools/call') return answerAsServer(request, response)
        response.writeHead(200, { 'content-type': 'text/event-stream' })
        const flood = setInterval(() => {
          for (let kib = 0; kib < 512 && response.write(Buffer.alloc(1024, 'x')); kib += 1);
        }, 5)
        response.on('close', () => {
          clearInterval(flood)
          isLetGo = true
        })
      })
      // A socket that nobody reads from: what fetch gave would be let go as soon as it is garbage.
      const { port } = new URL(broker.url)
      const socket = connect(Number(port), '127.0.0.1')
      socket.on('error', () => {}).pause()
      const text = JSON.stringify(tool())
      const head = {
        ...toolHead,
        host: 'x',
        authorization: `Bearer ${await broker.tokenOf('ada')}`,
        'content-length': String(text.length),
      }
      const lines = Object.entries(head).map(([name, value]) => `${name}: ${value}`)
      socket.write(['POST /mcp/files HTTP/1.1', ...lines, '', text].join('\r\n'))
      await expect.poll(() => isLetGo, { timeout: 40_000 }).toBe(true)
      expect(socket.destroyed).toBe(false)
      socket.destroy()
    })
  })

  describe('sessions', () => {
    it('2025: an initialize goes up byte for byte, and its answer may not be packed, which nobody here unpacks', async () => {
      await broker.connect('ada')
      before = upstream.hits.length
      upstream.answerWith((request, response) => {
        const message = JSON.stringify(initialized(0))
        const takesGzip = String(request.headers['accept-encoding']).includes('gzip')
        response.writeHead(200, {
          'content-type': 'application/json',
          'mcp-session-id': 'of-the-upstream',
          ...(takesGzip ? { 'content-encoding': 'gzip' } : {}),
        })
        response.end(takesGzip ? gzipSync(message) : message)
      })
      const text =
        '{ "jsonrpc":"2.0","id":0 ,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"a","version":"1","x":12345678901234567890}}}'
      const answer = await send('ada', text, { 'accept-encoding': 'gzip' })
      expect(await answer.json()).toMatchObject({ result: { protocolVersion: '2025-11-25' } })
      expect(answer.headers.get('mcp-session-id')).toMatch(/^[\w-]{43}$/)
      expect(hits().map(({ body }) => body.toString())).toEqual([text])
    })

    it('2025: an upstream that answers initialize in a stream and does not end it keeps nobody waiting', async () => {
      const asked: unknown[] = []
      upstream.answerWith((request, response) => {
        const { id, method } = JSON.parse(upstream.hits.at(-1)?.body.toString() || '{}') as Json
        asked.push(method)
        if (method !== 'initialize') return answerAsServer(request, response)
        response.writeHead(200, { 'content-type': 'text/event-stream', 'mcp-session-id': 'open' })
        response.write(': first\n\nid: 1\ndata:\n\n')
        const text = `data: ${JSON.stringify(initialized(id))}\n\n`
        response.write(text.slice(0, 50))
        setTimeout(() => response.write(text.slice(50)), 20)
      })
      // Opened by the gateway, before it is by the client.
      const early = await session('ada')
      await broker.connect('ada')
      const call = { jsonrpc: '2.0', id: 7, method: 'tools/call', params: { name: 'echo' } }
      expect(await ask('ada', call, early)).toMatchObject({ status: 200, body: { id: 7 } })
      expect(hits().at(-1)?.headers['mcp-session-id']).toBe('open')
      const own = await session('ada')
      expect(own['mcp-session-id']).toMatch(/^[\w-]{43}$/)
      expect(await ask('ada', call, own)).toMatchObject({ status: 200, body: { id: 7 } })
      expect(asked.filter((method) => method === 'initialize')).toHaveLength(2)
    })

    it('P9: after a connection of another account the upstream’s session is a new one', async () => {
      await broker.connect('ada')
      const own = await session('ada')
      const call = { jsonrpc: '2.0', id: 3, method: 'tools/call', params: { name: 'echo' } }
      expect((await ask('ada', call, own)).status).toBe(200)
      const first = hits().at(-1)
      await disconnect('ada')
      expect(JSON.stringify((await ask('ada', call, own)).body)).toContain('/connect/')
      await broker.connect('ada', 'grace-at-files')
      expect((await ask('ada', call, own)).status).toBe(200)
      const second = hits().at(-1)
      expect(first?.headers['mcp-session-id']).toMatch(/^session-/)
      expect(second?.headers['mcp-session-id']).toMatch(/^session-/)
      expect(second?.headers['mcp-session-id']).not.toBe(first?.headers['mcp-session-id'])
      for (const hit of hits())
        expect(hit.headers['mcp-session-id']).not.toBe(own['mcp-session-id'])
    })

    it.each(['', 'x', 'session-1', '../../x', 'A'.repeat(43), 'A'.repeat(5000)])(
      'P9, P10: the session %j is nobody’s',
      async (id) => {
        await broker.connect('ada')
        before = upstream.hits.length
        const call = { jsonrpc: '2.0', id: 3, method: 'tools/call', params: { name: 'echo' } }
        const { status } = await ask('ada', call, { 'mcp-session-id': id })
        expect(status).toBe(404)
        expect(hits()).toEqual([])
      },
    )

    it('offboarding ends the sessions, and a later bearer finds none', async () => {
      const own = await session('linus')
      const call = { jsonrpc: '2.0', id: 3, method: 'ping' }
      expect((await ask('linus', call, own)).status).toBe(200)
      const rows = () => broker.database.database.sql`
        SELECT 1 FROM gateway_session WHERE user_id = 'linus'`
      expect(await rows()).not.toHaveLength(0)
      const issuer = encodeURIComponent(broker.identityProvider.issuer)
      const path = `/api/v1/admin/users/${issuer}/linus/connections`
      // One that is issued in the next second counts as a later one.
      const authorization = `Bearer ${await broker.tokenOf('linus')}`
      expect((await broker.call('DELETE', path, 'linus')).status).toBe(204)
      expect(await rows()).toHaveLength(0)
      expect((await ask('linus', call, { ...own, authorization })).status).toBe(401)
    })
  })

  it('what a body holds is the client’s business: a token in it goes up as it came', async () => {
    await broker.connect('ada')
    before = upstream.hits.length
    const token = await broker.tokenOf('ada')
    const text = JSON.stringify(tool({ arguments: { token } }))
    const answer = await fetch(`${broker.url}/mcp/files`, {
      method: 'POST',
      headers: {
        ...toolHead,
        authorization: `Bearer ${token}`,
        accept: 'application/json, text/event-stream',
        'x-own': token,
      },
      body: text,
    })
    expect(answer.status).toBe(200)
    const [hit] = hits()
    expect(hit?.body.toString()).toBe(text)
    expect(JSON.stringify(hit?.rawHeaders)).not.toContain(token)
  })
})

let sessions = 0

const initialized = (id: unknown): Json => ({
  jsonrpc: '2.0',
  id,
  result: {
    protocolVersion: '2025-11-25',
    capabilities: { tools: {} },
    serverInfo: { name: 'plain', version: '1' },
  },
})

/** The least that is an MCP server of both eras, without a GET stream. The body was read already. */
function answerAsServer(
  request: IncomingMessage & { body?: Buffer },
  response: ServerResponse,
): void {
  if (request.method !== 'POST') {
    response.writeHead(405).end()
    return
  }
  const method = String(request.headers['mcp-method'] ?? '')
  if (method === 'subscriptions/listen') {
    const meta = { 'io.modelcontextprotocol/subscriptionId': 7 }
    const acknowledged = {
      jsonrpc: '2.0',
      method: 'notifications/subscriptions/acknowledged',
      params: { notifications: {}, _meta: { ...meta, by: 'acknowledged-by-the-upstream' } },
    }
    const own = { jsonrpc: '2.0', method: 'own', params: { _meta: meta, own: 'ä€' } }
    const bytes = Buffer.from(
      `: hello\n\nevent: message\ndata: ${JSON.stringify(acknowledged)}\n\ndata: ${JSON.stringify(own)}\n\n`,
    )
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    // In pieces that end anywhere.
    for (let at = 0; at < bytes.length; at += 11) response.write(bytes.subarray(at, at + 11))
    const alive = setInterval(() => response.write(': still here\n\n'), 300)
    response.on('close', () => clearInterval(alive))
    return
  }
  const begins = method === '' && request.headers['mcp-session-id'] === undefined
  sessions += begins ? 1 : 0
  const id = begins ? { 'mcp-session-id': `session-${sessions}` } : {}
  response.writeHead(200, { 'content-type': 'application/json', ...id })
  const result = { jsonrpc: '2.0', id: 7, result: { resultType: 'complete', content: [] } }
  response.end(JSON.stringify(begins ? initialized(idOf(request)) : result))
}

/** Which of the two asks: the client whose message it is, or the gateway. */
function idOf(request: IncomingMessage): unknown {
  return request.headers['user-agent'] === 'node' ? 0 : 'onbehalf-initialize'
}
