import { crc32 } from 'node:zlib'
import type { ActivityLine } from '../core/ports/activity-batches.ts'

/**
 * A spool is a row of frames, one for each group of records that was written at once:
 *
 *     4 magic · 4 CRC-32 of all that follows · 4 length of the text · 4 records · 2 zero · 6 position of the first record · text
 *
 * numbers big-endian, the text in UTF-8, a line a record. Positions count a writer's records from 1 on. The magic has
 * characters that no line can hold, so the next frame behind a damaged one can be found.
 */
const magicNumber = 0x0b5b_e41f
export const headerBytes = 24
const checkedFrom = 8
/** Room for thousands of records. What claims to be longer is damaged. */
const longestTextBytes = 16 * 1024 * 1024

export type Frame = {
  /** Of its first record. */
  readonly position: number
  readonly lines: readonly ActivityLine[]
  /** With its header. */
  readonly bytes: number
}

/** Takes the text of `count` records into `into`; gives its length, or undefined where there is no room. */
export function encodeFrame(
  into: Buffer,
  text: string,
  count: number,
  position: number,
): number | undefined {
  // A UTF-16 unit is three bytes at most.
  if (into.length < headerBytes + 3 * text.length) return undefined
  const length = into.write(text, headerBytes, 'utf8')
  into.writeUInt32BE(magicNumber, 0)
  into.writeUInt32BE(length, 8)
  into.writeUInt32BE(count, 12)
  into.writeUInt16BE(0, 16)
  into.writeUIntBE(position, 18, 6)
  const end = headerBytes + length
  into.writeUInt32BE(crc32(into.subarray(checkedFrom, end)), 4)
  return end
}

/**
 * Reads the frame that begins at `offset`. `short`: the bytes end before it does, or before its header does. `bad`: no frame
 * begins here, or one that was damaged.
 */
export function decodeFrame(bytes: Buffer, offset: number): Frame | 'short' | 'bad' {
  const left = bytes.length - offset
  if (left < headerBytes) return 'short'
  if (bytes.readUInt32BE(offset) !== magicNumber) return 'bad'
  const length = bytes.readUInt32BE(offset + 8)
  if (length > longestTextBytes) return 'bad'
  const end = offset + headerBytes + length
  if (end > bytes.length) return 'short'
  if (bytes.readUInt32BE(offset + 4) !== crc32(bytes.subarray(offset + checkedFrom, end))) {
    return 'bad'
  }
  return {
    position: bytes.readUIntBE(offset + 18, 6),
    lines: bytes.toString('utf8', offset + headerBytes, end).split('\n'),
    bytes: end - offset,
  }
}

/** Where the next whole frame begins behind a place where none does; undefined where none follows. */
export function findFrame(bytes: Buffer, behind: number): number | undefined {
  const magic = Buffer.alloc(4)
  magic.writeUInt32BE(magicNumber)
  for (let at = behind + 1; ; at += 1) {
    at = bytes.indexOf(magic, at)
    if (at === -1) return undefined
    if (typeof decodeFrame(bytes, at) === 'object') return at
  }
}

/** Whether bytes that are no frame are the beginning of one, or nothing at all: what a write leaves that was cut off. */
export function isCutFrame(bytes: Buffer): boolean {
  if (bytes.length < headerBytes) return true
  if (bytes.every((byte) => byte === 0)) return true
  return bytes.readUInt32BE(0) === magicNumber && decodeFrame(bytes, 0) === 'short'
}
