import { hash } from 'node:crypto'
import type { ActivityLine } from '../core/ports/activity-batches.ts'

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

/** A record of the table with what the chain adds, as exact as the table has it. */
export type ChainedRecord = {
  readonly id: string
  /** RFC 3339 in UTC with all six digits: `to_char(occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`. */
  readonly occurredAt: string
  readonly requestId: string
  readonly type: string
  readonly userId: string | null
  readonly issuer: string | null
  readonly actorKind: string
  readonly actorId: string
  readonly upstream: string | null
  readonly action: string
  readonly method: string
  readonly outcome: string
  readonly reason: string | null
  readonly durationMs: number
  readonly details: unknown
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
