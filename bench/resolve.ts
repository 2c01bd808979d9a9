import { randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { SignJWT } from 'jose'
import { connectTo, openBenchDatabase } from './database.ts'
import { type Child, type RestingMemory, startChild } from './child.ts'
import { load, median, postRequest, quantile } from './load.ts'
import { startTokenEndpoint } from './token-endpoint.ts'

/**
 * Warm and cold `POST /api/v1/resolve` over HTTP, recording on, against a bare Hono route with the same body in and out and
 * against better-auth, in one run, alternating. Ratios count; absolute numbers are of this machine.
 */
const people = 1000
const manyPeople = Number(process.env['BENCH_PEOPLE'] ?? 100_000)
const tokenLength = 800
const connections = 32
const rounds = Number(process.env['BENCH_ROUNDS'] ?? 11)
const sliceMs = 2000
const bars = { throughput: 0.5, p99: 3, cpuUs: 17, memoryMb: 50, betterAuth: 5 }

const issuer = 'http://127.0.0.1/bench-issuer'
const publicUrl = 'http://127.0.0.1:9'
const issuerSecret = randomBytes(32).toString('base64url')
const serviceKey = randomBytes(32).toString('base64url')
const headers = { authorization: `Bearer ${serviceKey}` }

const dataDir = await mkdtemp(join(tmpdir(), 'onbehalf-bench-'))
const database = await openBenchDatabase(dataDir)
const tokenEndpoint = await startTokenEndpoint({ tokenLength })
const bodies = await Promise.all(Array.from({ length: people }, (_, person) => bodyOf(person)))

const brokerEnvironment = {
  BROKER_CONFIG: JSON.stringify(brokerConfig()),
  SAMPLE_REQUESTS: JSON.stringify(
    bodies.slice(0, 100).map((body) => ({
      headers: {
        ...headers,
        'content-type': 'application/json',
        'content-length': String(Buffer.byteLength(body)),
      },
      body,
    })),
  ),
}
let broker = await startChild('broker-server', brokerEnvironment)
const bare = await startChild('bare-server', { TOKEN_LENGTH: String(tokenLength) })
const betterAuth = await startChild('better-auth-server', {
  DATABASE_URL: await database.create('better_auth'),
  TOKEN_LENGTH: String(tokenLength),
  PEOPLE: String(people),
})
const activity = connectTo(database.brokerUrl)

try {
  const failed = [...(await cold()), ...(await warm()), ...(await inProcess()), ...(await memory())]
  console.log(
    failed.length === 0 ? '\nEvery bar was reached.' : `\nNot reached: ${failed.join(', ')}`,
  )
  process.exitCode = failed.length === 0 ? 0 : 1
} finally {
  await activity.end()
  await Promise.all([broker, bare, betterAuth].map((child) => child.stop()))
  tokenEndpoint.close()
  await database.close()
  await rm(dataDir, { recursive: true, force: true })
}

function brokerConfig(): object {
  return {
    public_url: publicUrl,
    listen: { port: 0 },
    data_dir: join(dataDir, 'broker'),
    database: { url: database.brokerUrl },
    encryption: { keys: [{ id: 'k1', secret: randomBytes(32).toString('base64') }] },
    identity: {
      issuers: [{ issuer, algorithms: ['HS256'], secret: issuerSecret }],
      services: [{ id: 'bench', key: serviceKey, upstreams: ['*'] }],
    },
    upstreams: {
      files: {
        url: 'http://127.0.0.1/files',
        kind: 'http',
        credential: {
          mode: 'token_exchange',
          token_endpoint: `${tokenEndpoint.url}/token`,
          client_id: 'bench',
          client_secret: 'bench-secret',
        },
      },
    },
  }
}

/** With a subject token of about 800 characters, as identity providers issue them. */
async function bodyOf(person: number): Promise<string> {
  const token = await new SignJWT({ sub: `person-${person}`, padding: 'x'.repeat(420) })
    .setProtectedHeader({ alg: 'HS256', typ: 'at+jwt' })
    .setIssuer(issuer)
    .setAudience(publicUrl)
    .setIssuedAt()
    .setExpirationTime('6h')
    .sign(Buffer.from(issuerSecret))
  return JSON.stringify({ upstream: 'files', subject_token: token })
}

function requestsOf(some: readonly string[]): Buffer[] {
  return some.map((body) => postRequest('/api/v1/resolve', headers, body))
}

async function cold(): Promise<string[]> {
  const body = await bodyOf(-1)
  const before = tokenEndpoint.requests()
  tokenEndpoint.delayMs = 100
  const calls = Array.from({ length: 200 }, () =>
    fetch(`http://127.0.0.1:${broker.port}/api/v1/resolve`, {
      method: 'POST',
      headers: { ...headers, 'content-type': 'application/json' },
      body,
    }).then(async (answer) => ({ status: answer.status, text: await answer.text() })),
  )
  const answers = await Promise.all(calls)
  tokenEndpoint.delayMs = 0
  const upstream = tokenEndpoint.requests() - before
  const good = answers.filter(({ status }) => status === 200).length
  const values = new Set(answers.map(({ text }) => text)).size
  console.log(
    `cold: 200 concurrent first calls of one person: ${upstream} upstream request(s), ${good} answered, ${values} credential(s)`,
  )
  return upstream === 1 && good === 200 ? [] : ['cold: one upstream request']
}

async function warm(): Promise<string[]> {
  const requests = requestsOf(bodies)
  // Everybody once, so that what follows is warm.
  await fill(bodies)
  const slices = { broker: [] as Sample[], bare: [] as Sample[], betterAuth: [] as Sample[] }
  const betterAuthRequests = Array.from({ length: people }, (_, person) =>
    postRequest('/api/v1/resolve', {}, JSON.stringify({ person })),
  )
  await sample(bare, requests)
  await sample(broker, requests)
  await sample(betterAuth, betterAuthRequests)
  const background = await backgroundReads()
  const scansBefore = await credentialReads()
  const rowsBefore = await activityRows()
  const startedMs = performance.now()
  let calls = 0
  for (let round = 0; round < rounds; round += 1) {
    slices.bare.push(await sample(bare, requests))
    const ours = await sample(broker, requests)
    calls += ours.calls
    slices.broker.push(ours)
    slices.betterAuth.push(await sample(betterAuth, betterAuthRequests))
    process.stderr.write(`\rround ${round + 1} of ${rounds}`)
  }
  process.stderr.write('\r                \r')
  await countersSettled()
  const reads = (await credentialReads()) - scansBefore
  // Twice, because they come with jitter. A warm path that read would do so at every call.
  const mayRead = 2 * background * ((performance.now() - startedMs) / 1000)
  const records = (await activityRows()) - rowsBefore

  const ratio = median(slices.broker.map((s, i) => s.perSecond / (slices.bare[i]?.perSecond ?? 1)))
  const p99 = median(slices.broker.map((s, i) => s.p99Ms / (slices.bare[i]?.p99Ms ?? 1)))
  const times = median(
    slices.broker.map((s, i) => s.perSecond / (slices.betterAuth[i]?.perSecond ?? 1)),
  )
  const failures = slices.broker.reduce((sum, s) => sum + s.failures, 0)
  console.log(
    `\nwarm, ${connections} connections, ${people} people, recording on; medians of ${rounds} alternating rounds`,
  )
  console.table({
    'bare Hono route': tableRow(slices.bare, slices.bare),
    onbehalf: tableRow(slices.broker, slices.bare),
    'better-auth getAccessToken': tableRow(slices.betterAuth, slices.bare),
  })
  console.log(
    `${calls} calls, ${failures} failed, ${records} records written, ${reads} reads of the credential table (background looks alone, unloaded: ${(mayRead / 2).toFixed(0)})`,
  )
  return [
    ...(ratio >= bars.throughput
      ? []
      : [`throughput ratio ${ratio.toFixed(2)} (bar ${bars.throughput})`]),
    ...(p99 <= bars.p99 ? [] : [`p99 ratio ${p99.toFixed(2)} (bar ${bars.p99})`]),
    ...(times >= bars.betterAuth
      ? []
      : [`${times.toFixed(1)} times better-auth (bar ${bars.betterAuth})`]),
    ...(failures === 0 ? [] : ['calls failed']),
    ...(reads <= mayRead ? [] : ['the warm path read the credential table']),
  ]
}

async function inProcess(): Promise<string[]> {
  const cpu = await broker.ask<Record<'broker' | 'bare', CpuPerCall[]>>('cpu')
  const of = (part: keyof CpuPerCall) => ({
    bare: median(cpu.bare.map((round) => round[part])),
    onbehalf: median(cpu.broker.map((round) => round[part])),
    over: median(cpu.broker.map((round, i) => round[part] - (cpu.bare[i]?.[part] ?? 0))),
  })
  const columns = {
    'in the answering thread': of('answering'),
    'in the process, with the writer and the garbage collector': of('process'),
  }
  console.log('\nin process, µs of CPU a warm call; medians of 9 alternating rounds')
  console.table(
    Object.fromEntries(
      Object.entries(columns).map(([name, { bare, onbehalf, over }]) => [
        name,
        {
          'bare Hono route': bare.toFixed(1),
          onbehalf: onbehalf.toFixed(1),
          'over the bare route': over.toFixed(1),
        },
      ]),
    ),
  )
  return Object.entries(columns).flatMap(([name, { over }]) =>
    over <= bars.cpuUs
      ? []
      : [`${over.toFixed(1)} µs over the bare route ${name} (bar ${bars.cpuUs})`],
  )
}

/** Two processes that find the same connections stored and serve as many calls: a few people's, and everybody's. */
async function memory(): Promise<string[]> {
  await everybody()
  const ofFew = await memoryAfter(async () => {
    for (let calls = 0; calls < manyPeople; calls += people) await fill(bodies)
  })
  const ofAll = await memoryAfter(async () => {
    await fill(bodies)
    await everybody()
  })
  const [stored] = await activity<[{ count: number }]>`
    SELECT count(*)::int AS count FROM credential`
  const grown = subtracted(ofAll, ofFew)
  console.log(
    `\nmemory after ${manyPeople} calls; ${stored.count} stored connections. Live: heap and external`,
  )
  console.table({
    [`${people} people called, again and again`]: fixed(ofFew),
    'everybody called once': fixed(ofAll),
    'more for everybody': fixed(grown),
  })
  const { rssMb } = grown.collected
  return rssMb <= bars.memoryMb ? [] : [`${rssMb.toFixed(0)} MB more (bar ${bars.memoryMb})`]
}

async function memoryAfter(calls: () => Promise<void>): Promise<RestingMemory> {
  await broker.stop()
  broker = await startChild('broker-server', brokerEnvironment)
  await calls()
  // Until the records are written.
  await new Promise((resolve) => setTimeout(resolve, 3000))
  return broker.ask<RestingMemory>('memory at rest')
}

async function everybody(): Promise<void> {
  for (let from = people; from < manyPeople; from += 5000) {
    const some = Array.from({ length: Math.min(5000, manyPeople - from) }, (_, i) =>
      bodyOf(from + i),
    )
    await fill(await Promise.all(some))
    process.stderr.write(`\r${Math.min(from + 5000, manyPeople)} of ${manyPeople} people`)
  }
  process.stderr.write('\r                              \r')
}

type CpuPerCall = { answering: number; process: number }
type Sample = { perSecond: number; p50Ms: number; p99Ms: number; failures: number; calls: number }

function subtracted(more: RestingMemory, less: RestingMemory): RestingMemory {
  return {
    rssMb: more.rssMb - less.rssMb,
    collected: {
      rssMb: more.collected.rssMb - less.collected.rssMb,
      heapMb: more.collected.heapMb - less.collected.heapMb,
    },
  }
}

function fixed({ rssMb, collected }: RestingMemory) {
  return {
    'live MB': collected.heapMb.toFixed(0),
    'RSS MB, garbage collected': collected.rssMb.toFixed(0),
    'RSS MB, as the calls left it': rssMb.toFixed(0),
  }
}

async function fill(some: readonly string[]): Promise<void> {
  const waiting = [...some]
  const worker = async () => {
    for (let body = waiting.pop(); body !== undefined; body = waiting.pop()) {
      const answer = await fetch(`http://127.0.0.1:${broker.port}/api/v1/resolve`, {
        method: 'POST',
        headers: { ...headers, 'content-type': 'application/json' },
        body,
      })
      await answer.arrayBuffer()
      if (answer.status !== 200) throw new Error(`a first call was answered ${answer.status}`)
    }
  }
  await Promise.all(Array.from({ length: 32 }, worker))
}

async function sample(child: Child, requests: readonly Buffer[]): Promise<Sample> {
  const slice = await load({ port: child.port, connections, ms: sliceMs, requests })
  return {
    perSecond: slice.requestsPerSecond,
    p50Ms: quantile(slice.latenciesMs, 0.5),
    p99Ms: quantile(slice.latenciesMs, 0.99),
    failures: slice.failures,
    calls: slice.latenciesMs.length,
  }
}

function tableRow(samples: readonly Sample[], base: readonly Sample[]) {
  const ratios = samples
    .map((s, i) => s.perSecond / (base[i]?.perSecond ?? 1))
    .toSorted((a, b) => a - b)
  const p99 = median(samples.map((s, i) => s.p99Ms / (base[i]?.p99Ms ?? 1)))
  const quartile = (q: number) => (ratios[Math.floor(ratios.length * q)] ?? Number.NaN).toFixed(2)
  return {
    'calls/s': Math.round(median(samples.map((s) => s.perSecond))),
    ratio: median(ratios).toFixed(2),
    quartiles: `${quartile(0.25)} to ${quartile(0.75)}`,
    'p50 ms': median(samples.map((s) => s.p50Ms)).toFixed(2),
    'p99 ms': median(samples.map((s) => s.p99Ms)).toFixed(2),
    'p99 ratio': p99.toFixed(2),
  }
}

/** An idle connection of PostgreSQL hands in what it counted after 10 s. */
function countersSettled(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 12_000))
}

/** Reads of the credential table a second while nobody calls: the broker looks for what is to be renewed ahead of its end. */
async function backgroundReads(): Promise<number> {
  await countersSettled()
  const before = await credentialReads()
  const startedMs = performance.now()
  await countersSettled()
  await countersSettled()
  return ((await credentialReads()) - before) / ((performance.now() - startedMs) / 1000)
}

/** Reads of the credential table that PostgreSQL itself counted. */
async function credentialReads(): Promise<number> {
  const [row] = await activity<[{ reads: number }]>`
    SELECT (seq_scan + coalesce(idx_scan, 0))::int AS reads FROM pg_stat_user_tables WHERE relname = 'credential'`
  return row.reads
}

async function activityRows(): Promise<number> {
  const [row] = await activity<[{ count: number }]>`SELECT count(*)::int AS count FROM activity`
  return row.count
}
