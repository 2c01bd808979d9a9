import { performance } from 'node:perf_hooks'
import { encodeFrame, headerBytes } from './spool-frames.ts'
import { type SpoolFile, type SpoolFiles, segmentPath } from './spool-files.ts'
import type { SpoolMeter } from './spool-meter.ts'

/** The records of this process on their way to the database, as files that only grow. */
export type Spool = {
  /**
   * Appends records with one write. Undefined when the operating system has them and no more is asked for, else a promise.
   * @throws SpoolFault as a rejection. With `keep` they are written as soon as that works again; else they are lost.
   */
  readonly append: (text: string, count: number) => Promise<void> | undefined
  /** Records that are accepted, and their bytes with what surrounds them. */
  readonly accepted: () => { readonly records: number; readonly bytes: number }
  /** Whether the last attempt to write failed. */
  readonly isFailing: () => boolean
  /** Tries what is kept once more. */
  readonly close: () => void
}

export type SpoolOptions = {
  /** Of this spool alone. */
  readonly directory: string
  readonly files: SpoolFiles
  readonly meter: SpoolMeter
  readonly durability: 'process' | 'disk'
  /** Whether records are kept that could not be written. */
  readonly keep: boolean
  readonly onFault: (code: string) => void
  readonly onRecovered: () => void
}

/** Errors carry a code of the system only. */
export class SpoolFault extends Error {
  readonly code: string

  constructor(error: unknown) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined
    super('the spool cannot be written')
    this.name = 'SpoolFault'
    this.code = typeof code === 'string' && /^\w{1,64}$/.test(code) ? code : 'UNKNOWN'
  }
}

/** Some 3,000 records. A segment is removed as a whole, so smaller ones leave the disk earlier. */
const segmentBytes = 1024 * 1024
const retryMs = 500

type Segment = { readonly file: SpoolFile; size: number; isClosed: boolean }

/** Records written at once, and who waits for them. */
type Group = {
  /** A copy, for writing it again; empty where that will not be. */
  readonly frame: Buffer
  readonly end: number
  readonly done: (fault?: SpoolFault) => void
}

export function createSpool(options: SpoolOptions): Spool {
  const { directory, files, meter, keep } = options
  const toDisk = options.durability === 'disk'
  const scratch = Buffer.allocUnsafeSlow(64 * 1024)
  let records = 0
  let bytes = 0
  let segmentNumber = 0
  let segment: Segment | undefined
  /** Written and not on disk yet, and the files that hold them. */
  let unsynced: Group[] = []
  const dirty = new Set<Segment>()
  /** Under way to the disk, which a file must stay open for. */
  let syncing: readonly Segment[] = []
  let isSyncing = false
  /** Accepted, and not written because that failed. */
  let kept: Group[] = []
  let retryAt: number | undefined
  let retry: NodeJS.Timeout | undefined
  let closed = false

  function append(text: string, count: number): Promise<void> | undefined {
    const isResting = retryAt !== undefined && performance.now() < retryAt
    const isWaiting = kept.length > 0
    if (isResting && !keep) return Promise.reject(new SpoolFault({}))
    const position = records + 1
    let frame = scratch
    let length = encodeFrame(frame, text, count, position)
    if (length === undefined) {
      frame = Buffer.allocUnsafe(headerBytes + 3 * text.length)
      length = encodeFrame(frame, text, count, position) ?? 0
    }
    if (isResting || isWaiting) {
      accept(count, length)
      kept.push(keptGroup(frame, length))
      return Promise.reject(new SpoolFault({}))
    }
    try {
      put(frame, length)
    } catch (error) {
      const fault = failed(error)
      if (keep) {
        accept(count, length)
        kept.push(keptGroup(frame, length))
      }
      return Promise.reject(fault)
    }
    accept(count, length)
    if (!toDisk) {
      meter.written.set(records)
      recovered()
      return undefined
    }
    const copy = Buffer.from(frame.subarray(0, length))
    return new Promise((resolve, reject) => {
      const done = (fault?: SpoolFault) => (fault === undefined ? resolve() : reject(fault))
      unsynced.push({ frame: copy, end: records, done })
      if (!isSyncing) void sync()
    })
  }

  function accept(count: number, length: number): void {
    records += count
    bytes += length
  }

  function keptGroup(frame: Buffer, length: number): Group {
    return { frame: Buffer.from(frame.subarray(0, length)), end: records, done: () => {} }
  }

  /** @throws what the system says; nothing of the frame counts as written then. */
  function put(frame: Buffer, length: number): void {
    if (segment !== undefined && segment.size + length > segmentBytes) retire(segment)
    segment ??= openSegment()
    const { file, size } = segment
    try {
      for (let at = 0; at < length; ) at += file.write(frame, at, length - at)
    } catch (error) {
      abandon(segment, size)
      throw error
    }
    segment.size += length
    if (toDisk) dirty.add(segment)
  }

  function openSegment(): Segment {
    segmentNumber += 1
    return { file: files.create(segmentPath(directory, segmentNumber)), size: 0, isClosed: false }
  }

  function retire(full: Segment): void {
    segment = undefined
    close(full)
  }

  /** Once, and not before a sync is done with it: the system gives its number to the next file or socket that is opened. */
  function close(one: Segment): void {
    if (one.isClosed || one === segment || dirty.has(one) || syncing.includes(one)) return
    one.isClosed = true
    quietly(one.file.close)
  }

  /** Nothing is appended to a file that has failed once. Half a frame at its end is known as such by who reads it. */
  function abandon(broken: Segment, goodBytes: number): void {
    if (segment === broken) segment = undefined
    quietly(() => broken.file.truncate(goodBytes))
    if (goodBytes === 0) quietly(broken.file.remove)
    close(broken)
  }

  /** One at a time: who comes meanwhile joins the next. Never rejects. */
  async function sync(): Promise<void> {
    isSyncing = true
    let isSecondTry = false
    while (unsynced.length > 0) {
      const groups = unsynced
      unsynced = []
      const segments = [...dirty]
      syncing = segments
      dirty.clear()
      const results = await Promise.allSettled(segments.map(({ file }) => file.sync()))
      syncing = []
      const fail = results.find((result) => result.status === 'rejected')
      if (fail === undefined) {
        isSecondTry = false
        settle(groups)
        if (kept.length === 0) recovered()
      } else {
        // After a failed fdatasync the system may have thrown the data away and say nothing the next time, so neither these files
        // nor what was written to them since are trusted.
        const doubted = [...groups, ...unsynced]
        unsynced = []
        const written = [...dirty]
        dirty.clear()
        segment = undefined
        for (const one of written) close(one)
        const fault = failed(fail.reason)
        if (!keep) settle(doubted)
        else if (isSecondTry || !rewrite(doubted)) giveUp(doubted, fault)
        isSecondTry = true
      }
      for (const one of segments) close(one)
    }
    isSyncing = false
  }

  function settle(groups: readonly Group[]): void {
    const last = groups.at(-1)
    if (last !== undefined) meter.written.set(last.end)
    for (const group of groups) group.done()
  }

  /** Into a new file. True where that worked, and a sync has to follow. */
  function rewrite(groups: readonly Group[]): boolean {
    try {
      for (const { frame } of groups) put(frame, frame.length)
    } catch {
      return false
    }
    unsynced.unshift(...groups)
    return true
  }

  function giveUp(groups: readonly Group[], fault: SpoolFault): void {
    kept.unshift(...groups.map((group) => ({ ...group, done: () => {} })))
    for (const group of groups) group.done(fault)
  }

  function failed(error: unknown): SpoolFault {
    const fault = new SpoolFault(error)
    if (retryAt === undefined) options.onFault(fault.code)
    retryAt = performance.now() + retryMs
    if (keep && !closed) {
      clearTimeout(retry)
      retry = setTimeout(tryAgain, retryMs)
      retry.unref()
    }
    return fault
  }

  function tryAgain(): void {
    const groups = kept
    kept = []
    if (toDisk) {
      if (!rewrite(groups)) {
        kept = groups
        failed({})
      } else if (!isSyncing) {
        void sync()
      }
      return
    }
    while (groups.length > 0) {
      const [group] = groups
      if (group === undefined) break
      try {
        put(group.frame, group.frame.length)
      } catch (error) {
        kept = groups
        failed(error)
        return
      }
      meter.written.set(group.end)
      groups.shift()
    }
    recovered()
  }

  function recovered(): void {
    if (retryAt === undefined) return
    retryAt = undefined
    clearTimeout(retry)
    options.onRecovered()
  }

  return {
    append,
    accepted: () => ({ records, bytes }),
    isFailing: () => retryAt !== undefined,
    close() {
      closed = true
      clearTimeout(retry)
      if (kept.length > 0) tryAgain()
      const last = segment
      segment = undefined
      if (last !== undefined) close(last)
    },
  }
}

/** What fails here was useless already. */
function quietly(act: () => void): void {
  try {
    act()
  } catch {
    // As said.
  }
}
