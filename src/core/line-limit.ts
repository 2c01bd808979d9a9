import type { Clock } from './ports/clock.ts'

/** Whether a line of this kind may be written now. Kinds come from a closed set: each is remembered for good. */
export type LineLimit = (kind: string) => boolean

const everyMs = 10_000

/** Lets one line of a kind through every ten seconds, so that no caller and no dead configuration floods the log. */
export function createLineLimit({ clock }: { readonly clock: Clock }): LineLimit {
  const writtenAt = new Map<string, number>()
  return (kind) => {
    const now = clock.now().getTime()
    const last = writtenAt.get(kind)
    // Either way: a clock that was set back must not keep a line away for hours.
    if (last !== undefined && Math.abs(now - last) < everyMs) return false
    writtenAt.set(kind, now)
    return true
  }
}
