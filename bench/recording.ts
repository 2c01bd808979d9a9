import { randomBytes } from 'node:crypto'
import fs from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { SignJWT } from 'jose'
import { createAuditRecorder } from '../dist/audit/recorder.js'
import { uuidV7 } from '../dist/audit/uuid-v7.js'
import { type Child, startChild } from './child.ts'
import { openBenchDatabase } from './database.ts'
import { load, median, postRequest, quantile } from './load.ts'
import { startTokenEndpoint } from './token-endpoint.ts'

/**
 * What recording costs: warm `POST /api/v1/resolve` with recording on (`process`, `disk`) against the same broker without a
 * recorder, in one run, alternating; one caller against one fdatasync; and its CPU in the thread that answers. The
 * database and the thread that writes to it work meanwhile, on the same cores. Ratios count.
 */
const people = 1000
const connections = 64
const rounds = Number(process.env['BENCH_ROUNDS'] ?? 11)
const sliceMs = 1500
const oneCallerMs = 1000
const bars = { process: 0.8, disk: 0.6, syncs: 1.5, cpuUs: 2 }

const issuer = 'http://127.0.0.1/bench-issuer'
const publicUrl = 'http://127.0.0.1:9'
const issuerSecret = randomBytes(32).toString('base64url')
const serviceKey = randomBytes(32).toString('base64url')
const encryptionKey = randomBytes(32).toString('base64')
const headers = { authorization: `Bearer ${serviceKey}` }

const dataDir = await mkdtemp(join(tmpdir(), 'onbehalf-bench-'))
const database = await openBenchDatabase(dataDir)
const tokenEndpoint = await startTokenEndpoint({ tokenLength: 800 })
const bodies = await Promise.all(Array.from({ length: people }, (_, person) => bodyOf(person)))
const requests = bodies.map((body) => postRequest('/api/v1/resolve', headers, body))
const kinds = ['off', 'process', 'disk'] as const
type Kind = (typeof kinds)[number]
const brokers: Record<Kind, Child> = {
  off: await startBroker('off'),
  process: await startBroker('process'),
  disk: await startBroker('disk'),
}

try {
  for (const kind of kinds) await fill(brokers[kind])
  const failed = [...(await manyCallers()), ...(await oneCaller()), ...(await ownCpu())]
  console.log(
    failed.length === 0 ? '\nEvery bar was reached.' : `\nNot reached: ${failed.join(', ')}`,
  )
  process.exitCode = failed.length === 0 ? 0 : 1
} finally {
  await Promise.all(kinds.map((kind) => brokers[kind].stop()))
  tokenEndpoint.close()
  await database.close()
  await rm(dataDir, { recursive: true, force: true })
}

function startBroker(kind: Kind): Promise<Child> {
  const config = {
    public_url: publicUrl,
    listen: { port: 0 },
    data_dir: join(dataDir, kind),
    database: { url: database.brokerUrl },
    encryption: { keys: [{ id: 'k1', secret: encryptionKey }] },
    identity: {
      issuers: [{ issuer, algorithms: ['HS256'], secret: issuerSecret }],
      services: [{ id: 'bench', key: serviceKey, upstreams: ['*'] }],
    },
    audit: { durability: kind === 'disk' ? 'disk' : 'process' },
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
  const environment = { BROKER_CONFIG: JSON.stringify(config) }
  return startChild('recording-server', {
    ...environment,
    RECORDING: kind === 'off' ? 'off' : 'on',
  })
}

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

async function manyCallers(): Promise<string[]> {
  const slices: Record<Kind, Sample[]> = { off: [], process: [], disk: [] }
  for (const kind of kinds) await sample(kind, connections, sliceMs)
  for (let round = 0; round < rounds; round += 1) {
    // In another order each time: who comes second meets what the first left in caches and buffers.
    for (const kind of round % 2 === 0 ? kinds : kinds.toReversed()) {
      slices[kind].push(await sample(kind, connections, sliceMs))
    }
    process.stderr.write(`\rround ${round + 1} of ${rounds}`)
  }
  process.stderr.write('\r                \r')
  console.log(`\nwarm, ${connections} callers; medians of ${rounds} alternating rounds`)
  console.table(Object.fromEntries(kinds.map((kind) => [kind, row(slices[kind], slices.off)])))
  const failures = kinds.flatMap((kind) => slices[kind]).reduce((sum, s) => sum + s.failures, 0)
  const missed = (['process', 'disk'] as const).flatMap((kind) => {
    const ratio = median(ratiosOf(slices[kind], slices.off))
    return ratio >= bars[kind] ? [] : [`${kind}: ${ratio.toFixed(2)} (bar ${bars[kind]})`]
  })
  return failures === 0 ? missed : [...missed, `${failures} calls failed`]
}

/** What an answer waits longer with `disk`, against one small write and its fdatasync in the same minute. */
async function oneCaller(): Promise<string[]> {
  const added: number[] = []
  const synced: number[] = []
  for (let round = 0; round < rounds; round += 1) {
    const off = await sample('off', 1, oneCallerMs)
    const before = syncMs()
    const disk = await sample('disk', 1, oneCallerMs)
    const sync = (before + syncMs()) / 2
    added.push(disk.p50Ms - off.p50Ms)
    synced.push(sync)
  }
  const ratio = median(added.map((ms, index) => ms / (synced[index] ?? Number.NaN)))
  console.log(
    `\none caller, disk: p50 ${median(added).toFixed(2)} ms more than without recording; one write and fdatasync ${median(synced).toFixed(2)} ms; ratio ${ratio.toFixed(2)}`,
  )
  return ratio <= bars.syncs
    ? []
    : [`one caller, disk: ${ratio.toFixed(2)} fdatasync (bar ${bars.syncs})`]
}

function syncMs(): number {
  const path = join(dataDir, 'sync')
  const fd = fs.openSync(path, 'a')
  const record = Buffer.alloc(300, 0x61)
  const times = Array.from({ length: 200 }, () => {
    const startMs = performance.now()
    fs.writeSync(fd, record)
    fs.fdatasyncSync(fd)
    return performance.now() - startMs
  })
  fs.closeSync(fd)
  fs.rmSync(path)
  return median(times)
}

/** The recorder alone, with nobody who empties its spool: what is left is what the answering thread does. */
async function ownCpu(): Promise<string[]> {
  const results: Record<string, { 'µs a call': string }> = {}
  let grouped = Number.NaN
  for (const together of [1, 4, 16, 64]) {
    const costs: number[] = []
    for (let round = 0; round < 9; round += 1) costs.push(await recorderUs(together))
    const us = median(costs.slice(2))
    if (together === 16) grouped = us
    results[`${together} together`] = { 'µs a call': us.toFixed(2) }
  }
  console.log('\nCPU of recording in the thread that answers')
  console.table(results)
  return grouped <= bars.cpuUs ? [] : [`${grouped.toFixed(2)} µs a call (bar ${bars.cpuUs})`]
}

async function recorderUs(together: number): Promise<number> {
  const calls = 50_000
  const directory = join(dataDir, 'alone')
  const recorder = createAuditRecorder({
    directory,
    writer: uuidV7(Date.now()),
    startWriter: () => ({ hurry() {}, stop: () => Promise.resolve() }),
    clock: { now: () => new Date() },
    durability: 'process',
    limitBytes: 1024 ** 3,
    whenFull: 'refuse',
    log: { error() {}, info() {} },
  })
  const startedAt = new Date()
  const details = { identity: 'token' } as const
  const turns = async (withRecords: boolean) => {
    const before = process.cpuUsage()
    for (let call = 0; call < calls; call += together) {
      if (withRecords) {
        for (let index = 0; index < together; index += 1) {
          recorder.admit()
          recorder.record({
            requestId: 'f81d4fae-7dec-41d0-a765-00a0c91e6bf6',
            startedAt,
            userId: `person-${index}`,
            issuer,
            upstream: 'files',
            method: 'token_exchange',
            actor: { kind: 'service', id: 'bench' },
            action: 'inject',
            outcome: 'success',
            reason: undefined,
            details,
          })
          void recorder.settled()
        }
      }
      await new Promise((resolve) => setImmediate(resolve))
    }
    const { user, system } = process.cpuUsage(before)
    return (user + system) / calls
  }
  const bare = await turns(false)
  const cost = (await turns(true)) - bare
  await recorder.stop(0)
  fs.rmSync(directory, { recursive: true, force: true })
  return cost
}

type Sample = {
  perSecond: number
  p50Ms: number
  p99Ms: number
  failures: number
  cpuUs: number
}

async function sample(kind: Kind, callers: number, ms: number): Promise<Sample> {
  const before = await brokers[kind].ask<number>('answering')
  const slice = await load({ port: brokers[kind].port, connections: callers, ms, requests })
  const cpuUs = (await brokers[kind].ask<number>('answering')) - before
  // What a slice left to write is not done in the next one's time.
  await brokers[kind].ask('stored')
  return {
    perSecond: slice.requestsPerSecond,
    p50Ms: quantile(slice.latenciesMs, 0.5),
    p99Ms: quantile(slice.latenciesMs, 0.99),
    failures: slice.failures,
    cpuUs: cpuUs / slice.latenciesMs.length,
  }
}

function ratiosOf(samples: readonly Sample[], base: readonly Sample[]): number[] {
  return samples.map((s, i) => s.perSecond / (base[i]?.perSecond ?? Number.NaN))
}

function row(samples: readonly Sample[], base: readonly Sample[]) {
  const ratios = ratiosOf(samples, base).toSorted((a, b) => a - b)
  const quartile = (q: number) => (ratios[Math.floor(ratios.length * q)] ?? Number.NaN).toFixed(2)
  return {
    'calls/s': Math.round(median(samples.map((s) => s.perSecond))),
    ratio: median(ratios).toFixed(2),
    quartiles: `${quartile(0.25)} to ${quartile(0.75)}`,
    'p50 ms': median(samples.map((s) => s.p50Ms)).toFixed(2),
    'p99 ms': median(samples.map((s) => s.p99Ms)).toFixed(2),
    'CPU µs a call in the answering thread': median(samples.map((s) => s.cpuUs)).toFixed(1),
  }
}

async function fill(broker: Child): Promise<void> {
  const waiting = [...bodies]
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
