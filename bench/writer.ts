import { randomUUID } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { createActivityLineEncoder } from '../dist/audit/activity-line.js'
import { chainedBatch } from '../dist/audit/chained-batch.js'
import { createAuditRecorder } from '../dist/audit/recorder.js'
import { uuidV7 } from '../dist/audit/uuid-v7.js'
import { activityColumns, type WriterHead } from '../dist/core/ports/activity-batches.js'
import { Secret } from '../dist/core/secret.js'
import { openDatabase } from '../dist/storage/database.js'
import { maintain } from '../dist/storage/maintenance.js'
import { startWriter } from '../dist/wiring/writer.js'
import { connectTo, openBenchDatabase } from './database.ts'
import { median } from './load.ts'

/**
 * The writer of the activity log, from the spool to the committed row, against COPY of the same rows into the same table and
 * against a bare `unnest … ON CONFLICT DO NOTHING`, in one run, alternating; each on a connection of its own. `--sustained`: ten
 * minutes at a given rate (`BENCH_RATE`, records a second), showing that the spool does not grow.
 */
const rows = Number(process.env['BENCH_ROWS'] ?? 20_000)
const rounds = Number(process.env['BENCH_ROUNDS'] ?? 9)
const batchRows = 500
const rate = Number(process.env['BENCH_RATE'] ?? 3000)
const minutes = Number(process.env['BENCH_MINUTES'] ?? 10)
const bars = { copy: 0.6, unnest: 0.85 }

const dataDir = await mkdtemp(join(tmpdir(), 'onbehalf-bench-'))
const database = await openBenchDatabase(dataDir)
const preparing = await openDatabase({ url: new Secret(database.brokerUrl), pool: 1 })
await maintain({ database: preparing, retentionDays: 90, log: { info() {}, warn() {} } })
await preparing.close()
const encode = createActivityLineEncoder()
const columns = [...activityColumns, 'writer', 'seq', 'hash'].join(', ')
const people = Array.from({ length: 1000 }, (_, index) => `person-${index}`)

try {
  process.exitCode = (await (process.argv.includes('--sustained') ? sustained() : compared()))
    ? 0
    : 1
} finally {
  await database.close()
  await rm(dataDir, { recursive: true, force: true })
}

function record(index: number) {
  return {
    requestId: randomUUID(),
    startedAt: new Date(),
    userId: people[index % people.length],
    issuer: 'https://login.example.com',
    actor: { kind: 'service', id: 'edge' } as const,
    upstream: `upstream-${index % 20}`,
    action: 'inject' as const,
    method: 'connect' as const,
    outcome: 'success' as const,
    reason: undefined,
    details: { identity: 'token' } as const,
  }
}

type Method = {
  /** Not timed; gives what is. */
  readonly prepare: () => () => Promise<void>
  readonly stop: () => Promise<void>
}

async function compared(): Promise<boolean> {
  const methods = { copy: copy(), unnest: unnest(), writer: writer() }
  const names = ['copy', 'unnest', 'writer'] as const
  const perSecond = { copy: [] as number[], unnest: [] as number[], writer: [] as number[] }
  for (const name of names) await methods[name].prepare()()
  for (let round = 0; round < rounds; round += 1) {
    for (const name of round % 2 === 0 ? names : names.toReversed()) {
      const store = methods[name].prepare()
      const startMs = performance.now()
      await store()
      perSecond[name].push((rows * 1000) / (performance.now() - startMs))
    }
    process.stderr.write(`\rround ${round + 1} of ${rounds}`)
  }
  process.stderr.write('\r                \r')
  for (const name of names) await methods[name].stop()
  const ratiosTo = (base: readonly number[]) =>
    perSecond.writer.map((value, index) => value / (base[index] ?? Number.NaN))
  console.log(`${rows} rows, ${batchRows} at a time; medians of ${rounds} alternating rounds`)
  console.table({
    COPY: { 'rows/s': Math.round(median(perSecond.copy)) },
    'unnest ON CONFLICT': { 'rows/s': Math.round(median(perSecond.unnest)) },
    'the writer': {
      'rows/s': Math.round(median(perSecond.writer)),
      'to COPY': spread(ratiosTo(perSecond.copy)),
      'to unnest': spread(ratiosTo(perSecond.unnest)),
    },
  })
  const toCopy = median(ratiosTo(perSecond.copy))
  const toUnnest = median(ratiosTo(perSecond.unnest))
  const good = toCopy >= bars.copy && toUnnest >= bars.unnest
  console.log(
    good
      ? 'Every bar was reached.'
      : `Not reached: ${bars.copy} of COPY and ${bars.unnest} of unnest.`,
  )
  return good
}

/** Median, and the middle half. */
function spread(values: readonly number[]): string {
  const sorted = values.toSorted((a, b) => a - b)
  const at = (q: number) => (sorted[Math.floor(sorted.length * q)] ?? Number.NaN).toFixed(2)
  return `${at(0.5)} (${at(0.25)} to ${at(0.75)})`
}

function startRecorder(name: string) {
  const directory = join(dataDir, name)
  const id = uuidV7(Date.now())
  return createAuditRecorder({
    directory,
    writer: id,
    startWriter: (ports) =>
      startWriter({
        ...ports,
        directory,
        writer: id,
        databaseUrl: new Secret(database.brokerUrl),
        log: { error: (entry) => console.error(entry), info() {} },
      }),
    clock: { now: () => new Date() },
    durability: 'process',
    limitBytes: 1024 ** 3,
    whenFull: 'refuse',
    log: { error: (entry) => console.error(entry), info() {} },
  })
}

/** From the records on: encoding, spool, thread, chain and statement. */
function writer(): Method {
  const recorder = startRecorder('writer')
  return {
    prepare: () => async () => {
      for (let index = 0; index < rows; index += 1) {
        recorder.record(record(index))
        if (index % 64 === 63) await recorder.settled()
      }
      if (!(await recorder.flush(120_000))) throw new Error('the writer did not come to its end')
    },
    stop: () => recorder.stop(),
  }
}

/** The lines that the others store were made beforehand, hashes included. */
function batches(): (readonly string[])[] {
  const id = uuidV7(Date.now())
  let before: WriterHead = { seq: 0, hash: Buffer.alloc(32), position: 0 }
  const all: (readonly string[])[] = []
  for (let from = 0; from < rows; from += batchRows) {
    const now = Date.now()
    const records = Array.from({ length: batchRows }, (_, index) => ({
      position: from + index + 1,
      line: encode(record(from + index), now),
    }))
    const batch = chainedBatch({ writer: id, before, records, uses: [] })
    before = batch.after
    all.push(
      batch.lines.map((line, index) => {
        const cut = line.lastIndexOf('\t')
        return `${line.slice(0, cut)}\t${id}\t${batch.before.seq + index + 1}\t\\x${line.slice(cut + 1)}`
      }),
    )
  }
  return all
}

function copy(): Method {
  const sql = connectTo(database.brokerUrl)
  return {
    prepare() {
      // A backslash is COPY's own.
      const texts = batches().map((lines) => `${lines.join('\n').replaceAll('\\', '\\\\')}\n`)
      return async () => {
        for (const text of texts) {
          const stream =
            await sql`copy activity (${sql.unsafe(columns)}) from stdin (null '')`.writable()
          await new Promise<void>((resolve, reject) => {
            stream.once('error', reject)
            stream.once('finish', resolve)
            stream.end(text)
          })
        }
      }
    },
    stop: () => sql.end(),
  }
}

function unnest(): Method {
  const sql = connectTo(database.brokerUrl)
  const texts = Array<string>(10).fill('text')
  const types = [
    'uuid',
    'timestamptz',
    'uuid',
    ...texts,
    'float8',
    'jsonb',
    'uuid',
    'bigint',
    'bytea',
  ]
  const arrays = types.map((type, index) => `$${index + 1}::${type}[]`).join(', ')
  const statement = `INSERT INTO activity (${columns}) SELECT * FROM unnest(${arrays}) ON CONFLICT DO NOTHING`
  return {
    prepare() {
      // Array literals made by hand: postgres.js takes longer for them.
      const prepared = batches().map((lines) => {
        const values = lines.map((line) => line.split('\t'))
        return types.map(
          (_, column) => `{${values.map((row) => literal(row[column] ?? '')).join(',')}}`,
        )
      })
      return async () => {
        for (const literals of prepared) await sql.unsafe(statement, literals, { prepare: true })
      }
    },
    stop: () => sql.end(),
  }
}

function literal(value: string): string {
  if (value === '') return 'NULL'
  return `"${value.replaceAll(/["\\]/g, String.raw`\$&`)}"`
}

async function sustained(): Promise<boolean> {
  const recorder = startRecorder('sustained')
  const startMs = performance.now()
  const endMs = startMs + minutes * 60_000
  const largest: number[] = []
  let recorded = 0
  let peak = 0
  console.log(
    `${rate} records a second for ${minutes} minutes; the largest spool of each tenth of it`,
  )
  while (performance.now() < endMs) {
    const due = Math.floor(((performance.now() - startMs) / 1000) * rate)
    for (; recorded < due; recorded += 1) recorder.record(record(recorded))
    await recorder.settled()
    peak = Math.max(peak, recorder.stats().bytes)
    const part = Math.floor(((performance.now() - startMs) / (endMs - startMs)) * 10)
    if (part > largest.length) {
      largest.push(peak)
      console.log(`${part * 10} %: ${recorded} records, ${(peak / 1024).toFixed(0)} KiB`)
      peak = 0
    }
    await sleep(5)
  }
  await recorder.stop()
  const sql = connectTo(database.brokerUrl)
  const [stored] = await sql<[{ count: number }]>`select count(*)::int as count from activity`
  await sql.end()
  console.log(`${recorded} recorded, ${stored.count} in the table`)
  const [first = 0] = largest
  const grew = (largest.at(-1) ?? 0) > Math.max(4 * first, 4 * 1024 ** 2)
  console.log(grew ? 'The spool grew.' : 'The spool did not grow.')
  return !grew && stored.count === recorded
}
