import { idOfLine } from '../../../src/audit/activity-line.ts'
import type { AuditLog } from '../../../src/audit/audit-log.ts'
import { BrokerError } from '../../../src/core/errors.ts'
import type { ActivityBatches, ActivityLine } from '../../../src/core/ports/activity-batches.ts'

export type ScriptedBatches = ActivityBatches & {
  /** The lines of each call, also of those that failed. */
  readonly calls: (readonly ActivityLine[])[]
  /** Stored lines in their order; a second one of an id is left out, as `ON CONFLICT DO NOTHING` does. */
  readonly stored: () => ActivityLine[]
  /** How many calls were under way at once at most. */
  readonly mostAtOnce: () => number
  /** What the next calls do; after these they store. `lost_answer`: stored, but nobody hears of it. */
  readonly script: ('fails' | 'lost_answer')[]
  /** Calls wait from now on; gives the end of it. */
  readonly hold: () => () => void
  /** Lines of which the database wants no batch that holds one. */
  refuses: (line: ActivityLine) => boolean
}

export function createScriptedBatches(): ScriptedBatches {
  const calls: (readonly ActivityLine[])[] = []
  const stored = new Map<string, ActivityLine>()
  const script: ('fails' | 'lost_answer')[] = []
  let gate = Promise.resolve()
  let underWay = 0
  let mostAtOnce = 0

  const batches: ScriptedBatches = {
    calls,
    script,
    stored: () => [...stored.values()],
    mostAtOnce: () => mostAtOnce,
    refuses: () => false,
    hold() {
      let release = () => {}
      gate = new Promise((resolve) => {
        release = resolve
      })
      return release
    },
    async insert(lines) {
      calls.push([...lines])
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
      if (lines.some((line) => batches.refuses(line))) return 'refused'
      for (const line of lines) stored.set(idOfLine(line), stored.get(idOfLine(line)) ?? line)
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
