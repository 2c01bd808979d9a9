import type {
  ActivityBatch,
  ActivityLine,
  CredentialUse,
  WriterHead,
} from '../core/ports/activity-batches.ts'
import { occurredAtOfLine } from './activity-line.ts'
import { chainedLine, chainHash } from './chain.ts'

/** The next records of a writer as a batch: numbered, hashed, and the head behind them. */
export function chainedBatch(options: {
  readonly writer: string
  readonly before: WriterHead
  readonly records: readonly { readonly position: number; readonly line: ActivityLine }[]
  readonly uses: readonly CredentialUse[]
}): ActivityBatch {
  const { writer, before, records, uses } = options
  let { seq, hash, position } = before
  let min = ''
  let max = ''
  const lines = records.map((record) => {
    const { line } = record
    seq += 1
    hash = chainHash(hash, chainedLine(line, writer, seq))
    position = record.position
    const occurredAt = occurredAtOfLine(line)
    if (min === '' || occurredAt < min) min = occurredAt
    if (occurredAt > max) max = occurredAt
    return `${line}\t${hash.toString('hex')}`
  })
  return { writer, before, after: { seq, hash, position }, lines, occurred: { min, max }, uses }
}
