import fs from 'node:fs'
import { dirname, join } from 'node:path'

/** A segment of a spool that is being appended to. */
export type SpoolFile = {
  /** Hands bytes to the operating system; gives how many it took. @throws what the system says */
  readonly write: (bytes: Buffer, offset: number, length: number) => number
  /** Resolves when all that was written is on stable storage, the file's name included. */
  readonly sync: () => Promise<void>
  readonly truncate: (length: number) => void
  readonly close: () => void
  readonly remove: () => void
}

/** Where segments are made: the file system, and in tests one that fails. */
export type SpoolFiles = {
  /** A new file for its owner's eyes only, with the directories above it. @throws what the system says */
  readonly create: (path: string) => SpoolFile
}

export const spoolFiles: SpoolFiles = {
  create(path) {
    const directory = dirname(path)
    fs.mkdirSync(directory, { recursive: true, mode: 0o700 })
    const fd = fs.openSync(path, 'ax', 0o600)
    let isNamed = false
    return {
      write: (bytes, offset, length) => fs.writeSync(fd, bytes, offset, length),
      async sync() {
        const synced = [dataSynced(fd)]
        // A file whose name is not on disk is not there after a power cut; nor is a directory.
        if (!isNamed) synced.push(directorySynced(directory), directorySynced(dirname(directory)))
        await Promise.all(synced)
        isNamed = true
      },
      truncate: (length) => fs.ftruncateSync(fd, length),
      close: () => fs.closeSync(fd),
      remove: () => fs.unlinkSync(path),
    }
  },
}

function dataSynced(fd: number): Promise<void> {
  return new Promise((resolve, reject) => {
    fs.fdatasync(fd, (error) => (error === null ? resolve() : reject(error)))
  })
}

async function directorySynced(path: string): Promise<void> {
  const directory = await fs.promises.open(path, 'r')
  try {
    await directory.sync()
  } finally {
    await directory.close()
  }
}

const segmentName = /^(\d{8,})\.spool$/
const writerName = /^[\da-f]{8}-[\da-f]{4}-7[\da-f]{3}-[\da-f]{4}-[\da-f]{12}$/

export function segmentPath(directory: string, number: number): string {
  return join(directory, `${String(number).padStart(8, '0')}.spool`)
}

/** The numbers of a spool's segments, in their order; none where there is no spool. */
export function segmentsIn(directory: string): number[] {
  return namesIn(directory)
    .map((name) => Number(segmentName.exec(name)?.[1]))
    .filter(Number.isFinite)
    .toSorted((one, other) => one - other)
}

/** The writers that have a spool below a directory, oldest first: their ids begin with their time. */
export function writersIn(directory: string): string[] {
  return namesIn(directory)
    .filter((name) => writerName.test(name))
    .toSorted()
}

/** What the spools of some writers hold. */
export function bytesOf(directory: string, writers: readonly string[]): number {
  const paths = writers.flatMap((writer) => {
    const spool = join(directory, writer)
    return segmentsIn(spool).map((number) => segmentPath(spool, number))
  })
  return paths.reduce(
    (sum, path) => sum + (fs.statSync(path, { throwIfNoEntry: false })?.size ?? 0),
    0,
  )
}

function namesIn(directory: string): string[] {
  try {
    return fs.readdirSync(directory)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw error
  }
}
