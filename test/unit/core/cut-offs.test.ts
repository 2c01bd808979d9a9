import { describe, expect, it } from 'vitest'
import { BrokerError } from '../../../src/core/errors.ts'
import { createCutOffs } from '../../../src/core/cut-offs.ts'
import type { CutOff } from '../../../src/core/ports/replicas.ts'

const ada = { issuer: 'https://login.example.com', userId: 'ada' }
const bob = { issuer: 'https://login.example.com', userId: 'bob' }
const cutAt = new Date('2026-11-21T12:00:00.700Z')
const second = Math.floor(cutAt.getTime() / 1000)

/** Rows, and whether this process has heard from the database lately. */
function setUp(rows: Map<string, CutOff> | 'away' = new Map()) {
  const state = { isFresh: true, returns: [] as number[] }
  const away = () => Promise.reject(new BrokerError('storage_unavailable'))
  const cutOffs = createCutOffs({
    storage: { isFresh: () => state.isFresh, wasAway: () => false },
    records: {
      find: (person) => (rows === 'away' ? away() : Promise.resolve(rows.get(person.userId))),
      noteReturn(_person, issuedAtSeconds) {
        if (rows === 'away') return away()
        state.returns.push(issuedAtSeconds)
        return Promise.resolve()
      },
    },
  })
  return { cutOffs, state }
}

describe('a bearer of somebody who was cut off', () => {
  it('is refused when it was issued up to that second, and counts when later', async () => {
    const { cutOffs, state } = setUp()
    cutOffs.note(ada, { cutAt, returned: false })
    expect(cutOffs.admitsBearer(ada, second - 1)).toBe(false)
    expect(cutOffs.admitsBearer(ada, second)).toBe(false)
    expect(await cutOffs.admitsBearer(ada, second + 1)).toBe(true)
    expect(state.returns).toEqual([second + 1])
    // Said once; from then on nothing is asked.
    expect(cutOffs.admitsBearer(ada, second + 1)).toBe(true)
    // A return revives nothing of before.
    expect(cutOffs.admitsBearer(ada, second)).toBe(false)
    expect(cutOffs.admitsBearer(bob, 0)).toBe(true)
  })

  it('counts as issued before where it does not say, until the person has come back', async () => {
    const { cutOffs } = setUp()
    cutOffs.note(ada, { cutAt, returned: false })
    expect(cutOffs.admitsBearer(ada, undefined)).toBe(false)
    expect(cutOffs.admitsBearer(bob, undefined)).toBe(true)
    await cutOffs.admitsBearer(ada, second + 5)
    expect(cutOffs.admitsBearer(ada, undefined)).toBe(true)
  })

  it('is refused again after the next cut-off, in whatever order it is heard of', () => {
    const later = new Date(cutAt.getTime() + 60_000)
    const { cutOffs } = setUp()
    cutOffs.note(ada, { cutAt: later, returned: false })
    cutOffs.note(ada, { cutAt, returned: true })
    cutOffs.note(ada, { cutAt: later, returned: false })
    expect(cutOffs.admitsBearer(ada, second + 30)).toBe(false)
    cutOffs.note(ada, { cutAt: later, returned: true })
    cutOffs.note(ada, { cutAt: later, returned: false })
    expect(cutOffs.admitsBearer(ada, second + 61)).toBe(true)
  })

  it('counts although nobody could be told that they are back', async () => {
    const { cutOffs } = setUp('away')
    cutOffs.note(ada, { cutAt, returned: false })
    expect(await cutOffs.admitsBearer(ada, second + 1)).toBe(true)
  })
})

describe('an assertion of somebody who was cut off', () => {
  it('is refused until they have come back, also where this replica has not heard of it yet', async () => {
    const rows = new Map<string, CutOff>([['ada', { cutAt, returned: false }]])
    const { cutOffs } = setUp(rows)
    expect(cutOffs.admitsAssertion(ada)).toBe(true)
    cutOffs.note(ada, { cutAt, returned: false })
    expect(await cutOffs.admitsAssertion(ada)).toBe(false)
    rows.set('ada', { cutAt, returned: true })
    expect(await cutOffs.admitsAssertion(ada)).toBe(true)
    expect(cutOffs.admitsAssertion(ada)).toBe(true)
    expect(cutOffs.admitsAssertion(bob)).toBe(true)
  })
})

describe('a replica that has not heard from the database', () => {
  it('asks it about everybody, because somebody may have been cut off since', async () => {
    const rows = new Map<string, CutOff>([['ada', { cutAt, returned: false }]])
    const { cutOffs, state } = setUp(rows)
    state.isFresh = false
    expect(await cutOffs.admitsBearer(ada, second)).toBe(false)
    expect(await cutOffs.admitsBearer(bob, second)).toBe(true)
    expect(await cutOffs.admitsAssertion(ada)).toBe(false)
    expect(await cutOffs.admitsAssertion(bob)).toBe(true)
  })

  it('takes nobody’s word while it cannot', async () => {
    const { cutOffs, state } = setUp('away')
    state.isFresh = false
    await expect(cutOffs.admitsBearer(bob, second)).rejects.toMatchObject({
      code: 'storage_unavailable',
    })
    await expect(cutOffs.admitsAssertion(bob)).rejects.toMatchObject({
      code: 'storage_unavailable',
    })
  })
})
