import { setTimeout as sleep } from 'node:timers/promises'
import type { ActivityPartitions } from '../core/ports/activity-partitions.ts'
import type {
  ActivityProofRecords,
  ActivityRemoval,
  ActivityRow,
} from '../core/ports/activity-proof.ts'
import type { ActivitySigner } from '../core/ports/activity-signer.ts'
import type { TaskLeases } from '../core/ports/task-leases.ts'
import { createChainVerifier } from './chain-verifier.ts'
import { readRemovals, rowPages } from './proof-pages.ts'
import { removalText } from './signed-statements.ts'

export type RetentionLog = {
  info(entry: { readonly event: 'activity_week_dropped'; readonly week: string }): void
  warn(
    entry:
      | { readonly event: 'activity_retention_failed' }
      /** Rows that did not fit the chain: removed as the others, but `activity verify` goes on naming them. */
      | {
          readonly event: 'activity_week_altered'
          readonly week: string
          readonly records: number
        },
  ): void
}

export type RetentionPorts = {
  readonly partitions: ActivityPartitions
  readonly records: ActivityProofRecords
  readonly signer: ActivitySigner
  readonly leases: TaskLeases
  readonly retentionDays: number
  readonly log: RetentionLog
}

const task = 'activity_retention'
const leaseMs = 60_000
const intervalMs = 60 * 60_000
const soonMs = 60_000
/** After each page of rows: this is nobody's hurry, and calls are answered on the same thread. */
const restMs = 5

/** Thrown where another process took over. */
class LeaseLost extends Error {}

/**
 * Removes what is older than the retention, at once and every hour, on one replica at a time. A week is taken out of the log,
 * read once more, and dropped when it is signed which records it held. Only records that fit the chain are signed for, so
 * that a record with a time put back is not made to disappear in good order. The first run is over when the promise resolves.
 */
export async function startRetention(
  ports: RetentionPorts,
): Promise<{ readonly stop: () => Promise<void> }> {
  const abort = new AbortController()
  let timer: NodeJS.Timeout | undefined
  let running = Promise.resolve()

  const run = async () => {
    const isDone = await removeOld(ports, abort.signal).catch(() => {
      if (!abort.signal.aborted) ports.log.warn({ event: 'activity_retention_failed' })
      return false
    })
    if (abort.signal.aborted) return
    timer = setTimeout(
      () => {
        running = run()
      },
      isDone ? intervalMs : soonMs,
    )
    timer.unref()
  }

  running = run()
  await running
  return {
    async stop() {
      abort.abort()
      clearTimeout(timer)
      await running
    },
  }
}

/** One run; false where something is left to do. Does nothing where another process is at it. */
export async function removeOld(ports: RetentionPorts, signal: AbortSignal): Promise<boolean> {
  const { partitions, leases, retentionDays } = ports
  if (!(await leases.hold(task, leaseMs))) return true
  try {
    const isDone = await partitions.takeOut(retentionDays)
    for (const name of await partitions.takenOut()) await remove(ports, name, signal)
    return isDone
  } finally {
    await leases.release(task).catch(() => {})
  }
}

async function remove(ports: RetentionPorts, name: string, signal: AbortSignal): Promise<void> {
  const { partitions, records, signer, log } = ports
  const { removed } = await readRemovals(records, await keysOf(signer))
  const verifier = createChainVerifier({ heads: [], checkpoints: [], removed })
  let chained = 0
  await eachRow(ports, name, signal, (row) => {
    if (row.writer === null) return
    verifier.add(row)
    chained += 1
  })
  // A run in the middle of a chain, as of a clock that was set back: what it goes on from is still in the log.
  const wanted = new Set(verifier.wanted().map(({ writer, seq }) => `${writer} ${seq}`))
  if (wanted.size > 0) {
    for (const table of await records.tables()) {
      await eachRow(ports, table, signal, ({ writer, seq, hash }) => {
        if (writer === null || seq === null || hash === null) return
        if (wanted.delete(`${writer} ${seq}`)) verifier.learn({ writer, seq, hash })
      })
    }
  }

  const runs = verifier.soundRuns()
  const signed = await Promise.all(
    runs.map(async ({ writer, first, last, lastHash }) => {
      const hash = lastHash.toString('hex')
      const removal: ActivityRemoval = { partition: name, writer, first, last, lastHash: hash }
      return { ...removal, signed: await signer.sign(removalText(removal)) }
    }),
  )
  for (let at = 0; at < signed.length; at += 500) {
    await records.addRemovals(signed.slice(at, at + 500))
  }
  const altered = chained - runs.reduce((sum, { first, last }) => sum + last - first + 1, 0)
  if (altered > 0) log.warn({ event: 'activity_week_altered', week: name, records: altered })
  await holdOn(ports)
  await partitions.drop(name)
  log.info({ event: 'activity_week_dropped', week: name })
}

async function eachRow(
  ports: RetentionPorts,
  table: string,
  signal: AbortSignal,
  use: (row: ActivityRow) => void,
): Promise<void> {
  for await (const page of rowPages(ports.records, table)) {
    page.forEach(use)
    await sleep(restMs, undefined, { signal })
    await holdOn(ports)
  }
}

async function holdOn({ leases }: RetentionPorts): Promise<void> {
  if (!(await leases.hold(task, leaseMs))) throw new LeaseLost()
}

async function keysOf(signer: ActivitySigner): Promise<ReadonlyMap<string, string>> {
  return new Map((await signer.keys()).map(({ kid, x }) => [kid, x]))
}
