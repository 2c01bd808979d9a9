import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { startTestBroker, type TestBroker } from '../support/broker.ts'
import { type BrokerServers, startBrokerServers } from '../support/broker-servers.ts'
import { type EventReader, readEvents } from '../support/event-reader.ts'
import { type PlainUpstream, startPlainUpstream } from '../support/plain-upstream.ts'
import { rawExchange } from '../support/raw-exchange.ts'
import { ensureBuilt, type Program, startProgram } from '../support/program.ts'

const initialize = {
  jsonrpc: '2.0',
  id: 0,
  method: 'initialize',
  params: {
    protocolVersion: '2025-11-25',
    capabilities: {},
    clientInfo: { name: 'raw', version: '1' },
  },
}

const listen = {
  jsonrpc: '2.0',
  id: 1,
  method: 'subscriptions/listen',
  params: {
    notifications: { toolsListChanged: true },
    _meta: { 'io.modelcontextprotocol/protocolVersion': '2026-07-28' },
  },
}

type Door = { readonly url: string; readonly token: string }

function send(
  { url, token }: Door,
  path: string,
  method = 'GET',
  body?: unknown,
  headers: Record<string, string> = {},
): Promise<Response> {
  return fetch(`${url}${path}`, {
    method,
    headers: {
      authorization: `Bearer ${token}`,
      accept: 'application/json, text/event-stream',
      ...headers,
    },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  })
}

/** The streams of a person who is not connected, of both eras. */
async function waitingStreams(door: Door): Promise<readonly EventReader[]> {
  const begun = await send(door, '/mcp/files', 'POST', initialize)
  await begun.text()
  const session = { 'mcp-session-id': begun.headers.get('mcp-session-id') ?? '' }
  const modern = { 'mcp-protocol-version': '2026-07-28', 'mcp-method': 'subscriptions/listen' }
  const streams = [
    readEvents(await send(door, '/mcp/files', 'GET', undefined, session)),
    readEvents(await send(door, '/mcp/files', 'POST', listen, modern)),
  ]
  for (const { text } of streams) await expect.poll(text).not.toBe('')
  return streams
}

/** An upstream that begins a stream: it ends `/ends` when it is told to, and no other. */
async function startStreamingUpstream(): Promise<PlainUpstream & { finish: () => void }> {
  const upstream = await startPlainUpstream()
  let finish = () => {}
  upstream.answerWith((request, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.write('data: {"method":"first"}\n\n')
    if (request.url === '/base/ends') {
      finish = () => response.end('data: {"method":"last"}\n\n')
    }
  })
  return Object.assign(upstream, { finish: () => finish() })
}

const methods = (reader: EventReader) => reader.messages().map(({ method }) => method)

describe('a broker that is told to stop while streams are open', () => {
  let upstream: Awaited<ReturnType<typeof startStreamingUpstream>>
  let broker: TestBroker

  beforeAll(async () => {
    upstream = await startStreamingUpstream()
    broker = await startTestBroker({
      timings: { graceMs: 8000 },
      change(config) {
        config.upstreams.reports['url'] = `${upstream.url}/base`
      },
    })
  })
  afterAll(async () => {
    await broker.stop()
    await upstream.stop()
  })

  it('lets those finish that end in time, cuts those that do not, and those that wait end at once', async () => {
    const stopping = await broker.startBeside()
    const door = { url: stopping.url, token: await broker.tokenOf('grace') }
    const waiting = await waitingStreams(door)
    const requestIds: string[] = [crypto.randomUUID(), crypto.randomUUID()]
    const [ends, never] = await Promise.all(
      ['/ends', '/never'].map(async (path, at) => {
        const headers = { 'x-request-id': requestIds[at] ?? '' }
        const answer = await send(door, `/proxy/reports${path}`, 'GET', undefined, headers)
        return readEvents(answer)
      }),
    )
    const open = [ends, never].filter((reader) => reader !== undefined)
    for (const reader of open) await expect.poll(() => methods(reader)).toEqual(['first'])
    const aborted = upstream.aborted()

    let isStopped = false
    const stopped = stopping.stop().then(() => {
      isStopped = true
    })
    await expect.poll(() => waiting.map((reader) => reader.ended())).toEqual(['end', 'end'])
    expect([isStopped, ...open.map((reader) => reader.ended())]).toEqual([
      false,
      undefined,
      undefined,
    ])
    // Nobody new comes in. One who is there still may, for a moment: fetch would use the connection of a stream that ended.
    const { hostname: host, port } = new URL(stopping.url)
    await expect(rawExchange({ host, port: Number(port) }, '')).rejects.toThrow('ECONNREFUSED')
    upstream.finish()
    await expect.poll(() => ends?.ended()).toBe('end')
    expect(ends && methods(ends)).toEqual(['first', 'last'])
    // Whoever reads this one must not take it for whole.
    await expect.poll(() => never?.ended()).toBe('cut')
    await stopped
    await expect.poll(() => upstream.aborted()).toBe(aborted + 1)
    const outcomes = async () => {
      const rows = await broker.records(2)
      return rows.filter((row) => requestIds.includes(row.request_id)).map(({ outcome }) => outcome)
    }
    await expect.poll(outcomes).toEqual(['success', 'success'])
  })
})

describe('SIGTERM while streams are open', () => {
  let servers: BrokerServers
  let upstream: Awaited<ReturnType<typeof startStreamingUpstream>>
  let directory: string
  let program: Program | undefined

  beforeAll(ensureBuilt, 120_000)
  beforeAll(async () => {
    upstream = await startStreamingUpstream()
    servers = await startBrokerServers({
      change(config) {
        config.upstreams.reports['url'] = `${upstream.url}/base`
      },
    })
    directory = await mkdtemp(join(tmpdir(), 'onbehalf-shutdown-'))
    const config = { ...servers.config, listen: { port: 0 }, data_dir: './data' }
    await writeFile(join(directory, 'onbehalf.yaml'), JSON.stringify(config))
  })
  afterEach(async () => {
    program?.kill('SIGKILL')
    await program?.ended
  })
  afterAll(async () => {
    await servers.stop()
    await upstream.stop()
    await rm(directory, { recursive: true, force: true, maxRetries: 5 })
  })

  it('the last one ends, the process with it, and it exits with 0', async () => {
    program = startProgram(['serve'], { cwd: directory })
    const url = await program.ready()
    const door = { url, token: await servers.identityProvider.issueAccessToken('grace') }
    const waiting = await waitingStreams(door)
    const ends = readEvents(await send(door, '/proxy/reports/ends'))
    await expect.poll(() => methods(ends)).toEqual(['first'])
    program.kill('SIGTERM')
    await program.logged('stopping')
    await expect.poll(() => waiting.map((reader) => reader.ended())).toEqual(['end', 'end'])
    // Supervisors repeat it.
    program.kill('SIGTERM')
    expect(ends.ended()).toBeUndefined()
    upstream.finish()
    expect(await program.ended).toMatchObject({ code: 0, signal: null, stderr: '' })
    expect([ends.ended(), methods(ends)]).toEqual(['end', ['first', 'last']])
  })
})
