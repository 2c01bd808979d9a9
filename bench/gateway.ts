import { randomBytes } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { connect, createServer, type Socket } from 'node:net'
import { spawn } from 'node:child_process'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { SignJWT } from 'jose'
import { startChild } from './child.ts'
import { openBenchDatabase } from './database.ts'
import { load, median, postRequest, quantile } from './load.ts'
import { startTokenEndpoint } from './token-endpoint.ts'

/**
 * Small JSON tool calls through the gateway (authenticate, resolve, record, inject, forward) against a bare pass-through on the
 * same parts, in one run, alternating; nginx beside it. Then ext-authz behind nginx, and what open streams cost.
 */
const connections = 32
const people = 200
const rounds = Number(process.env['BENCH_ROUNDS'] ?? 20)
const streams = Number(process.env['BENCH_STREAMS'] ?? 1000)
const sliceMs = 1000
const bars = { throughput: 0.75, p99: 1.5, streamKb: 60, stalledMb: 32 }

const issuer = 'http://127.0.0.1/bench-issuer'
const publicUrl = 'http://127.0.0.1:9'
const issuerSecret = randomBytes(32).toString('base64url')
const serviceKey = randomBytes(32).toString('base64url')
const nginxProgram = '/usr/sbin/nginx'

const directory = await mkdtemp(join(tmpdir(), 'onbehalf-bench-'))
const database = await openBenchDatabase(directory)
const tokenEndpoint = await startTokenEndpoint({ tokenLength: 800 })
const upstream = await startChild('gateway-upstream', {})
const upstreamUrl = `http://127.0.0.1:${upstream.port}`
const tokens = await Promise.all(Array.from({ length: people }, (_, person) => tokenOf(person)))
const broker = await startChild('broker-server', { BROKER_CONFIG: JSON.stringify(config()) })
const passThrough = await startChild('pass-through-server', { UPSTREAM: upstreamUrl })

try {
  const failed = [
    ...(await toolCalls()),
    ...(await externalAuthorization()),
    ...(await streaming()),
  ]
  console.log(
    failed.length === 0 ? '\nEvery bar was reached.' : `\nNot reached: ${failed.join(', ')}`,
  )
  process.exitCode = failed.length === 0 ? 0 : 1
} finally {
  await Promise.all([broker, passThrough, upstream].map((child) => child.stop()))
  tokenEndpoint.close()
  await database.close()
  await rm(directory, { recursive: true, force: true })
}

function config(): object {
  const credential = {
    mode: 'token_exchange',
    token_endpoint: `${tokenEndpoint.url}/token`,
    client_id: 'bench',
    client_secret: 'bench-secret',
  }
  return {
    public_url: publicUrl,
    listen: { port: 0 },
    data_dir: join(directory, 'broker'),
    database: { url: database.brokerUrl },
    encryption: { keys: [{ id: 'k1', secret: randomBytes(32).toString('base64') }] },
    identity: {
      issuers: [{ issuer, algorithms: ['HS256'], secret: issuerSecret }],
      services: [{ id: 'bench', key: serviceKey, upstreams: ['*'] }],
    },
    upstreams: {
      tools: { url: `${upstreamUrl}/mcp`, kind: 'mcp', credential },
      plain: { url: upstreamUrl, kind: 'http', credential },
    },
  }
}

async function tokenOf(person: number): Promise<string> {
  return new SignJWT({ sub: `person-${person}`, padding: 'x'.repeat(420) })
    .setProtectedHeader({ alg: 'HS256', typ: 'at+jwt' })
    .setIssuer(issuer)
    .setAudience(publicUrl)
    .setIssuedAt()
    .setExpirationTime('6h')
    .sign(Buffer.from(issuerSecret))
}

/** A `tools/call` of 2026-07-28, as every person. */
function callsTo(path: string): Buffer[] {
  const body = JSON.stringify({
    jsonrpc: '2.0',
    id: 1,
    method: 'tools/call',
    params: {
      name: 'search',
      arguments: { query: 'quarterly report', limit: 10 },
      _meta: {
        'io.modelcontextprotocol/protocolVersion': '2026-07-28',
        'io.modelcontextprotocol/clientCapabilities': {},
      },
    },
  })
  const headers = {
    accept: 'application/json, text/event-stream',
    'mcp-protocol-version': '2026-07-28',
    'mcp-method': 'tools/call',
    'mcp-name': 'search',
  }
  return tokens.map((token) =>
    postRequest(path, { ...headers, authorization: `Bearer ${token}` }, body),
  )
}

/** A `tools/call` of 2025-11-25, as every person, each in a session of theirs. */
async function callsInSessions(): Promise<Buffer[]> {
  const common = {
    accept: 'application/json, text/event-stream',
    'mcp-protocol-version': '2025-11-25',
  }
  const body = JSON.stringify({
    jsonrpc: '2.0',
    id: 1,
    method: 'tools/call',
    params: { name: 'search', arguments: { query: 'quarterly report', limit: 10 } },
  })
  const requests: Buffer[] = []
  for (const token of tokens) {
    const authorization = `Bearer ${token}`
    const begun = await fetch(`http://127.0.0.1:${broker.port}/mcp/tools`, {
      method: 'POST',
      headers: { ...common, 'content-type': 'application/json', authorization },
      body: JSON.stringify({
        jsonrpc: '2.0',
        id: 0,
        method: 'initialize',
        params: {
          protocolVersion: '2025-11-25',
          capabilities: {},
          clientInfo: { name: 'bench', version: '1' },
        },
      }),
    })
    await begun.text()
    const session = begun.headers.get('mcp-session-id')
    if (session === null) throw new Error(`no session: ${begun.status}`)
    const headers = { ...common, 'mcp-session-id': session, authorization }
    requests.push(postRequest('/mcp/tools', headers, body))
  }
  return requests
}

async function toolCalls(): Promise<string[]> {
  const nginx = await startNginx(
    `location / { proxy_pass http://upstream; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Authorization "Bearer constant"; }`,
  )
  const contestants = {
    'Hono + undici dispatch': { port: passThrough.port, requests: callsTo('/mcp') },
    'onbehalf /mcp': { port: broker.port, requests: callsTo('/mcp/tools') },
    'onbehalf /mcp, in sessions of 2025': {
      port: broker.port,
      requests: await callsInSessions(),
    },
    'onbehalf /proxy': { port: broker.port, requests: callsTo('/proxy/plain/mcp') },
    ...(nginx === undefined
      ? {}
      : { 'nginx proxy_pass': { port: nginx.port, requests: callsTo('/mcp') } }),
  }
  const samples = await alternate(contestants)
  nginx?.stop()
  const base = 'Hono + undici dispatch'
  console.log(
    `\nsmall tool calls, ${connections} connections, ${people} people, recording on; medians of ${rounds} alternating rounds`,
  )
  console.table(tableOf(samples, base))
  console.log(
    'Whoever needs more than one Node process gives puts nginx in front and lets it ask /ext-authz.',
  )
  const ours = ratiosOf(samples, 'onbehalf /mcp', base)
  return [
    ...(ours.throughput >= bars.throughput
      ? []
      : [`gateway throughput ${ours.throughput.toFixed(2)} (bar ${bars.throughput})`]),
    ...(ours.p99 <= bars.p99 ? [] : [`gateway p99 ratio ${ours.p99.toFixed(2)} (bar ${bars.p99})`]),
  ]
}

async function externalAuthorization(): Promise<string[]> {
  const ask = (question: string) => `
    location / { auth_request /_ask; proxy_pass http://upstream; proxy_http_version 1.1; proxy_set_header Connection ""; }
    location = /_ask { internal; ${question} proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_pass_request_body off; proxy_set_header Content-Length "";
      proxy_set_header X-Onbehalf-Service-Key "${serviceKey}"; }`
  const constant = await startNginx(
    ask('proxy_pass http://constant/;'),
    'server { listen unix:CONSTANT; location / { return 200; } }',
  )
  const asking = await startNginx(ask('proxy_pass http://onbehalf/ext-authz/plain;'))
  if (constant === undefined || asking === undefined) {
    console.log('\nnginx is not installed: ext-authz behind it was not measured')
    return []
  }
  const samples = await alternate({
    'nginx auth_request to a constant 200': { port: constant.port, requests: callsTo('/mcp') },
    'nginx auth_request to onbehalf': { port: asking.port, requests: callsTo('/mcp') },
  })
  constant.stop()
  asking.stop()
  console.log('\next-authz behind nginx')
  console.table(tableOf(samples, 'nginx auth_request to a constant 200'))
  return []
}

async function streaming(): Promise<string[]> {
  const before = await broker.ask<{ rssMb: number }>('memory')
  const sockets = await openStreams(streams, '/proxy/plain/events')
  const after = await broker.ask<{ rssMb: number }>('memory')
  for (const socket of sockets) socket.destroy()
  const perStreamKb = ((after.rssMb - before.rssMb) * 1024) / streams
  const [stalled] = await openStreams(1, '/proxy/plain/flood')
  stalled?.pause()
  const quiet = await broker.ask<{ rssMb: number }>('memory')
  await new Promise((resolve) => setTimeout(resolve, 5000))
  const later = await broker.ask<{ rssMb: number }>('memory')
  stalled?.destroy()
  const grownMb = later.rssMb - quiet.rssMb
  console.log(`\n${streams} open event streams: ${perStreamKb.toFixed(1)} KB of memory each`)
  console.log(`a reader that stalled for 5 s before a flood: ${grownMb.toFixed(1)} MB more`)
  return [
    ...(perStreamKb <= bars.streamKb ? [] : [`${perStreamKb.toFixed(0)} KB a stream`]),
    ...(grownMb <= bars.stalledMb ? [] : [`a stalled reader: ${grownMb.toFixed(0)} MB`]),
  ]
}

/** Opens streams as many people, and waits for the first event of each. */
function openStreams(count: number, path: string) {
  return Promise.all(
    Array.from(
      { length: count },
      (_, index) =>
        new Promise<Socket>((resolve, reject) => {
          const socket = connect({ port: broker.port, host: '127.0.0.1' })
          socket.on('error', reject)
          socket.once('data', () => resolve(socket))
          socket.write(
            `GET ${path} HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: text/event-stream\r\nauthorization: Bearer ${tokens[index % people]}\r\n\r\n`,
          )
        }),
    ),
  )
}

type Sample = { readonly perSecond: number; readonly p50Ms: number; readonly p99Ms: number }

async function alternate(
  contestants: Readonly<Record<string, { port: number; requests: readonly Buffer[] }>>,
): Promise<Record<string, Sample[]>> {
  const samples: Record<string, Sample[]> = {}
  for (let round = -1; round < rounds; round += 1) {
    for (const [name, { port, requests }] of Object.entries(contestants)) {
      const slice = await load({ port, connections, ms: sliceMs, requests })
      if (slice.failures > 0) throw new Error(`${name}: ${slice.failures} calls failed`)
      // The first round is everybody's first call.
      if (round < 0) continue
      const list = (samples[name] ??= [])
      list.push({
        perSecond: slice.requestsPerSecond,
        p50Ms: quantile(slice.latenciesMs, 0.5),
        p99Ms: quantile(slice.latenciesMs, 0.99),
      })
    }
    process.stderr.write(`\rround ${round + 1} of ${rounds}`)
  }
  process.stderr.write('\r                    \r')
  return samples
}

function ratiosOf(samples: Record<string, Sample[]>, name: string, base: string) {
  const ours = samples[name] ?? []
  const bases = samples[base] ?? []
  const throughputs = ours
    .map((one, i) => one.perSecond / (bases[i]?.perSecond ?? 1))
    .toSorted((a, b) => a - b)
  const quartile = (q: number) =>
    (throughputs[Math.floor(throughputs.length * q)] ?? NaN).toFixed(2)
  return {
    throughput: median(throughputs),
    quartiles: `${quartile(0.25)} to ${quartile(0.75)}`,
    p99: median(ours.map((one, i) => one.p99Ms / (bases[i]?.p99Ms ?? 1))),
  }
}

function tableOf(samples: Record<string, Sample[]>, base: string) {
  return Object.fromEntries(
    Object.entries(samples).map(([name, list]) => {
      const { throughput, quartiles, p99 } = ratiosOf(samples, name, base)
      return [
        name,
        {
          'calls/s': Math.round(median(list.map((one) => one.perSecond))),
          ratio: throughput.toFixed(2),
          quartiles,
          'p50 ms': median(list.map((one) => one.p50Ms)).toFixed(2),
          'p99 ms': median(list.map((one) => one.p99Ms)).toFixed(2),
          'p99 ratio': p99.toFixed(2),
        },
      ]
    }),
  )
}

/** One worker, connections kept; undefined where nginx is not installed. */
async function startNginx(
  locations: string,
  more = '',
): Promise<{ readonly port: number; stop(): void } | undefined> {
  const own = await mkdtemp(join(directory, 'nginx-'))
  const port = await freePort()
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
    .map((kind) => `${kind}_temp_path ${own}/${kind};`)
    .join(' ')
  const file = join(own, 'nginx.conf')
  await writeFile(
    file,
    `daemon off; worker_processes 1; ${process.getuid?.() === 0 ? 'user root;' : ''} pid ${own}/pid; error_log ${own}/error.log;
    events {} http { access_log off; ${temporary} keepalive_requests 1000000;
      upstream upstream { server 127.0.0.1:${upstream.port}; keepalive 64; keepalive_requests 1000000; }
      upstream onbehalf { server 127.0.0.1:${broker.port}; keepalive 64; keepalive_requests 1000000; }
      upstream constant { server unix:${own}/constant; keepalive 64; keepalive_requests 1000000; }
      ${more.replace('CONSTANT', `${own}/constant`)}
      server { listen 127.0.0.1:${port}; ${locations} } }`,
  )
  const child = spawn(nginxProgram, ['-p', own, '-c', file], { stdio: 'ignore' })
  const missing = await new Promise<boolean>((resolve) => {
    child.once('error', () => resolve(true))
    setTimeout(() => resolve(child.exitCode !== null), 500)
  })
  return missing ? undefined : { port, stop: () => void child.kill('SIGTERM') }
}

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number }
      server.close(() => resolve(port))
    })
  })
}
