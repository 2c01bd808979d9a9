import type { StreamedAnswer } from '../../core/ports/gateway.ts'
import { createEventScan } from './event-scan.ts'

/** An answer whose stream of events can be left between two of them, so that something else can go on in it. */
export type LeavableAnswer = {
  /** For whoever writes to it now. */
  readonly answer: StreamedAnswer
  /**
   * Lets it go as soon as its head and no half of an event is out: to whoever writes, its caller is gone then. False where
   * that cannot be, because the answer is no stream of plain events.
   */
  leave(): boolean
  hasLeft(): boolean
}

export function leavable(to: StreamedAnswer): LeavableAnswer {
  const events = createEventScan()
  let kind: 'unknown' | 'events' | 'other' = 'unknown'
  let isLeaving = false
  let hasLeft = false
  let gone = (): void => {}

  function letGo(): void {
    hasLeft = true
    gone()
  }

  return {
    answer: {
      ...to,
      begin(status, headers) {
        kind = isPlainEvents(status, headers) ? 'events' : 'other'
        to.begin(status, headers)
        if (isLeaving && kind === 'events') letGo()
      },
      write(chunk) {
        if (hasLeft) return true
        if (kind !== 'events') return to.write(chunk)
        const whole = events.scan(chunk)
        if (!isLeaving || whole === 0) return to.write(chunk)
        to.write(chunk.subarray(0, whole))
        letGo()
        return true
      },
      end() {
        if (!hasLeft) to.end()
      },
      cut() {
        if (!hasLeft) to.cut()
      },
      onGone(listener) {
        gone = listener
        to.onGone(listener)
      },
    },
    leave() {
      if (kind === 'other') return false
      if (!isLeaving && kind === 'events' && events.isBetween()) letGo()
      isLeaving = true
      return true
    },
    hasLeft: () => hasLeft,
  }
}

/** Where nothing but the end of an event says that one is whole, and bytes can be added. */
export function isPlainEvents(
  status: number,
  headers: Readonly<Record<string, string | readonly string[]>>,
): boolean {
  if (status !== 200 || headers['content-length'] !== undefined) return false
  const coding = headers['content-encoding']
  if (coding !== undefined && coding !== 'identity') return false
  return String(headers['content-type'] ?? '').startsWith('text/event-stream')
}
