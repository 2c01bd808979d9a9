import { type FileHandle, open, readFile, rename } from 'node:fs/promises'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import * as z from 'zod'
import type { JournalRecord, JournalRecords } from '../core/ports/journal-records.ts'

const fileName = 'refresh.journal'
const unfinishedName = 'refresh.journal.new'

/** Length and CRC-32 of what follows, then the kind and the number of the record. */
const headBytes = 8
const bodyHeadBytes = 9
const kinds = { kept: 1, removed: 2 } as const

/** A file that has grown beyond this is written anew with what is still wanted of it. */
const longBytes = 4 * 1024 * 1024
/** No record is longer; a length above it is a torn or foreign file. */
const longestRecord = 4 * 1024 * 1024

/**
 * One file of records under the data directory, for its owner's eyes only (0600). What a crash tore at its end is cut off when it is
 * opened. It is empty whenever nothing is kept.
 * @throws what the file system does
 */
export async function openJournalFile(
  directory: string,
): Promise<JournalRecords & { readonly close: () => Promise<void> }> {
  const path = join(directory, fileName)
  let file = await openOwn(path, 'a+')
  await file.close()
  file = await openOwn(path, 'r+')
  const { records, end } = parse(await file.readFile())
  const left = readable(records)
  const kept = new Map(records)
  let position = end
  let lastId = Math.max(0, ...kept.keys())
  let queue = Promise.resolve()
  let syncing = false
  let syncAgain = false

  /** One after the other: each begins where the one before has ended. */
  function inTurn<T>(act: () => Promise<T>): Promise<T> {
    const result = queue.then(act)
    queue = result.then(
      () => {},
      () => {},
    )
    return result
  }

  async function write(record: Buffer): Promise<void> {
    // A torn end is written over by the next record, or cut off when the file is opened.
    const { bytesWritten } = await file.write(record, 0, record.length, position)
    if (bytesWritten < record.length)
      throw Object.assign(new Error('disk full'), { code: 'ENOSPC' })
    position += record.length
  }

  /** One at a time, for all that was written before it begins. What is not on the disk yet survives the process all the same. */
  async function sync(): Promise<void> {
    if (syncing) {
      syncAgain = true
      return
    }
    syncing = true
    do {
      syncAgain = false
      await file.datasync().catch(() => {})
    } while (syncAgain)
    syncing = false
  }

  async function shorten(): Promise<void> {
    if (kept.size === 0) {
      await file.truncate(0)
      position = 0
    } else if (position > longBytes) {
      await writeAnew()
    }
  }

  async function writeAnew(): Promise<void> {
    const unfinished = join(directory, unfinishedName)
    const frames = [...kept].map(([id, payload]) => frame('kept', id, payload))
    const fresh = await openOwn(unfinished, 'w')
    await fresh.writeFile(Buffer.concat(frames))
    await fresh.datasync()
    await rename(unfinished, path)
    const old = file
    file = fresh
    position = frames.reduce((bytes, { length }) => bytes + length, 0)
    await old.close()
  }

  await file.truncate(position)
  await shorten()

  return {
    left,
    append: (record) =>
      inTurn(async () => {
        lastId += 1
        const id = lastId
        const bytes = payloadOf(record)
        await write(frame('kept', id, bytes))
        kept.set(id, bytes)
        void sync()
        return { id }
      }),
    remove(id) {
      void inTurn(async () => {
        if (!kept.delete(id)) return
        if (kept.size > 0) await write(frame('removed', id, Buffer.alloc(0)))
        await shorten()
      }).catch(() => {})
    },
    async close() {
      await queue
      await file.close()
    },
  }
}

/** What is kept in the file of a broker that may be running; nothing where there is none. Changes nothing. */
export async function readJournalFile(directory: string): Promise<readonly JournalRecord[]> {
  try {
    return [...readable(parse(await readFile(join(directory, fileName))).records).values()]
  } catch (error) {
    if (isMissing(error)) return []
    throw error
  }
}

function isMissing(error: unknown): boolean {
  const code = error instanceof Error && 'code' in error ? error.code : undefined
  return code === 'ENOENT' || code === 'ENOTDIR'
}

const payloadMembers = z.object({
  issuer: z.string(),
  userId: z.string(),
  upstream: z.string(),
  generation: z.number(),
  sealed: z.string(),
})

function payloadOf({ key, generation, sealed }: JournalRecord): Buffer {
  const { issuer, userId, upstream } = key
  const text = Buffer.from(sealed).toString('base64')
  return Buffer.from(JSON.stringify({ issuer, userId, upstream, generation, sealed: text }))
}

/** What this program cannot have written is left out. */
function readable(records: ReadonlyMap<number, Buffer>): Map<number, JournalRecord> {
  const left = new Map<number, JournalRecord>()
  for (const [id, payload] of records) {
    const parsed = parsePayload(payload)
    if (parsed === undefined) continue
    const { generation, sealed, ...key } = parsed
    left.set(id, { key, generation, sealed: Buffer.from(sealed, 'base64') })
  }
  return left
}

function parsePayload(payload: Buffer) {
  try {
    return payloadMembers.parse(JSON.parse(payload.toString('utf8')))
  } catch {
    return undefined
  }
}

async function openOwn(path: string, flags: string): Promise<FileHandle> {
  const file = await open(path, flags, 0o600)
  await file.chmod(0o600)
  return file
}

function frame(kind: keyof typeof kinds, id: number, payload: Buffer): Buffer {
  const record = Buffer.alloc(headBytes + bodyHeadBytes + payload.length)
  const body = record.subarray(headBytes)
  body.writeUInt8(kinds[kind], 0)
  body.writeBigUInt64BE(BigInt(id), 1)
  payload.copy(body, bodyHeadBytes)
  record.writeUInt32BE(body.length, 0)
  record.writeUInt32BE(crc32(body), 4)
  return record
}

/** Whole records up to the first that is not, and where it begins. */
function parse(content: Buffer): { records: Map<number, Buffer>; end: number } {
  const records = new Map<number, Buffer>()
  let end = 0
  while (content.length - end >= headBytes + bodyHeadBytes) {
    const length = content.readUInt32BE(end)
    const body = content.subarray(end + headBytes, end + headBytes + length)
    const isWhole = length >= bodyHeadBytes && length <= longestRecord && body.length === length
    if (!isWhole || crc32(body) !== content.readUInt32BE(end + 4)) break
    const id = Number(body.readBigUInt64BE(1))
    if (body.readUInt8(0) === kinds.kept) records.set(id, body.subarray(bodyHeadBytes))
    else records.delete(id)
    end += headBytes + length
  }
  return { records, end }
}
