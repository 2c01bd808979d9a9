import { createHash } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import {
  canonicalJson,
  type ChainedRecord,
  chainedLine,
  chainHash,
  genesisHash,
  lineOfRecord,
} from '../../../src/audit/chain.ts'
import { createActivityLineEncoder } from '../../../src/audit/activity-line.ts'

const writer = '0197f3a0-0000-7000-8000-000000000001'

const stored: ChainedRecord = {
  id: '0197f3a0-0000-7000-8000-0000000000aa',
  occurredAt: '2025-07-10T08:09:10.120000Z',
  requestId: 'f81d4fae-7dec-41d0-a765-00a0c91e6bf6',
  type: 'credential_broker',
  userId: 'Åda',
  issuer: 'https://login.example.com',
  actorKind: 'service',
  actorId: 'edge',
  upstream: null,
  action: 'inject',
  method: 'unknown',
  outcome: 'failure',
  reason: 'unknown_upstream',
  durationMs: 3,
  details: { identity: 'token' },
  writer,
  seq: 7,
}

describe('the chain', () => {
  it('is SHA-256 over the hash before and the line in UTF-8, from 32 zero bytes on', () => {
    const line = lineOfRecord(stored)
    const first = chainHash(genesisHash, line)
    const second = chainHash(first, 'x'.repeat(20_000))
    const sha256 = (before: Buffer, text: string) =>
      createHash('sha256').update(before).update(text, 'utf8').digest()
    expect(genesisHash).toEqual(Buffer.alloc(32))
    expect(first).toEqual(sha256(Buffer.alloc(32), line))
    expect(second).toEqual(sha256(first, 'x'.repeat(20_000)))
    expect(chainHash(genesisHash, line)).toEqual(first)
  })

  it('makes the very line again that the record was written with', () => {
    const nowMs = Date.parse('2025-07-10T08:09:10.120Z')
    const line = createActivityLineEncoder()(
      {
        requestId: stored.requestId,
        startedAt: new Date(nowMs - 3),
        userId: 'Åda',
        issuer: 'https://login.example.com',
        actor: { kind: 'service', id: 'edge' },
        upstream: undefined,
        action: 'inject',
        method: 'unknown',
        outcome: 'failure',
        reason: 'unknown_upstream',
        details: { identity: 'token' },
      },
      nowMs,
    )
    const id = line.slice(0, 36)
    expect(lineOfRecord({ ...stored, id })).toBe(chainedLine(line, writer, 7))
  })

  it('notices every change, of a microsecond and of nothing into an empty text too', () => {
    const changes: Partial<ChainedRecord>[] = [
      { id: stored.id.replace('aa', 'ab') },
      { occurredAt: '2025-07-10T08:09:10.120001Z' },
      { userId: 'ada' },
      { userId: null },
      { upstream: '' },
      { reason: null },
      { durationMs: 3.5 },
      { details: {} },
      { details: { identity: 'token', more: null } },
      { writer: stored.id },
      { seq: 8 },
    ]
    const line = lineOfRecord(stored)
    for (const change of changes) expect(lineOfRecord({ ...stored, ...change })).not.toBe(line)
  })

  it('writes JSON in one way whatever order a database gives its names back in', () => {
    const text = '{"aud":["b","a"],"jti":"1","scope":{"x":null,"y":"é\\"\\t"}}'
    expect(canonicalJson(JSON.parse(text))).toBe(text)
    expect(canonicalJson({ scope: { y: 'é"\t', x: null }, jti: '1', aud: ['b', 'a'] })).toBe(text)
  })
})
