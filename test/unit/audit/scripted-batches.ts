import type { AuditLog } from '../../../src/audit/audit-log.ts'
import { genesisHash } from '../../../src/audit/chain.ts'
import { BrokerError } from '../../../src/core/errors.ts'
import type {
  ActivityBatch,
  ActivityBatches,
  ActivityLine,
  WriterHead,
} from '../../../src/core/ports/activity-batches.ts'

export type ScriptedBatches = ActivityBatches & {
  /** The batches of each call, also of those that failed. */
  readonly calls: ActivityBatch[]
  /** Stored lines in their order, each with its hash. */
  readonly stored: () => string[]
  readonly head: (writer: string) => WriterHead | undefined
  /** How many calls were under way at once at most. */
  readonly mostAtOnce: () => number
  /** What the next calls do; after these they store. `lost_answer`: stored, but nobody hears of it. */
  readonly script: ('fails' | 'lost_answer')[]
  /** Calls wait from now on; gives the end of it. */
  readonly hold: () => () => void
  /** Lines of which the database wants no batch that holds one. */
  refuses: (line: ActivityLine) => boolean
}

/** A database that keeps to the port, as a script. */
export function createScriptedBatches(): ScriptedBatches {
  const calls: ActivityBatch[] = []
  const stored: string[] = []
  const heads = new Map<string, WriterHead>()
  const script: ('fails' | 'lost_answer')[] = []
  let gate = Promise.resolve()
  let underWay = 0
  let mostAtOnce = 0

  const batches: ScriptedBatches = {
    calls,
    script,
    stored: () => [...stored],
    head: (writer) => heads.get(writer),
    mostAtOnce: () => mostAtOnce,
    refuses: () => false,
    hold() {
      let release = () => {}
      gate = new Promise((resolve) => {
        release = resolve
      })
      return release
    },
    async open(writer) {
      const head = heads.get(writer) ?? { seq: 0, hash: genesisHash, position: 0 }
      heads.set(writer, head)
      return head
    },
    async append(batch) {
      calls.push(batch)
      underWay += 1
      mostAtOnce = Math.max(mostAtOnce, underWay)
      await gate
      await new Promise((resolve) => setImmediate(resolve))
      underWay -= 1
      const step = script.shift()
      const fault = new BrokerError('storage_unavailable', {
        cause: Object.assign(new Error('secret text of the driver'), { code: '57P01' }),
      })
      if (step === 'fails') throw fault
      const head = heads.get(batch.writer)
      if (head?.seq !== batch.before.seq || head.position !== batch.before.position) return 'moved'
      if (batch.lines.some((line) => batches.refuses(line))) return 'refused'
      stored.push(...batch.lines)
      heads.set(batch.writer, batch.after)
      if (step === 'lost_answer') throw fault
      return 'stored'
    },
  }
  return batches
}

export type LogEntry = Parameters<AuditLog['error']>[0] | Parameters<AuditLog['info']>[0]

export function createCollectedLog(): AuditLog & { readonly entries: LogEntry[] } {
  const entries: LogEntry[] = []
  return {
    entries,
    error: (entry) => entries.push(entry),
    info: (entry) => entries.push(entry),
  }
}
