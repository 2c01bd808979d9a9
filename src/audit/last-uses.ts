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

const writeEveryMs = 30_000
/** Going through all that wait costs something when it is thousands. */
const lookEveryMs = 1000
/** Beyond that a connection may be stored more often, which costs little. */
const mostRemembered = 50_000
/** As many as a statement has records, about. */
const mostAtOnce = 1000

const useActions: ReadonlySet<string> = new Set(['inject', 'acquire', 'refresh'])

const columnAt = Object.fromEntries(
  activityColumns.map((column, index) => [column, index]),
) as Readonly<Record<ActivityColumn, number>>

export function createLastUses(): LastUses {
  let lookAtMs = 0
  const storedAtMs = new Map<string, number>()
  /** When each was used last. */
  const waiting = new Map<string, number>()

  return {
    note(line) {
      const use = useOf(line)
      if (use === undefined) return
      const knownMs = waiting.get(use.key)
      if (knownMs === undefined) waiting.set(copyOf(use.key), use.usedAtMs)
      else if (knownMs < use.usedAtMs) waiting.set(use.key, use.usedAtMs)
    },
    due(nowMs, hasTime) {
      if (!hasTime && nowMs < lookAtMs) return []
      lookAtMs = nowMs + lookEveryMs
      const due: CredentialUse[] = []
      for (const [key, usedAtMs] of waiting) {
        if (due.length === mostAtOnce) {
          lookAtMs = nowMs
          break
        }
        const at = storedAtMs.get(key)
        if (hasTime || at === undefined || nowMs - at >= writeEveryMs)
          due.push(credentialUse(key, usedAtMs))
      }
      return due
    },
    stored(uses, nowMs) {
      for (const use of uses) {
        const key = copyOf(keyOf(use))
        if (waiting.get(key) === Date.parse(use.usedAt)) waiting.delete(key)
        // Behind all others, so that the first is the one that was stored longest ago.
        storedAtMs.delete(key)
        storedAtMs.set(key, nowMs)
      }
      for (const key of storedAtMs.keys()) {
        if (storedAtMs.size <= mostRemembered) break
        storedAtMs.delete(key)
      }
    },
    isEmpty: () => waiting.size === 0,
  }
}

type Use = { readonly key: string; readonly usedAtMs: number }

function keyOf({ issuer, userId, upstream }: Omit<CredentialUse, 'usedAt'>): string {
  return `${upstream}\t${userId}\t${issuer}`
}

function credentialUse(key: string, usedAtMs: number): CredentialUse {
  const [upstream = '', userId = '', issuer = ''] = key.split('\t')
  return { issuer, userId, upstream, usedAt: new Date(usedAtMs).toISOString() }
}

/**
 * A part of a text keeps the whole text in memory, and what a record says is part of a frame of many: 100,000 uses that waited
 * kept 53 MB, and keep 11 MB this way. Only a way through bytes is sure to copy.
 */
function copyOf(text: string): string {
  return Buffer.from(text).toString()
}

/** Undefined where the record is of something else, or of a renewal that no person asked for. */
function useOf(line: ActivityLine): Use | undefined {
  const values = line.split('\t')
  const valueOf = (column: ActivityColumn) => values[columnAt[column]] ?? ''
  if (valueOf('outcome') !== 'success' || !useActions.has(valueOf('action'))) return undefined
  if (valueOf('type') !== 'credential_broker' || valueOf('actor_kind') === 'system') {
    return undefined
  }
  const [issuer, userId, upstream] = [valueOf('issuer'), valueOf('user_id'), valueOf('upstream')]
  const usedAtMs = Date.parse(valueOf('occurred_at'))
  if (issuer === '' || userId === '' || upstream === '' || Number.isNaN(usedAtMs)) return undefined
  return { key: keyOf({ issuer, userId, upstream }), usedAtMs }
}
