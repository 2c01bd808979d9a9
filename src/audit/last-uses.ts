import {
  type ActivityColumn,
  type ActivityLine,
  activityColumns,
  type CredentialUse,
} from '../core/ports/activity-batches.ts'

/** Which connections were used, and when the database is told: a busy one is used thousands of times a second. */
export type LastUses = {
  /** Notes what a record says. */
  readonly note: (line: ActivityLine) => void
  /** What to store now: everything when there is time for it, else what was not stored within the last 30 s. */
  readonly due: (nowMs: number, hasTime: boolean) => readonly CredentialUse[]
  /** They are stored. */
  readonly stored: (uses: readonly CredentialUse[], nowMs: number) => void
  readonly isEmpty: () => boolean
}

const EVERY_MS = 30_000
/** Going through all that wait costs something when it is thousands. */
const LOOK_EVERY_MS = 1000
/** Beyond that a connection may be stored more often, which costs little. */
const MOST_REMEMBERED = 50_000
/** As many as a statement has records, about. */
const MOST_AT_ONCE = 1000

const useActions: ReadonlySet<string> = new Set(['inject', 'acquire', 'refresh'])

const columnAt = Object.fromEntries(
  activityColumns.map((column, index) => [column, index]),
) as Readonly<Record<ActivityColumn, number>>

export function createLastUses(): LastUses {
  let lookAtMs = 0
  const storedAtMs = new Map<string, number>()
  const waiting = new Map<string, CredentialUse>()

  return {
    note(line) {
      const use = useOf(line)
      if (use === undefined) return
      const key = keyOf(use)
      const known = waiting.get(key)
      if (known === undefined || known.usedAt < use.usedAt) waiting.set(key, use)
    },
    due(nowMs, hasTime) {
      if (!hasTime && nowMs < lookAtMs) return []
      lookAtMs = nowMs + LOOK_EVERY_MS
      const due: CredentialUse[] = []
      for (const [key, use] of waiting) {
        if (due.length === MOST_AT_ONCE) {
          lookAtMs = nowMs
          break
        }
        const at = storedAtMs.get(key)
        if (hasTime || at === undefined || nowMs - at >= EVERY_MS) due.push(use)
      }
      return due
    },
    stored(uses, nowMs) {
      for (const use of uses) {
        const key = keyOf(use)
        if (waiting.get(key)?.usedAt === use.usedAt) waiting.delete(key)
        // Behind all others, so that the first is the one that was stored longest ago.
        storedAtMs.delete(key)
        storedAtMs.set(key, nowMs)
      }
      for (const key of storedAtMs.keys()) {
        if (storedAtMs.size <= MOST_REMEMBERED) break
        storedAtMs.delete(key)
      }
    },
    isEmpty: () => waiting.size === 0,
  }
}

function keyOf({ issuer, userId, upstream }: CredentialUse): string {
  return `${upstream}\t${userId}\t${issuer}`
}

/** Undefined where the record is of something else, or of a renewal that no person asked for. */
function useOf(line: ActivityLine): CredentialUse | undefined {
  const values = line.split('\t')
  const valueOf = (column: ActivityColumn) => values[columnAt[column]] ?? ''
  if (valueOf('outcome') !== 'success' || !useActions.has(valueOf('action'))) return undefined
  if (valueOf('type') !== 'credential_broker' || valueOf('actor_kind') === 'system') {
    return undefined
  }
  const use = {
    issuer: valueOf('issuer'),
    userId: valueOf('user_id'),
    upstream: valueOf('upstream'),
    usedAt: valueOf('occurred_at'),
  }
  return use.issuer === '' || use.userId === '' || use.upstream === '' ? undefined : use
}
