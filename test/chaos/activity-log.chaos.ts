import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { afterAll, afterEach, describe, expect, it } from 'vitest'
import { bytesOf, writersIn } from '../../src/audit/spool-files.ts'
import { createTestDatabase } from '../support/database.ts'
import {
  type AuditedBroker,
  judgeRecords,
  prepareAuditedBroker,
  type Verdict,
} from './audited-broker.ts'

/**
 * What docs/activity-log.md promises, under everything that can be done to a process: every call that was answered has its record,
 * once, in a chain that is whole. Prints the table of that document.
 */
const kills = Number(process.env['CHAOS_KILLS'] ?? 500)
const outageSeconds = Number(process.env['CHAOS_OUTAGE_SECONDS'] ?? 60)
const stops = Number(process.env['CHAOS_STOPS'] ?? 30)
const run = promisify(execFile)

const table: Record<string, Record<string, string | number>> = {}
let broker: AuditedBroker | undefined
afterEach(async () => {
  await broker?.stop()
  broker = undefined
})
afterAll(() => {
  console.log(
    '\n| what was done | calls answered | records | missing | doubled | broken chains | |',
  )
  console.log('|---|---|---|---|---|---|---|')
  for (const [name, row] of Object.entries(table)) {
    console.log(`| ${name} | ${Object.values(row).join(' | ')} |`)
  }
})

async function prepare(
  ...options: Parameters<typeof prepareAuditedBroker>
): Promise<AuditedBroker> {
  broker = await prepareAuditedBroker(...options)
  return broker
}

function report(name: string, verdict: Verdict, note: string): void {
  const { answered, records, missing, doubled, broken } = verdict
  table[name] = {
    answered,
    records,
    missing: missing.length,
    doubled: doubled.length,
    broken: broken.length,
    note,
  }
  expect(verdict).toMatchObject({ missing: [], doubled: [], broken: [] })
}

/** Waits until nothing is under way, then looks at every record. */
async function settle(of: AuditedBroker, name: string, note: () => string): Promise<void> {
  await expect.poll(() => of.metric('onbehalf_audit_spool_bytes'), { timeout: 120_000 }).toBe(0)
  report(name, await of.judge(), note())
}

const random = (from: number, to: number) => from + Math.random() * (to - from)

const tallyText = (of: AuditedBroker) =>
  Object.entries(of.tally())
    .map(([what, count]) => `${count} × ${what}`)
    .join(', ')

describe('a process that is killed', () => {
  it.each(['process', 'disk'] as const)(
    'kill -9 of what records, durability %s',
    async (durability) => {
      const database = await createTestDatabase({ pool: 2 })
      const directory = await mkdtemp(join(tmpdir(), 'onbehalf-chaos-'))
      const program = join(import.meta.dirname, 'recorder.mjs')
      const said = new Set<string>()
      const start = () => {
        const child = spawn(process.execPath, [program, directory, database.url, durability], {
          stdio: ['ignore', 'pipe', 'inherit'],
        })
        const ended = once(child, 'close')
        createInterface(child.stdout).on('line', (line) => {
          // What was cut off while it was written was not said.
          if (line.length === 36) said.add(line)
        })
        return { child, ended }
      }
      const times = durability === 'process' ? kills : Math.ceil(kills / 5)
      for (let kill = 0; kill < times; kill += 1) {
        const { child, ended } = start()
        const before = said.size
        // One in five is killed while it starts, which is when it reads what the last one left.
        if (kill % 5 < 4) while (said.size === before) await sleep(5)
        await sleep(random(0, 400))
        child.kill('SIGKILL')
        await ended
        process.stderr.write(`\r${kill + 1} of ${times} kills`)
      }
      process.stderr.write('\n')
      const last = start()
      const before = said.size
      // From then on its own spool is the newest.
      while (said.size === before) await sleep(5)
      const bytesLeft = () => bytesOf(directory, writersIn(directory).slice(0, -1))
      await expect.poll(bytesLeft, { timeout: 600_000 }).toBe(0)
      last.child.kill('SIGTERM')
      await last.ended
      expect(writersIn(directory)).toEqual([])
      const verdict = await judgeRecords(database.url, [...said])
      report(
        `${times} × \`kill -9\` of the part that records (\`${durability}\`)`,
        verdict,
        `${verdict.writers} writers`,
      )
      await database.drop()
      await rm(directory, { recursive: true, force: true })
    },
  )

  it.each(['process', 'disk'] as const)(
    'kill -9 of a broker under load, durability %s',
    async (durability) => {
      const of = await prepare((config) => {
        config['audit'] = { durability }
      })
      const times = Math.ceil(kills / (durability === 'process' ? 10 : 25))
      for (let kill = 0; kill < times; kill += 1) {
        const starting = of.start()
        if (kill % 5 === 4) {
          starting.catch(() => {})
          await sleep(random(100, 1500))
        } else {
          await starting
        }
        const end = of.load(kill % 5 === 4 ? 0 : 16)
        if (kill % 5 < 4) await Promise.race([of.answers(Math.ceil(random(1, 300))), sleep(3000)])
        await sleep(random(0, 20))
        of.program().kill('SIGKILL')
        await of.program().ended
        await end()
        process.stderr.write(`\r${kill + 1} of ${times} kills`)
      }
      process.stderr.write('\n')
      await of.start()
      await settle(
        of,
        `${times} × \`kill -9\` of a broker under load (\`${durability}\`)`,
        () => '',
      )
    },
  )

  it('SIGTERM under load: it ends with 0 and leaves nothing in the spool', async () => {
    const of = await prepare()
    let longestMs = 0
    for (let stop = 0; stop < stops; stop += 1) {
      await of.start()
      const end = of.load(16)
      await of.answers(Math.ceil(random(1, 500)))
      const startMs = performance.now()
      of.program().kill('SIGTERM')
      expect((await of.program().ended).code).toBe(0)
      longestMs = Math.max(longestMs, performance.now() - startMs)
      await end()
      expect(await of.judge()).toMatchObject({ missing: [], doubled: [], broken: [] })
    }
    await of.start()
    await settle(
      of,
      `${stops} × SIGTERM under load`,
      () => `the slowest took ${(longestMs / 1000).toFixed(1)} s`,
    )
  })

  it('SIGSTOP and SIGCONT under load', async () => {
    const of = await prepare()
    await of.start()
    const end = of.load(16)
    for (let stop = 0; stop < 10; stop += 1) {
      await of.answers(100)
      of.program().kill('SIGSTOP')
      await sleep(stop % 3 === 2 ? 12_000 : random(100, 2000))
      of.program().kill('SIGCONT')
    }
    await of.answers(100)
    await end()
    await settle(of, '10 × SIGSTOP for up to 12 s under load', () => tallyText(of))
  })
})

describe('a database that is away', () => {
  it('for a while under load: served for 10 s, then 503, every record arrives, calls work within 5 s of its return', async () => {
    const of = await prepare()
    await of.start()
    const warm = of.load(4)
    await of.answers(200)
    await warm()
    const begun = performance.now()
    of.door.shut()
    const seen: { ms: number; took: number; status: number; code: string | undefined }[] = []
    let isOver = false
    const callers = Array.from({ length: 8 }, async () => {
      for (;;) {
        if (isOver) return
        const startMs = performance.now()
        const answer = await of.call(AbortSignal.timeout(30_000))
        expect(answer).toBeDefined()
        const now = performance.now()
        seen.push({
          ms: now - begun,
          took: now - startMs,
          status: answer?.status ?? 0,
          code: answer?.code,
        })
        await sleep(20)
      }
    })
    await sleep(outageSeconds * 1000)
    const waiting = await of.metric('onbehalf_audit_spool_records')
    of.door.open()
    const backMs = performance.now() - begun
    await expect
      .poll(() => seen.some(({ ms, status }) => ms > backMs && status === 200), {
        timeout: 30_000,
        interval: 10,
      })
      .toBe(true)
    const worksAfterMs =
      Math.min(
        ...seen.filter(({ ms, status }) => ms > backMs && status === 200).map(({ ms }) => ms),
      ) - backMs
    await sleep(1000)
    isOver = true
    await Promise.all(callers)
    const during = seen.filter(({ ms }) => ms < backMs)
    const lastServedMs = Math.max(
      ...during.filter(({ status }) => status === 200).map(({ ms }) => ms),
    )
    const longestMs = Math.max(...seen.map(({ took }) => took))
    const note = () =>
      `served for ${(lastServedMs / 1000).toFixed(1)} s, then 503; ${waiting} records waited; slowest answer ${(longestMs / 1000).toFixed(1)} s; calls worked ${(worksAfterMs / 1000).toFixed(1)} s after its return`
    await settle(of, `database away for ${outageSeconds} s under load`, note)
    expect(new Set(during.map(({ status, code }) => `${status} ${code ?? ''}`))).toEqual(
      new Set(['200 ', '503 storage_unavailable']),
    )
    expect(worksAfterMs).toBeLessThan(5000)
    expect(lastServedMs).toBeGreaterThan(5000)
    expect(lastServedMs).toBeLessThan(12_000)
  })

  it('and the process killed again and again meanwhile', async () => {
    const of = await prepare()
    for (let kill = 0; kill < 5; kill += 1) {
      of.door.open()
      await of.start()
      const end = of.load(8)
      await of.answers(100)
      of.door.shut()
      await of.answers(100)
      of.program().kill('SIGKILL')
      await of.program().ended
      await end()
    }
    of.door.open()
    await of.start()
    await settle(of, '5 × database away, then `kill -9`', () => '')
  })
})

describe('a disk that is full', () => {
  it.each(['refuse', 'drop'] as const)('the limit of the spool, %s', async (whenFull) => {
    const of = await prepare((config) => {
      config['audit'] = { when_full: whenFull, spool_limit: '1MiB' }
    })
    await of.start()
    const warm = of.load(4)
    await of.answers(200)
    await warm()
    of.door.shut()
    const end = of.load(32)
    await expect
      .poll(async () => (await of.metric('onbehalf_audit_spool_bytes')) >= 1024 ** 2, {
        timeout: 60_000,
      })
      .toBe(true)
    await of.answers(100)
    await end()
    of.door.open()
    const dropped = await of.metric('onbehalf_audit_dropped_total')
    if (whenFull === 'refuse') {
      expect(of.tally()['503 audit_unavailable']).toBeGreaterThan(0)
      await settle(of, '`spool_limit` reached (`refuse`)', () => tallyText(of))
    } else {
      expect(of.tally()['503 audit_unavailable']).toBeUndefined()
      await expect.poll(() => of.metric('onbehalf_audit_spool_bytes'), { timeout: 60_000 }).toBe(0)
      const verdict = await of.judge()
      expect(dropped).toBeGreaterThan(0)
      expect(verdict).toMatchObject({ doubled: [], broken: [] })
      expect(verdict.missing).toHaveLength(dropped)
      table['`spool_limit` reached (`drop`)'] = {
        answered: verdict.answered,
        records: verdict.records,
        missing: verdict.missing.length,
        doubled: 0,
        broken: 0,
        note: `all ${dropped} counted in \`onbehalf_audit_dropped_total\``,
      }
    }
  })

  it('files that cannot grow (EFBIG), refuse: 503, and it heals by itself', async () => {
    const of = await prepare()
    await of.start()
    const end = of.load(8)
    await of.answers(200)
    const limit = (bytes: string) =>
      run('prlimit', ['--pid', String(of.program().pid), `--fsize=${bytes}`])
    await limit('0:')
    await expect
      .poll(() => of.tally()['503 audit_unavailable'] ?? 0, { timeout: 20_000 })
      .toBeGreaterThan(20)
    await limit('unlimited:')
    const before = of.tally()['200'] ?? 0
    await expect
      .poll(() => of.tally()['200'] ?? 0, { timeout: 20_000 })
      .toBeGreaterThan(before + 100)
    await end()
    await settle(of, 'files that cannot be written for a while (`refuse`)', () => tallyText(of))
  })
})
