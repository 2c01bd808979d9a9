import { createPublicKey, verify } from 'node:crypto'
import type { ActivityRemoval, CheckpointContent } from '../core/ports/activity-proof.ts'
import { canonicalJson } from './chain.ts'

/** The text that the signature of a checkpoint is over. The first line keeps it from being taken for anything else. */
export function checkpointText({ at, complete, part, parts, writers }: CheckpointContent): string {
  return `onbehalf activity checkpoint\n${canonicalJson({ at, complete, part, parts, writers })}`
}

/** The text that the signature of a removal is over. */
export function removalText(removal: ActivityRemoval): string {
  const { partition, writer, first, last, lastHash } = removal
  return `onbehalf activity removal\n${canonicalJson({ partition, writer, first, last, last_hash: lastHash })}`
}

/** Whether an Ed25519 key (32 bytes, base64url) signed a text. False for what is no key or no signature at all. */
export function isSignedBy(publicKey: string, text: string, signature: string): boolean {
  try {
    const key = createPublicKey({
      key: { kty: 'OKP', crv: 'Ed25519', x: publicKey },
      format: 'jwk',
    })
    return verify(null, Buffer.from(text, 'utf8'), key, Buffer.from(signature, 'base64url'))
  } catch {
    return false
  }
}

/** Reads the content of a checkpoint, wherever it comes from; undefined for what is none. */
export function readCheckpoint(value: unknown): CheckpointContent | undefined {
  if (!isObject(value)) return undefined
  const { at, complete, part, parts, writers } = value
  if (typeof at !== 'string' || typeof complete !== 'boolean' || !Array.isArray(writers)) {
    return undefined
  }
  if (!isCount(part) || !isCount(parts)) return undefined
  const read = writers.map(readWriter)
  const known = read.filter((writer) => writer !== undefined)
  if (known.length < read.length) return undefined
  return { at, complete, part, parts, writers: known }
}

function readWriter(value: unknown): CheckpointContent['writers'][number] | undefined {
  if (!isObject(value)) return undefined
  const { writer, from, seq, hash } = value
  if (typeof writer !== 'string' || typeof hash !== 'string') return undefined
  if (!isCount(from) || !isCount(seq)) return undefined
  return { writer, from, seq, hash }
}

function isCount(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null
}
