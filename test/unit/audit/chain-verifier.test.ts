import { randomUUID } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { chainHash, genesisHash, lineOfRecord } from '../../../src/audit/chain.ts'
import {
  type ChainExpectations,
  createChainVerifier,
  type Finding,
} from '../../../src/audit/chain-verifier.ts'
import type { ActivityRow, ChainHead } from '../../../src/core/ports/activity-proof.ts'

const writer = '0197f3a0-0000-7000-8000-000000000001'

type Row = ActivityRow & { readonly writer: string; readonly seq: number; readonly hash: Buffer }

/** The rows of one writer, as they were written; `change` is what somebody did to the content before it was hashed. */
function chain(count: number, of = writer): Row[] {
  const rows: Row[] = []
  for (let seq = 1; seq <= count; seq += 1) {
    const row = {
      id: randomUUID(),
      occurredAt: `2026-11-21T12:00:${String(seq % 60).padStart(2, '0')}.000000Z`,
      requestId: randomUUID(),
      type: 'credential_broker',
      userId: `person-${seq}`,
      issuer: 'https://login.example.com',
      actorKind: 'service',
      actorId: 'edge',
      upstream: 'files',
      action: 'inject',
      method: 'connect',
      outcome: 'success',
      reason: null,
      durationMs: seq,
      details: { identity: 'token' },
      writer: of,
      seq,
    }
    rows.push({ ...row, hash: chainHash(rows.at(-1)?.hash ?? genesisHash, lineOfRecord(row)) })
  }
  return rows
}

function headOf(rows: readonly Row[], seq = rows.length): ChainHead {
  const row = rows[seq - 1]
  return { writer: row?.writer ?? writer, seq, hash: row?.hash ?? genesisHash }
}

/** All hashes made anew from a row on, as by somebody who knows how. */
function rehashed(rows: readonly Row[], from = 1): Row[] {
  const done: Row[] = []
  for (const row of rows) {
    const before = done.at(-1)?.hash ?? genesisHash
    done.push(row.seq < from ? row : { ...row, hash: chainHash(before, lineOfRecord(row)) })
  }
  return done
}

function verify(
  rows: readonly ActivityRow[],
  expected: Partial<ChainExpectations> & { readonly heads: readonly ChainHead[] },
  headsNow: readonly ChainHead[] = expected.heads,
): readonly Finding[] {
  const verifier = createChainVerifier({ checkpoints: [], removed: new Map(), ...expected })
  for (const row of rows) verifier.add(row)
  return verifier.finish(headsNow)
}

const at = (kind: Finding['kind'], seq: number, through = seq, of = writer) => ({
  kind,
  writer: of,
  seq,
  through,
})

/** The rows with some of them changed. */
function changed(rows: readonly Row[], changes: Readonly<Record<number, Partial<Row>>>): Row[] {
  return rows.map((row) => ({ ...row, ...changes[row.seq] }))
}

describe('an untouched chain', () => {
  it('L10: is found right in whatever order its rows come', () => {
    const rows = chain(60)
    const heads = [headOf(rows)]
    expect(verify(rows, { heads })).toEqual([])
    expect(verify(rows.toReversed(), { heads })).toEqual([])
    const shuffled = rows.toSorted((one, other) => (one.id < other.id ? -1 : 1))
    expect(verify(shuffled, { heads, checkpoints: [headOf(rows, 20), headOf(rows, 40)] })).toEqual(
      [],
    )
  })

  it('L10: of a writer that goes on writing meanwhile is right, whichever of the new rows were seen', () => {
    const rows = chain(20)
    const heads = [headOf(rows, 10)]
    const seen = rows.filter(({ seq }) => seq <= 10 || seq === 12 || seq >= 15)
    expect(verify(seen, { heads }, [headOf(rows)])).toEqual([])
  })

  it('is right without what the retention removed, and wrong without what the next record goes on from', () => {
    const rows = chain(20)
    const heads = [headOf(rows)]
    const left = rows.filter(({ seq }) => seq > 7)
    const run = { first: 1, last: 7, lastHash: headOf(rows, 7).hash }
    const removed = new Map([[writer, [run]]])
    expect(verify(left, { heads, removed })).toEqual([])
    expect(verify([], { heads, removed: new Map([[writer, [{ ...run, last: 20 }]]]) })).toEqual([])
    expect(verify(left, { heads })).toEqual([at('removed', 1, 7)])
    const another = new Map([[writer, [{ ...run, lastHash: headOf(rows, 6).hash }]]])
    expect(verify(left, { heads, removed: another })).toEqual([at('edited', 8)])
  })
})

describe('L10: a chain that somebody has worked on', () => {
  const rows = chain(20)
  const heads = [headOf(rows)]

  it.each<[string, number]>([
    ['the first row', 1],
    ['a row in the middle', 9],
    ['the last row', 20],
  ])('is named edited where a field of %s was', (_which, seq) => {
    expect(verify(changed(rows, { [seq]: { outcome: 'failure' } }), { heads })).toEqual([
      at('edited', seq),
    ])
  })

  it('is named edited where a hash was, and not at the record behind it', () => {
    const hash = Buffer.alloc(32, 7)
    expect(verify(changed(rows, { 9: { hash } }), { heads })).toEqual([at('edited', 9)])
    expect(verify(changed(rows, { 20: { hash } }), { heads })).toEqual([at('edited', 20)])
  })

  it('is named edited at two records next to each other, both', () => {
    const edits = { 9: { userId: 'mallory' }, 10: { userId: 'mallory' } }
    expect(verify(changed(rows, edits), { heads })).toEqual([at('edited', 9), at('edited', 10)])
  })

  it('is named removed where rows are missing, in one finding for those that follow each other', () => {
    const left = rows.filter(({ seq }) => seq !== 4 && (seq < 9 || seq > 12))
    expect(verify(left, { heads })).toEqual([at('removed', 4), at('removed', 9, 12)])
    expect(verify(rows.slice(1), { heads })).toEqual([at('removed', 1)])
  })

  it('is named tail_cut where its end is missing', () => {
    expect(verify(rows.slice(0, 15), { heads })).toEqual([at('tail_cut', 16, 20)])
    expect(verify(rows.slice(0, 19), { heads })).toEqual([at('tail_cut', 20)])
  })

  it('is named tail_cut by a checkpoint where the row of the writer was put back too', () => {
    const cut = { heads: [headOf(rows, 15)], checkpoints: [headOf(rows, 10), headOf(rows)] }
    expect(verify(rows.slice(0, 15), cut)).toEqual([at('tail_cut', 16, 20)])
  })

  it('is named writer_missing where nothing of it is there', () => {
    const others = chain(3, randomUUID())
    const all = [...heads, headOf(others)]
    expect(verify(others, { heads: all })).toEqual([at('writer_missing', 1, 20)])
    const byCheckpoint = { heads: [headOf(others)], checkpoints: heads }
    expect(verify(others, byCheckpoint)).toEqual([at('writer_missing', 1, 20)])
  })

  it('is named inserted where a row has a number that another one has, whichever comes first', () => {
    for (const seq of [1, 9, 20]) {
      const forged = { ...chain(20)[seq - 1], id: randomUUID() } as Row
      const copy = { ...rows[seq - 1], id: randomUUID(), userId: 'mallory' } as Row
      for (const row of [forged, copy]) {
        expect(verify([...rows, row], { heads })).toEqual([at('inserted', seq)])
        expect(verify([row, ...rows], { heads })).toEqual([at('inserted', seq)])
      }
    }
  })

  it('is named inserted where rows are that the writer does not count, even with a right hash', () => {
    const longer = chain(22)
    const own = [headOf(longer, 20)]
    expect(verify(longer, { heads: own })).toEqual([at('inserted', 21, 22)])
    expect(verify([...rows, { ...rows[0], seq: 0 } as Row], { heads })).toEqual([at('inserted', 0)])
    const unknown = chain(2, randomUUID())
    expect(verify([...rows, ...unknown], { heads })).toContainEqual(
      at('inserted', 1, 2, unknown[0]?.writer),
    )
  })

  it.each<[string, number, number]>([
    ['far from each other', 5, 14],
    ['next to each other', 9, 10],
    ['one apart', 9, 11],
    ['at the beginning', 1, 2],
    ['at the end', 19, 20],
  ])('is named reordered where two records %s changed their numbers', (_where, one, other) => {
    const swapped = changed(rows, { [one]: { seq: other }, [other]: { seq: one } })
    expect(verify(swapped, { heads })).toEqual([at('reordered', one), at('reordered', other)])
  })

  it.each<[string, number, number]>([
    ['far from each other', 5, 14],
    ['next to each other', 9, 10],
    ['at the end', 19, 20],
  ])(
    'is named reordered where two records %s changed all but number and hash',
    (_where, one, other) => {
      const contentOf = (seq: number) => {
        const { seq: _seq, hash: _hash, ...content } = rows[seq - 1] as Row
        return content
      }
      const swapped = changed(rows, { [one]: contentOf(other), [other]: contentOf(one) })
      expect(verify(swapped, { heads })).toEqual([at('reordered', one), at('reordered', other)])
    },
  )

  it('is named reordered where more than two changed places', () => {
    const round = changed(rows, { 5: { seq: 9 }, 9: { seq: 14 }, 14: { seq: 5 } })
    expect(verify(round, { heads })).toEqual([
      at('reordered', 5),
      at('reordered', 9),
      at('reordered', 14),
    ])
  })

  it('is named edited by a signed checkpoint where all hashes from there on were made anew', () => {
    const edited = rehashed(changed(rows, { 9: { userId: 'mallory' } }), 9)
    const checkpoints = [5, 8, 12, 16].map((seq) => headOf(rows, seq))
    // Between two checkpoints nobody can tell which.
    expect(verify(edited, { heads: [headOf(edited)], checkpoints })).toEqual([at('edited', 9, 12)])
    expect(verify(edited, { heads })).toEqual([at('edited', 1, 20)])
    expect(
      verify(edited, {
        heads: [headOf(edited)],
        checkpoints: [headOf(edited, 12), ...checkpoints],
      }),
    ).toEqual([at('edited', 9, 12)])
  })

  it('is named with all that was done to it, and thousands of changes are all named', () => {
    const mixed = changed(rows, { 3: { reason: 'x' }, 6: { seq: 7 }, 7: { seq: 6 } })
    const left = mixed.filter(({ seq }) => seq < 10 || (seq > 11 && seq < 18))
    expect(verify(left, { heads })).toEqual([
      at('edited', 3),
      at('reordered', 6),
      at('reordered', 7),
      at('removed', 10, 11),
      at('tail_cut', 18, 20),
    ])
    const many = chain(2000)
    const all = many.map((row) => ({ ...row, userId: 'mallory' }))
    expect(verify(all, { heads: [headOf(many)] })).toHaveLength(2000)
  })

  it('changed as a whole fills no memory: beyond 10,000, what follows each other is one finding', () => {
    const whole = chain(20_000)
    const found = verify(
      whole.map((row) => ({ ...row, userId: 'mallory' })),
      { heads: [headOf(whole)] },
    )
    expect(found).toHaveLength(10_000)
    expect(found.at(-1)).toEqual(at('edited', 10_000, 20_000))
  })
})
