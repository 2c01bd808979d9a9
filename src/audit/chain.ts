import { hash } from 'node:crypto'
import type { ActivityLine } from '../core/ports/activity-batches.ts'
import type { ActivityRow } from '../core/ports/activity-proof.ts'

/**
 * The proof over the records of one writer: `hash_n = SHA-256(hash_{n-1} ‖ line_n)`, the line in UTF-8, 32 zero bytes before the
 * first. It says that nothing was changed, taken out or put between since, to whom knows one later hash from elsewhere.
 */
export const genesisHash: Buffer = Buffer.alloc(32)

/** The line that is hashed: that of the record, and which of its writer's it is. */
export function chainedLine(line: ActivityLine, writer: string, seq: number): string {
  return `${line}\t${writer}\t${seq}`
}

let scratch = Buffer.alloc(4096)

/** The hash of a record: 32 bytes. `line` is a chained one. */
export function chainHash(previous: Buffer, line: string): Buffer {
  const needed = genesisHash.length + 3 * line.length
  if (scratch.length < needed) scratch = Buffer.alloc(2 * needed)
  previous.copy(scratch)
  const length = scratch.write(line, genesisHash.length, 'utf8')
  return hash('sha256', scratch.subarray(0, genesisHash.length + length), 'buffer')
}

/** A row of the table that stands in a chain. */
export type ChainedRecord = Omit<ActivityRow, 'writer' | 'seq' | 'hash'> & {
  readonly writer: string
  readonly seq: number
}

/** The chained line, made again from what the table holds: the same text as when it was written, or somebody changed it. */
export function lineOfRecord(record: ChainedRecord): string {
  const line = [
    record.id,
    // Records are written with milliseconds; more digits are somebody else's, and stay.
    record.occurredAt.replace(/000Z$/, 'Z'),
    record.requestId,
    record.type,
    optional(record.userId),
    optional(record.issuer),
    record.actorKind,
    record.actorId,
    optional(record.upstream),
    record.action,
    record.method,
    record.outcome,
    optional(record.reason),
    record.durationMs,
    canonicalJson(record.details),
  ].join('\t')
  return chainedLine(line, record.writer, record.seq)
}

/** Nothing is written as the empty text, so an empty text, which is never written, has to look different. */
function optional(value: string | null): string {
  if (value === null) return ''
  return value === '' ? '""' : value
}

/** JSON with the names of each object in the order of their code units: jsonb keeps none, so the text has one of its own. */
export function canonicalJson(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(',')}]`
  if (typeof value !== 'object' || value === null) return JSON.stringify(value)
  const members = Object.entries(value)
    .filter(([, member]) => member !== undefined)
    .toSorted(([one], [other]) => (one < other ? -1 : 1))
    .map(([name, member]) => `${JSON.stringify(name)}:${canonicalJson(member)}`)
  return `{${members.join(',')}}`
}
