import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { describe, expect, it } from 'vitest'
import { createActivityLineEncoder } from '../../../src/audit/activity-line.ts'
import { createLastUses } from '../../../src/audit/last-uses.ts'
import { decodeFrame, encodeFrame } from '../../../src/audit/spool-frames.ts'
import type { AuditRecord } from '../../../src/core/audit-event.ts'

const encode = createActivityLineEncoder()
const startMs = Date.UTC(2026, 0, 2, 3, 4, 5)

function lineOf(userId: string, nowMs: number, changes: Partial<AuditRecord> = {}): string {
  const record: AuditRecord = {
    requestId: '0192f0c4-1111-7aaa-8bbb-000000000001',
    userId,
    issuer: 'https://idp.example',
    actor: { kind: 'service', id: 'bench' },
    upstream: 'files',
    action: 'inject',
    method: 'token_exchange',
    outcome: 'success',
    reason: undefined,
    startedAt: new Date(nowMs),
    ...changes,
  }
  return encode(record, nowMs)
}

/** As the spool gives them: parts of one text. */
function framed(lines: readonly string[]): readonly string[] {
  const room = Buffer.alloc(1024 * 1024)
  const end = encodeFrame(room, lines.join('\n'), lines.length, 1)
  const frame = decodeFrame(Buffer.from(room.subarray(0, end)), 0)
  if (typeof frame !== 'object') throw new Error('no frame')
  return frame.lines
}

describe('the last use of each connection', () => {
  it('is that of the latest record, whatever their order, and stored once', () => {
    const uses = createLastUses()
    uses.note(lineOf('alice', startMs + 2))
    uses.note(lineOf('alice', startMs + 5))
    uses.note(lineOf('alice', startMs + 1))
    const due = uses.due(0, true)
    expect(due).toEqual([
      {
        issuer: 'https://idp.example',
        userId: 'alice',
        upstream: 'files',
        usedAt: '2026-01-02T03:04:05.005Z',
      },
    ])
    uses.stored(due, 0)
    expect(uses.isEmpty()).toBe(true)
  })

  it('still waits when it was used again while it was stored, for 30 s where there is no time', () => {
    const uses = createLastUses()
    uses.note(lineOf('alice', startMs))
    const due = uses.due(0, false)
    uses.note(lineOf('alice', startMs + 1))
    uses.stored(due, 0)
    expect(uses.due(29_000, false)).toEqual([])
    expect(uses.due(30_000, false)).toMatchObject([{ usedAt: '2026-01-02T03:04:05.001Z' }])
    uses.note(lineOf('alice', startMs + 2))
    expect(uses.due(30_001, true)).toMatchObject([{ usedAt: '2026-01-02T03:04:05.002Z' }])
  })

  it('is none of a refusal, of another action, or of a renewal that nobody asked for', () => {
    const uses = createLastUses()
    uses.note(lineOf('alice', startMs, { outcome: 'failure', reason: 'upstream_unavailable' }))
    uses.note(lineOf('alice', startMs, { action: 'disconnect' }))
    uses.note(lineOf('alice', startMs, { actor: { kind: 'system', id: 'broker' } }))
    expect(uses.isEmpty()).toBe(true)
  })

  it('keeps no more of a frame than whose use it is while it waits', () => {
    setFlagsFromString('--expose-gc')
    const collect = runInNewContext('gc') as () => void
    const heap = () => {
      collect()
      collect()
      return process.memoryUsage().heapUsed
    }
    const uses = createLastUses()
    const before = heap()
    const frames = 100
    for (let frame = 0; frame < frames; frame += 1) {
      const lines = Array.from({ length: 100 }, (_, i) => lineOf(`person-${frame}-${i}`, startMs))
      // One of a hundred, which would hold all of them.
      uses.note(framed(lines)[0] ?? '')
    }
    const perUse = (heap() - before) / frames
    // A frame has more than 20,000 bytes.
    expect(perUse).toBeLessThan(4000)
    expect(uses.due(0, true)).toHaveLength(frames)
  })
})
