import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { connect } from 'node:net'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { createBodyRoom } from '../../src/gateway/mcp/body-room.ts'
import { startTestBroker, type TestBroker } from '../support/broker.ts'
import { type PlainUpstream, startPlainUpstream } from '../support/plain-upstream.ts'

type Json = Record<string, unknown>

const mebibyte = 1024 * 1024

/** What one person can do to the others with messages that are too much of something. */
describe('/mcp, with large messages', () => {
  let upstream: PlainUpstream
  let broker: TestBroker

  beforeAll(async () => {
    upstream = await startPlainUpstream()
    broker = await startTestBroker({ filesUrl: `${upstream.url}/mcp` })
    upstream.answerWith((_request, response) => {
      const result = { jsonrpc: '2.0', id: 7, result: { resultType: 'complete', content: [] } }
      response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(result))
    })
  })
  afterAll(async () => {
    await broker.stop()
    await upstream.stop()
  })
  let before = 0
  beforeEach(() => {
    before = upstream.hits.length
  })
  /** What reached the upstream, but for the gateway's own question. */
  const hits = () =>
    upstream.hits.slice(before).filter(({ body }) => !body.includes('onbehalf-discover'))

  async function send(person: string, body: string, headers: Record<string, string> = {}) {
    const answer = await fetch(`${broker.url}/mcp/files`, {
      method: 'POST',
      headers: {
        authorization: `Bearer ${await broker.tokenOf(person)}`,
        accept: 'application/json, text/event-stream',
        'content-type': 'application/json',
        ...headers,
      },
      body,
    })
    const text = await answer.text()
    return { status: answer.status, body: (text === '' ? {} : JSON.parse(text)) as Json }
  }

  const toolHead = {
    'mcp-protocol-version': '2026-07-28',
    'mcp-method': 'tools/call',
    'mcp-name': 'echo',
  }
  const tool = (given: Json, name = 'echo'): string => {
    const _meta = {
      'io.modelcontextprotocol/protocolVersion': '2026-07-28',
      'io.modelcontextprotocol/clientCapabilities': { elicitation: { url: {} } },
    }
    const params = { name, ...given, _meta }
    return JSON.stringify({ jsonrpc: '2.0', id: 7, method: 'tools/call', params })
  }

  describe('V25: values without number, each of which takes many times its bytes once it is read', () => {
    it.each(['{},', '[],', '1,', '"",', '{"a":0},'])('%s: 413', async (value) => {
      const list = `[${value.repeat(600_000)}0]`
      const answer = await send(
        'grace',
        tool({ arguments: 'LIST' }).replace('"LIST"', list),
        toolHead,
      )
      expect([answer.status, answer.body['code']]).toEqual([413, 'payload_too_large'])
      expect(hits()).toEqual([])
    })

    it('what looks like them in a text is a text', async () => {
      await broker.connect('ada')
      const text = '{},[],\\"\\\\'.repeat(600_000)
      const body = tool({ arguments: { text } })
      expect((await send('ada', body, toolHead)).status).toBe(200)
      expect(hits().map((hit) => hit.body.equals(Buffer.from(body)))).toEqual([true])
      await broker.call('DELETE', '/api/v1/connections/files', 'ada')
    })

    it('a batch of a hundred thousand messages is none', async () => {
      const batch = `[${'{"jsonrpc":"2.0","method":"x"},'.repeat(100_000)}{"jsonrpc":"2.0","method":"x"}]`
      expect((await send('grace', batch)).status).toBe(400)
    })
  })

  describe('a large message is a message like any', () => {
    const big = { text: 'ä'.repeat(mebibyte), list: [1, { a: '\\"' }] }

    it('its prompt, and its retry, which goes up without what is ours', async () => {
      const prompt = await send('ada', tool({ arguments: big }), toolHead)
      const { resultType, requestState } = prompt.body['result'] as Json
      expect(resultType).toBe('input_required')
      await broker.connect('ada')
      const inputResponses = { onbehalf_connect: { action: 'accept' }, own: { action: 'accept' } }
      const retry = tool({ arguments: big, requestState, inputResponses })
      expect((await send('ada', retry, toolHead)).status).toBe(200)
      const sent = JSON.parse(hits()[0]?.body.toString() ?? '{}') as { params: Json }
      const { _meta, ...params } = sent.params
      const own = { own: { action: 'accept' } }
      expect(params).toEqual({ name: 'echo', arguments: big, inputResponses: own })
      await broker.call('DELETE', '/api/v1/connections/files', 'ada')
    })

    it('a state that is written like ours is never sent up, however long it is', async () => {
      await broker.connect('ada')
      const requestState = `onbehalf.${'A'.repeat(mebibyte)}`
      expect((await send('ada', tool({ requestState }), toolHead)).status).toBe(200)
      expect(hits().map(({ body }) => body.includes('onbehalf.'))).toEqual([false])
      await broker.call('DELETE', '/api/v1/connections/files', 'ada')
    })

    it('a name that no head can repeat agrees with none, and with the lack of one neither', async () => {
      const body = tool({}, 'echo'.repeat(mebibyte))
      const { 'mcp-name': _name, ...nameless } = toolHead
      expect((await send('grace', body, toolHead)).status).toBe(400)
      expect((await send('grace', body, nameless)).status).toBe(400)
    })
  })

  it('T12: one that is deeper than any stack asks for its person, and its retry goes up', async () => {
    const deep = `${'{"b":['.repeat(60_000)}{"z":0,"a":"\\u0000"},2${']}'.repeat(60_000)}`
    const withDeep = (given: Json) => tool({ arguments: 'DEEP', ...given }).replace('"DEEP"', deep)
    const prompt = await send('ada', withDeep({}), toolHead)
    const { resultType, requestState } = prompt.body['result'] as Json
    expect(resultType).toBe('input_required')
    await broker.connect('ada')
    const inputResponses = { onbehalf_connect: { action: 'accept' } }
    const retry = withDeep({ requestState, inputResponses })
    expect((await send('ada', retry, toolHead)).status).toBe(200)
    expect(hits().map(({ body }) => body.toString())).toEqual([withDeep({})])
    await broker.call('DELETE', '/api/v1/connections/files', 'ada')
  })

  it('V19: two of the largest that do not come to their end keep their person’s next one waiting, and nothing else', async () => {
    const { hostname, port } = new URL(broker.url)
    const token = await broker.tokenOf('grace')
    async function begin() {
      const socket = connect(Number(port), hostname)
      const head = `POST /mcp/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${token}\r\n`
      const announced = `Content-Length: ${64 * mebibyte}\r\n\r\n`
      socket.on('error', () => {}).write(`${head}${announced}${'x'.repeat(100_000)}`)
      await once(socket, 'ready')
      return socket
    }
    const [first, second] = [await begin(), await begin()]
    const small = async (person: string) => {
      expect((await send(person, tool({}), toolHead)).status).toBe(200)
    }
    const large = tool({ arguments: { text: 'x'.repeat(100_000) } })
    // Long enough for what those two began with to have arrived.
    for (let call = 0; call < 10; call += 1) await small('grace')
    const events: string[] = []
    const third = send('grace', large, toolHead).then(({ status }) =>
      events.push(`third: ${status}`),
    )
    for (let call = 0; call < 10; call += 1) await small('grace')
    await small('ada')
    expect((await send('ada', large, toolHead)).status).toBe(200)
    events.push('the first leaves')
    first.destroy()
    await third
    expect(events).toEqual(['the first leaves', 'third: 200'])
    second.destroy()
  })

  describe('V18: what an initialize leaves behind', () => {
    const initialize = (more: Json) => {
      const params = { protocolVersion: '2025-11-25', capabilities: {}, ...more }
      return JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'initialize', params })
    }
    const deep = `${'['.repeat(20_000)}${']'.repeat(20_000)}`
    const { sql } = { sql: () => broker.database.database.sql }
    const sessionsOf = async (person: string) => {
      const [row] = await sql()<{ count: number }[]>`
        SELECT count(*)::int FROM gateway_session WHERE user_id = ${person}`
      return row?.count
    }

    it.each<[string, () => string, number]>([
      ['too long', () => initialize({ x: 'x'.repeat(70_000) }), 413],
      ['too deep', () => initialize({ x: 'DEEP' }).replace('"DEEP"', deep), 400],
      ['with a NUL', () => initialize({ x: 'a\0b' }), 400],
      ['with a NUL in a name', () => initialize({ 'a\0b': 1 }), 400],
      ['with half of a surrogate pair', () => initialize({ x: '\ud800' }), 400],
    ])('%s: %2$i, and no row', async (_what, body, status) => {
      expect((await send('grace', body())).status).toBe(status)
      expect(await sessionsOf('grace')).toBe(0)
    })

    it.each<[string, Json]>([
      ['too long', { x: 'x'.repeat(70_000) }],
      ['with a NUL', { x: 'a\0b' }],
      ['too deep', { x: 'DEEP' }],
    ])(
      'what an upstream says of itself, %s, reaches who asked, and is told to nobody else',
      async (_what, x) => {
        await broker.connect('ada')
        const capabilities = { logging: {}, ...x }
        upstream.answerWith((_request, response) => {
          const result = { protocolVersion: '2025-11-25', capabilities, serverInfo: {} }
          const text = JSON.stringify({ jsonrpc: '2.0', id: 1, result }).replace('"DEEP"', deep)
          response.writeHead(200, { 'content-type': 'application/json' }).end(text)
        })
        expect((await send('ada', initialize({}))).body).toMatchObject({
          result: { capabilities: { logging: {} } },
        })
        await broker.call('DELETE', '/api/v1/connections/files', 'ada')
        const { body } = await send('grace', initialize({}))
        expect((body['result'] as Json)['capabilities']).not.toHaveProperty('logging')
        await sql()`DELETE FROM gateway_session`
      },
    )

    it('of a person’s sessions at an upstream the thousand that were used last stay, and everybody else’s', async () => {
      const { issuer } = broker.identityProvider
      const row = (person: string, upstreamName: string, at: number) => ({
        id_hash: randomBytes(32),
        issuer,
        user_id: person,
        upstream: upstreamName,
        initialize: sql().json({}),
        revision: '2025-11-25',
        elicitations: [],
        used_at: new Date(Date.now() - at * 1000),
      })
      const rows = [
        ...Array.from({ length: 1200 }, (_, at) => row('ada', 'files', at)),
        row('ada', 'other', 100_000),
        row('grace', 'files', 100_000),
      ]
      await sql()`INSERT INTO gateway_session ${sql()(rows)}`
      expect((await send('ada', initialize({}))).status).toBe(200)
      expect(await sessionsOf('ada')).toBe(1001)
      expect(await sessionsOf('grace')).toBe(1)
      const [newest] = await sql()<{ count: number }[]>`
        SELECT count(*)::int FROM gateway_session
        WHERE user_id = 'ada' AND used_at > now() - interval '16 minutes'`
      expect(newest?.count).toBeGreaterThan(900)
    })
  })
})

describe('V19: room for the large bodies of a person', () => {
  const ada = { issuer: 'https://idp.example.com', userId: 'ada' }
  const grace = { ...ada, userId: 'grace' }

  it('is there for two of the largest, and for the next when one of them is done', async () => {
    const { take } = createBodyRoom()
    const first = await take(ada, 64 * mebibyte)
    await take(ada, 64 * mebibyte)
    const entered: string[] = []
    void take(ada, 64 * mebibyte).then(() => entered.push('third'))
    // In their order: a large one is not kept waiting by small ones.
    void take(ada, 1).then(() => entered.push('fourth'))
    await take(grace, 64 * mebibyte).then(() => entered.push('of another'))
    expect(entered).toEqual(['of another'])
    first.leave()
    await expect.poll(() => entered).toEqual(['of another', 'third'])
  })

  it('is given back for what a body turns out not to be', async () => {
    const { take } = createBodyRoom()
    const entered: string[] = []
    const first = await take(ada, 64 * mebibyte)
    const second = await take(ada, 64 * mebibyte)
    void take(ada, 64 * mebibyte).then(() => entered.push('third'))
    first.keep(mebibyte)
    second.keep(mebibyte)
    await expect.poll(() => entered).toEqual(['third'])
    first.leave()
    second.leave()
  })
})
