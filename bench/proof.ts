import { randomUUID } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { createActivityLineEncoder } from '../dist/audit/activity-line.js'
import { createActivityVerifier } from '../dist/audit/activity-verification.js'
import { chainedBatch } from '../dist/audit/chained-batch.js'
import { startCheckpoints } from '../dist/audit/checkpoints.js'
import { removeOld } from '../dist/audit/retention.js'
import { Secret } from '../dist/core/secret.js'
import { createActivitySigner } from '../dist/sealing/activity-signer.js'
import { createEnvelope } from '../dist/sealing/envelope.js'
import { createKeyring, generateKey } from '../dist/sealing/keyring.js'
import { createActivityBatches } from '../dist/storage/activity-batches.js'
import { createActivityPartitions } from '../dist/storage/activity-partitions.js'
import { createActivityProofRecords } from '../dist/storage/activity-proof-records.js'
import { openDatabases } from '../dist/storage/database.js'
import { maintain } from '../dist/storage/maintenance.js'
import { createSigningKeyRecords } from '../dist/storage/signing-key-records.js'
import { createTaskLeases } from '../dist/storage/task-leases.js'
import { connectTo, openBenchDatabase } from './database.ts'

/**
 * Retention and proof of the activity log: seven days with BENCH_RECORDS records are removed while others write, read pages and
 * look up records; then what is left is verified. Bars: no statement blocked for more than 100 ms, memory flat.
 */
const records = Number(process.env['BENCH_RECORDS'] ?? 1_000_000)
const bars = { blockedMs: 100, memoryMb: 60 }
const rowsPerBatch = 1000
const dayMs = 86_400_000
const silent = { info() {}, warn() {} }

const dataDir = await mkdtemp(join(tmpdir(), 'onbehalf-bench-'))
const server = await openBenchDatabase(dataDir)
const { calls, searches, batches } = await openDatabases({
  url: new Secret(server.brokerUrl),
  pools: { calls: 10, searches: 2, batches: 1 },
})
const keyring = createKeyring([{ id: 'k1', secret: new Secret(generateKey()) }])
const signer = createActivitySigner({
  records: createSigningKeyRecords(calls),
  sealer: createEnvelope(keyring),
})
const proof = createActivityProofRecords(searches)
/** The longest that anybody was seen to wait for a lock, ourselves excepted. */
let blockedMs = 0

try {
  const week = mondayBefore(Date.now() - 60 * dayMs)
  await fill(rowsPerBatch, () => new Date(week))
  await maintain({ database: calls, retentionDays: 365, log: silent })
  await fill(records, (share) => new Date(week + share * 7 * dayMs))
  await fill(records, (share) => new Date(Date.now() - (1 - share) * 3 * dayMs))
  const patient = connectTo(server.brokerUrl)
  await patient`VACUUM ANALYZE activity`.simple()
  await patient.end()
  await verification('before')
  const quiet = await whileOthersWork(() => sleep(10_000))
  blockedMs = 0
  const busy = await whileOthersWork(retention)
  table([
    ['', 'statements', 'p99 ms', 'longest ms'],
    ...Object.keys(quiet).flatMap((name) => [
      [`${name}, quiet`, ...figuresOf(quiet[name] ?? [])],
      [`${name}, 7 days of ${records} records removed meanwhile`, ...figuresOf(busy[name] ?? [])],
    ]),
  ])
  console.log(
    `Longest wait for a lock while 7 days were removed: ${blockedMs.toFixed(0)} ms; bar ${bars.blockedMs} ms: ${blockedMs <= bars.blockedMs ? 'reached' : 'NOT REACHED'}`,
  )
  await verification('after')
} finally {
  await calls.close()
  await server.close()
  await rm(dataDir, { recursive: true, force: true })
}

/** Records of one process, spread over a time. */
async function fill(count: number, at: (share: number) => Date): Promise<void> {
  const encode = createActivityLineEncoder()
  const store = createActivityBatches(batches)
  const writer = randomUUID()
  let head = await store.open(writer, new Date())
  for (let done = 0; done < count; done += rowsPerBatch) {
    const lines = Array.from({ length: rowsPerBatch }, (_, index) => {
      const startedAt = at((done + index) / count)
      return {
        position: done + index + 1,
        line: encode(recordOf(index, startedAt), startedAt.getTime()),
      }
    })
    const batch = chainedBatch({ writer, before: head, records: lines, uses: [] })
    if ((await store.append(batch)) !== 'stored') throw new Error('not stored')
    head = batch.after
  }
}

function recordOf(index: number, startedAt: Date) {
  return {
    requestId: randomUUID(),
    startedAt,
    userId: `person-${index % 5000}`,
    issuer: 'https://login.example.com',
    actor: { kind: 'service', id: 'edge' },
    upstream: 'files',
    action: 'inject',
    method: 'connect',
    outcome: 'success',
    reason: undefined,
    details: { identity: 'token' },
  } as const
}

async function retention(): Promise<void> {
  const began = performance.now()
  const ports = {
    partitions: createActivityPartitions(calls),
    records: proof,
    signer,
    leases: createTaskLeases(calls),
    retentionDays: 30,
    log: silent,
  }
  if (!(await removeOld(ports, new AbortController().signal))) throw new Error('not removed')
  console.log(
    `Removed ${records} records of 7 days, each checked once more, in ${seconds(began)} s.`,
  )
}

/** How long each statement of the others took, in ms, while something else goes on. */
async function whileOthersWork(work: () => Promise<unknown>): Promise<Record<string, number[]>> {
  const times: Record<string, number[]> = {
    insert: [],
    page: [],
    lookup: [],
    search: [],
  }
  let isOver = false
  const repeat = async (name: string, pauseMs: number, statement: () => Promise<unknown>) => {
    while (!isOver) {
      const began = performance.now()
      await statement()
      times[name]?.push(performance.now() - began)
      await sleep(pauseMs)
    }
  }
  const [known] = await calls.sql<{ id: string; at: Date }[]>`
    SELECT id, occurred_at AS at FROM activity ORDER BY occurred_at DESC LIMIT 1`
  const writer = fillSlowly()
  const others = Promise.all([
    repeat('insert', 20, () => writer()),
    repeat('page', 5, () =>
      calls.run(
        () => calls.sql`SELECT * FROM activity ORDER BY occurred_at DESC, id DESC LIMIT 50`,
      ),
    ),
    repeat('lookup', 5, () =>
      calls.run(
        () => calls.sql`SELECT * FROM activity WHERE id = ${known?.id ?? ''}
          AND occurred_at = ${known?.at ?? new Date()}`,
      ),
    ),
  ])
  // A search that holds its lock for long, in whose way nobody may get for long.
  const searching = repeat('search', 300, () =>
    searches.run(() => searches.sql`SELECT pg_sleep(0.7) FROM activity LIMIT 1`),
  )
  const watching = watchLocks(() => isOver)
  await work().finally(() => {
    isOver = true
  })
  await Promise.all([others, searching, watching])
  return times
}

async function watchLocks(isOver: () => boolean): Promise<void> {
  while (!isOver()) {
    const [row] = await calls.sql<{ ms: number | null }[]>`
      SELECT max(extract(epoch from clock_timestamp() - waitstart) * 1000)::float8 AS ms
      FROM pg_locks JOIN pg_stat_activity USING (pid)
      WHERE NOT granted AND query NOT LIKE '%$retention$%' AND query NOT LIKE '%$maintenance$%'`
    blockedMs = Math.max(blockedMs, row?.ms ?? 0)
    await sleep(2)
  }
}

function fillSlowly(): () => Promise<unknown> {
  const encode = createActivityLineEncoder()
  const store = createActivityBatches(batches)
  const writer = randomUUID()
  let opened = store.open(writer, new Date())
  return async () => {
    const before = await opened
    const now = new Date()
    const lines = Array.from({ length: 50 }, (_, index) => ({
      position: before.position + index + 1,
      line: encode(recordOf(index, now), now.getTime()),
    }))
    const batch = chainedBatch({ writer, before, records: lines, uses: [] })
    opened = store.append(batch).then(() => batch.after)
    return opened
  }
}

async function verification(when: string): Promise<void> {
  const checkpoints = startCheckpoints({ records: proof, signer, log: silent })
  await checkpoints.stop()
  const verifier = createActivityVerifier({ records: proof, signer })
  globalThis.gc?.()
  const start = process.memoryUsage().rss
  let most = start
  const began = performance.now()
  const verdict = await verifier.verify({
    signal: new AbortController().signal,
    onProgress() {
      most = Math.max(most, process.memoryUsage().rss)
    },
  })
  const took = (performance.now() - began) / 1000
  const grown = (most - start) / 1024 ** 2
  console.log(
    `Verified ${when}: ${verdict.records} records in ${took.toFixed(1)} s (${Math.round(verdict.records / took)} a second), ` +
      `${verdict.findings.length} findings, ${verdict.removed} removed by retention, +${grown.toFixed(0)} MB; ` +
      `bar +${bars.memoryMb} MB: ${grown <= bars.memoryMb ? 'reached' : 'NOT REACHED'}`,
  )
}

function figuresOf(times: readonly number[]): string[] {
  const sorted = times.toSorted((one, other) => one - other)
  const p99 = sorted[Math.floor(sorted.length * 0.99)] ?? 0
  return [String(sorted.length), p99.toFixed(1), (sorted.at(-1) ?? 0).toFixed(1)]
}

function table(rows: readonly (readonly string[])[]): void {
  for (const row of rows) {
    console.log(
      row.map((cell, index) => (index === 0 ? cell.padEnd(60) : cell.padStart(12))).join(''),
    )
  }
}

function seconds(began: number): string {
  return ((performance.now() - began) / 1000).toFixed(1)
}

function mondayBefore(ms: number): number {
  const date = new Date(ms)
  const day = (date.getUTCDay() + 6) % 7
  return Date.UTC(date.getUTCFullYear(), date.getUTCMonth(), date.getUTCDate() - day)
}
