import { readFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import os from 'node:os'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'
import type { ActivityFilter, ActivityPosition } from '../dist/core/ports/activity-store.js'
import { Secret } from '../dist/core/secret.js'
import { createActivityReports, reportSettings } from '../dist/storage/activity-reports.js'
import { createActivityStore, pageSettings } from '../dist/storage/activity-store.js'
import { type Database, openDatabases } from '../dist/storage/database.js'
import { migrate } from '../dist/storage/migrate.js'
import { fillActivity } from './activity-rows.js'
import { connectTo, openBenchDatabase } from './database.js'

/*
 * What questions to the activity log cost at ten million records, beside the same ones at a hundred thousand and beside a read by
 * primary key on the same connection, in turns. BENCH_ROWS and BENCH_ROUNDS make it shorter.
 */

const ROWS = Number(process.env['BENCH_ROWS'] ?? 10_000_000)
const FEW = 100_000
const ROUNDS = Number(process.env['BENCH_ROUNDS'] ?? 60)
const EXPORTED = Math.min(ROWS, 1_000_000)

type Values = Readonly<Record<string, readonly string[]>>
/** For each filter what is frequent, what is not, what is rare, and what is not there. */
const values: Record<string, Values> = {
  type: {
    most: ['credential_broker'],
    some: ['oauth.mcp.token.issued'],
    rare: ['oauth.mcp.token.rejected'],
  },
  userId: { most: ['user-0'], rare: ['user-15000'], none: ['nobody'] },
  issuer: {
    most: ['https://login.example.com'],
    some: ['https://second.example.com'],
    none: ['https://no'],
  },
  upstream: { most: ['upstream-0'], some: ['upstream-11'], none: ['nothing'] },
  action: { most: ['inject'], some: ['refresh'], rare: ['disconnect'] },
  method: { most: ['connect'], some: ['user_key'], none: ['id_jag'] },
  outcome: { most: ['success'], some: ['failure'] },
  reason: { some: ['not_connected'], rare: ['credential_corrupt'], none: ['internal_error'] },
  requestId: { none: ['00000000-0000-4000-8000-000000000000'] },
  actorId: { most: ['edge'], some: ['batch'], rare: ['user-15000'] },
}

type Log = { readonly pages: Database; readonly reports: Database }
type Case = { readonly name: string; readonly filter: ActivityFilter; readonly at?: number }

const directory = await mkdtemp(join(os.tmpdir(), 'onbehalf-bench-activity-'))
const server = await openBenchDatabase(directory)
try {
  const few = await openLog('few', FEW)
  const many = await openLog('many', ROWS)
  const pk = await primaryKeys(many.pages)
  values['requestId'] = { ...values['requestId'], rare: [pk[7]?.request ?? ''] }

  console.log(
    `\n${ROWS} records beside ${FEW}; medians and p95 of ${ROUNDS} rounds in turns, ms; load ${os.loadavg()[0]?.toFixed(1)}`,
  )
  const singles = Object.entries(values).flatMap(([field, of]) =>
    Object.entries(of).map(([share, value]) => ({
      name: `${field} ${share}`,
      filter: { [field]: value },
    })),
  )
  await report(
    'first page, one filter',
    few,
    many,
    pk,
    [{ name: 'no filter', filter: {} }, ...singles],
    singles.length + 1,
  )
  const pairs = singles.flatMap((one, index) =>
    singles
      .slice(index + 1)
      .filter((two) => Object.keys(one.filter)[0] !== Object.keys(two.filter)[0])
      .map((two) => ({
        name: `${one.name} + ${two.name}`,
        filter: { ...one.filter, ...two.filter },
      })),
  )
  await report(
    `first page, ${pairs.length} pairs of filters; the slowest`,
    few,
    many,
    pk,
    pairs,
    20,
  )
  const deep = [0.1, 0.5, 0.9].flatMap((at) =>
    [
      { name: 'no filter', filter: {} },
      ...singles.filter(({ name }) =>
        /^(?:userId most|upstream most|outcome some|actorId most|reason some)$/.test(name),
      ),
    ].map((each) => ({ ...each, name: `${each.name}, behind ${at * 100} %`, at })),
  )
  await report('next page, far behind', few, many, pk, deep, deep.length)
  await summaries(many.reports)
  await exports(many.reports)
  for (const log of [few, many]) await log.pages.close()
} finally {
  await server.close()
  await rm(directory, { recursive: true, force: true })
}

async function openLog(name: string, rows: number): Promise<Log> {
  const url = await server.create(`activity_${name}`)
  await migrate(new Secret(url))
  const sql = connectTo(url)
  const started = performance.now()
  await fillActivity(sql, rows)
  console.log(`${rows} records made in ${((performance.now() - started) / 1000).toFixed(0)} s`)
  await sql.end()
  return openDatabases({
    url: new Secret(url),
    pools: { pages: 1, reports: 1 },
    settings: { pages: pageSettings, reports: reportSettings },
  })
}

type Key = { readonly at: string; readonly id: string; readonly request: string }

async function primaryKeys({ run, sql }: Database): Promise<readonly Key[]> {
  return run(() =>
    sql.unsafe<Key[]>(`
      select occurred_at::text as at, id, request_id as request from activity
      where occurred_at >= now() - interval '20 days' and occurred_at < now() - interval '20 days' + interval '1 hour' limit 500`),
  )
}

function position(at: number): ActivityPosition {
  const instant = new Date(Date.now() - at * 90 * 86_400_000)
  return {
    occurredAt: instant.toISOString().replace('Z', '000Z'),
    id: '80000000-0000-7000-8000-000000000000',
  }
}

/** Time on a processor of the server's process and of this one: unlike the clock's, it is the same beside other work. */
async function cpuMeter({ run, sql }: Database): Promise<(() => number) | undefined> {
  const [row] = await run(() => sql<{ pid: number }[]>`select pg_backend_pid() as pid`)
  const read = () =>
    Number(readFileSync(`/proc/${row?.pid}/schedstat`, 'utf8').split(' ')[0]) / 1000
  try {
    // Another machine's process, or another system.
    if (!readFileSync(`/proc/${row?.pid}/comm`, 'utf8').startsWith('postgres')) return undefined
    read()
  } catch {
    return undefined
  }
  return () => {
    const { user, system } = process.cpuUsage()
    return read() + user + system
  }
}

type Row = {
  readonly name: string
  readonly found: string
  readonly few: number
  readonly many: number
  readonly p95: number
  readonly ratio: number
  readonly ofKey: number
  /** Means, in microseconds; NaN where they cannot be read. */
  readonly cpu: { readonly many: number; readonly ratio: number; readonly ofKey: number }
}

async function report(
  title: string,
  few: Log,
  many: Log,
  keys: readonly Key[],
  cases: readonly Case[],
  shown: number,
): Promise<void> {
  const small = createActivityStore(few.pages)
  const big = createActivityStore(many.pages)
  const meters = { few: await cpuMeter(few.pages), many: await cpuMeter(many.pages) }
  const readKey = (round: number) => {
    const key = keys[round % keys.length]
    return many.pages.run(() =>
      many.pages.sql.unsafe(
        'select * from activity where occurred_at = $1::timestamptz and id = $2::uuid',
        [key?.at ?? '', key?.id ?? ''],
        { prepare: true },
      ),
    )
  }
  const rows: Row[] = []
  for (const { name, filter, at } of cases) {
    const after = at === undefined ? undefined : position(at)
    const times = { key: [] as number[], few: [] as number[], many: [] as number[] }
    const cpu = { key: 0, few: 0, many: 0 }
    let found = ''
    for (let round = -3; round < ROUNDS; round += 1) {
      const key = await timed(() => readKey(Math.abs(round)), meters.many)
      const ofFew = await timed(() => small.page(filter, 50, after), meters.few)
      const ofMany = await timed(() => big.page(filter, 50, after), meters.many)
      found = `${ofFew.value.records.length}/${ofMany.value.records.length}`
      if (round < 0) continue
      times.key.push(key.ms)
      times.few.push(ofFew.ms)
      times.many.push(ofMany.ms)
      cpu.key += key.cpu / ROUNDS
      cpu.few += ofFew.cpu / ROUNDS
      cpu.many += ofMany.cpu / ROUNDS
    }
    rows.push({
      name,
      found,
      few: quantile(times.few, 0.5),
      many: quantile(times.many, 0.5),
      p95: quantile(times.many, 0.95),
      ratio: quantile(times.many, 0.5) / quantile(times.few, 0.5),
      ofKey: quantile(times.many, 0.95) / quantile(times.key, 0.95),
      cpu: { many: cpu.many, ratio: cpu.many / cpu.few, ofKey: cpu.many / cpu.key },
    })
  }
  console.log(`\n## ${title}\n`)
  console.log(
    `| | records | ${FEW}, ms | ${ROWS}, ms | ratio | p95, ms | p95 over a key's | CPU, µs | ratio | over a key's | |`,
  )
  console.log('|---|---|---|---|---|---|---|---|---|---|---|')
  const listed =
    shown < rows.length ? rows.toSorted((a, b) => costOf(b) - costOf(a)).slice(0, shown) : rows
  for (const row of listed) console.log(lineOf(row))
  const over = (bar: (row: Row) => boolean) => rows.filter(bar).length
  console.log(
    `\n${rows.length} cases. By the clock ${over(({ ratio }) => ratio > 1.5)} are over 1.5 times their time at ${FEW}, ${over(({ ofKey }) => ofKey > 10)} have a p95 over 10 times a key's; by CPU ${over(({ cpu }) => cpu.ratio > 1.5)} and ${over(({ cpu }) => cpu.ofKey > 10)}.`,
  )
}

function costOf({ many, cpu }: Row): number {
  return Number.isNaN(cpu.many) ? many * 1000 : cpu.many
}

function lineOf(row: Row): string {
  const { cpu } = row
  const missed = [
    ...(row.ratio > 1.5 ? ['ratio'] : []),
    ...(row.ofKey > 10 ? ['p95'] : []),
    ...(cpu.ratio > 1.5 ? ['CPU ratio'] : []),
    ...(cpu.ofKey > 10 ? ['CPU over a key'] : []),
  ]
  const cells = [
    row.name,
    row.found,
    row.few.toFixed(2),
    row.many.toFixed(2),
    row.ratio.toFixed(2),
    row.p95.toFixed(2),
    row.ofKey.toFixed(1),
    cpu.many.toFixed(0),
    cpu.ratio.toFixed(2),
    cpu.ofKey.toFixed(1),
    missed.length === 0 ? '' : `misses ${missed.join(', ')}`,
  ]
  return `| ${cells.join(' | ')} |`
}

async function summaries(reports: Database): Promise<void> {
  console.log('\n## summary\n')
  const counter = createActivityReports(reports)
  const day = 86_400_000
  for (const [name, days, bucket, groupBy, filter] of [
    ['a day by hour, by upstream and outcome', 1, '1h', ['upstream', 'outcome'], {}],
    ['a week by hour', 7, '1h', [], {}],
    ['a week of failures by hour, by reason', 7, '1h', ['reason'], { outcome: ['failure'] }],
    ['90 days by day, by outcome', 90, '1d', ['outcome'], {}],
  ] as const) {
    const since = new Date(Date.now() - days * day)
    const { ms, value: counts } = await timed(() =>
      counter.summarize({ filter: { ...filter, since }, bucket, groupBy, mostCounts: 10_000 }),
    )
    console.log(
      `- ${name}: ${ms.toFixed(0)} ms, ${typeof counts === 'string' ? counts : `${counts.length} counts`}`,
    )
  }
}

async function exports(reports: Database): Promise<void> {
  console.log(`\n## export of ${EXPORTED} records to a null sink\n`)
  const exporter = createActivityReports(reports)
  for (const format of ['ndjson', 'csv'] as const) {
    globalThis.gc?.()
    const before = process.memoryUsage().rss
    let peak = before
    let lines = 0
    const started = performance.now()
    const cpu = await cpuMeter(reports)
    const cpuBefore = cpu?.() ?? Number.NaN
    for await (const text of exporter.export({}, format, new AbortController().signal)) {
      for (let end = text.indexOf('\n'); end !== -1; end = text.indexOf('\n', end + 1)) lines += 1
      peak = Math.max(peak, process.memoryUsage().rss)
      if (lines >= EXPORTED) break
    }
    const seconds = (performance.now() - started) / 1000
    const spent = ((cpu?.() ?? Number.NaN) - cpuBefore) / lines
    console.log(
      `- ${format}: ${Math.round(lines / seconds)} records/s, ${spent.toFixed(1)} µs of CPU each, ${((peak - before) / 1e6).toFixed(0)} MB more memory at its peak`,
    )
  }
}

async function timed<T>(
  run: () => PromiseLike<T>,
  cpu: () => number = () => Number.NaN,
): Promise<{ readonly ms: number; readonly cpu: number; readonly value: T }> {
  const cpuBefore = cpu()
  const started = performance.now()
  const value = await run()
  const ms = performance.now() - started
  return { ms, cpu: cpu() - cpuBefore, value }
}

function quantile(of: readonly number[], share: number): number {
  const sorted = of.toSorted((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN
}
