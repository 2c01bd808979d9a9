import fs from 'node:fs'
import { basename, dirname, join } from 'node:path'
import type { ActivityLine } from '../core/ports/activity-batches.ts'
import { decodeFrame, type Frame, findFrame, isCutFrame } from './spool-frames.ts'
import { segmentPath, segmentsIn } from './spool-files.ts'

export type SpooledRecord = {
  /** Which of its writer's it is, from 1 on. */
  readonly position: number
  readonly line: ActivityLine
  /** What its frame takes in the spool, with the frame's last record; 0 with the others. */
  readonly bytes: number
}

/** What is wrong with a segment. It is set aside, not removed. */
export type SpoolDamage = {
  readonly segment: string
  /** That cannot be read. */
  readonly bytes: number
  /** Records that are missing before the next good one; null where none follows. */
  readonly lost: number | null
}

/** Gives the records of one writer's spool in their order, each once, and removes what is stored. */
export type SpoolReader = {
  /** The next records, `most` at most, none that was written behind position `upTo` when it is a spool that still grows. */
  readonly take: (most: number, upTo: number) => readonly SpooledRecord[]
  /** Records up to this position need no spool any more. */
  readonly release: (position: number) => void
  /** When all is released: removes the files and their directory. */
  readonly remove: () => void
}

export function createSpoolReader(options: {
  readonly directory: string
  /** Of the first record that is wanted. */
  readonly from: number
  /** Whether its process still appends to it. */
  readonly isGrowing: boolean
  readonly onDamage: (damage: SpoolDamage) => void
}): SpoolReader {
  const { directory, isGrowing } = options
  let wanted = options.from
  let isFirst = true
  let number = 0
  let open: { readonly fd: number; offset: number } | undefined
  /** Of the open segment, from `offset` on; what came later is read when this is used up. */
  let unread = Buffer.alloc(0)
  let ready: SpooledRecord[] = []
  /** What could not be read since the last good frame. */
  let doubt: { readonly number: number; bytes: number; isCut: boolean } | undefined
  /** Read to the end, with the position of the last record up to there. */
  let finished: { readonly number: number; readonly last: number }[] = []
  const damaged = new Set<number>()

  function take(most: number, upTo: number): readonly SpooledRecord[] {
    while (ready.length < most && wanted <= upTo) {
      const frame = nextFrame()
      if (frame === undefined) break
      keep(frame)
    }
    return ready.splice(0, most)
  }

  function keep({ position, lines, bytes }: Frame): void {
    const missing = position - wanted
    // What was stored before this run began may be gone from the beginning.
    if (!isFirst && (missing > 0 || doubt?.isCut === false)) report(Math.max(0, missing))
    isFirst = false
    doubt = undefined
    const last = position + lines.length - 1
    // A frame that was written twice, because the first time did not reach the disk, is here twice.
    for (let at = Math.max(wanted, position); at <= last; at += 1) {
      ready.push({
        position: at,
        line: lines[at - position] ?? '',
        bytes: at === last ? bytes : 0,
      })
    }
    wanted = Math.max(wanted, last + 1)
  }

  function report(lost: number | null): void {
    const segment = doubt?.number ?? number
    damaged.add(segment)
    options.onDamage({ segment: nameOf(segment), bytes: doubt?.bytes ?? 0, lost })
  }

  function nextFrame(): Frame | undefined {
    for (;;) {
      if (open === undefined && !openNext()) return undefined
      const frame = decodeFrame(unread, 0)
      if (typeof frame === 'object') {
        skip(frame.bytes)
        return frame
      }
      // Asked first: what is appended between the two would be overlooked otherwise.
      const isLast = segmentsIn(directory).every((other) => other <= number)
      if (refill()) continue
      const good = findFrame(unread, 0)
      if (good !== undefined) {
        doubtful(good, false)
        skip(good)
        continue
      }
      if (isLast && isGrowing) return undefined
      if (unread.length > 0) doubtful(unread.length, isCutFrame(unread))
      closeSegment()
      if (isLast && doubt?.isCut === false) {
        report(null)
        doubt = undefined
      }
    }
  }

  function doubtful(bytes: number, isCut: boolean): void {
    doubt ??= { number, bytes: 0, isCut: true }
    doubt.bytes += bytes
    doubt.isCut &&= isCut
    if (!isCut) damaged.add(number)
  }

  function openNext(): boolean {
    const next = segmentsIn(directory).find((other) => other > number)
    if (next === undefined) return false
    number = next
    open = { fd: fs.openSync(segmentPath(directory, next), 'r'), offset: 0 }
    unread = Buffer.alloc(0)
    return true
  }

  function skip(bytes: number): void {
    if (open !== undefined) open.offset += bytes
    unread = unread.subarray(bytes)
  }

  /** Reads the rest of the segment anew; false when that is what we had already. */
  function refill(): boolean {
    if (open === undefined) return false
    const { fd, offset } = open
    const rest = Buffer.alloc(Math.max(0, fs.fstatSync(fd).size - offset))
    const length = fs.readSync(fd, rest, 0, rest.length, offset)
    const before = unread
    unread = rest.subarray(0, length)
    return !unread.equals(before)
  }

  function closeSegment(): void {
    if (open === undefined) return
    fs.closeSync(open.fd)
    open = undefined
    finished.push({ number, last: wanted - 1 })
  }

  function release(position: number): void {
    const done = finished.filter(({ last }) => last <= position)
    if (done.length === 0) return
    finished = finished.filter(({ last }) => last > position)
    for (const { number: segment } of done) discard(segment)
  }

  function discard(segment: number): void {
    const path = segmentPath(directory, segment)
    if (!damaged.has(segment)) {
      fs.rmSync(path, { force: true })
      return
    }
    const aside = join(dirname(directory), 'damaged')
    fs.mkdirSync(aside, { recursive: true, mode: 0o700 })
    fs.renameSync(path, join(aside, `${basename(directory)}-${basename(path)}`))
  }

  function nameOf(segment: number): string {
    return `${basename(directory)}/${basename(segmentPath(directory, segment))}`
  }

  return {
    take,
    release,
    remove() {
      closeSegment()
      release(Number.POSITIVE_INFINITY)
      // What was never opened holds nothing that is wanted.
      fs.rmSync(directory, { recursive: true, force: true })
    },
  }
}
