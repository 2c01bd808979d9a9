import type { AuditLog, AuditLossCause } from './audit-log.ts'

/** Counts what is lost and says so without flooding the log. */
export type Losses = {
  readonly total: () => number
  readonly add: (cause: AuditLossCause, count: number) => void
  /** One record that the database refuses. */
  readonly addRefused: (id: string) => void
  /** Records of a damaged spool, of which the log knows already. */
  readonly addDamaged: (count: number) => void
  /** Says what has not been said yet. */
  readonly close: () => void
}

/** The first loss is said at once; what follows within this time in one line for each cause. */
const quietMs = 10_000
/** Refused records that are named within that time; further ones are only counted. */
const mostNamedIds = 20

export function createLosses(ports: {
  readonly log: AuditLog
  readonly onDrop: ((count: number) => void) | undefined
}): Losses {
  const unsaid = new Map<AuditLossCause, number>()
  let total = 0
  let namedIds = 0
  let quiet: NodeJS.Timeout | undefined

  function count(lost: number): void {
    total += lost
    try {
      ports.onDrop?.(lost)
    } catch {
      // Who counts along must not fail the call whose record this is.
    }
  }

  function say(): void {
    for (const [cause, lost] of unsaid) {
      ports.log.error({ event: 'activity_records_dropped', cause, count: lost })
    }
    unsaid.clear()
  }

  function beQuiet(): void {
    quiet = setTimeout(() => {
      quiet = undefined
      namedIds = 0
      if (unsaid.size === 0) return
      say()
      beQuiet()
    }, quietMs)
    quiet.unref()
  }

  function add(cause: AuditLossCause, lost: number): void {
    if (lost === 0) return
    count(lost)
    unsaid.set(cause, (unsaid.get(cause) ?? 0) + lost)
    if (quiet !== undefined) return
    say()
    beQuiet()
  }

  return {
    total: () => total,
    add,
    addRefused(id) {
      if (namedIds === mostNamedIds) {
        add('refused_record', 1)
        return
      }
      namedIds += 1
      count(1)
      ports.log.error({ event: 'activity_record_refused', id })
      if (quiet === undefined) beQuiet()
    },
    addDamaged: count,
    close() {
      clearTimeout(quiet)
      say()
    },
  }
}
