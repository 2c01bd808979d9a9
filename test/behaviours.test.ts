import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'

/**
 * What earlier systems of this kind did and were tested for, each behaviour with an id. A test carries the ids that it covers in
 * its title, and every id of this list is carried by one, or says here why it is not ours.
 */
const behaviours: Readonly<Record<string, readonly string[]>> = {
  'configuration of an upstream': numbered('M-C', 7),
  'credentials at rest': numbered('M-S', 9),
  'resolving a credential': numbered('M-R', 14),
  'token exchange and on-behalf-of': numbered('M-X', 4),
  'the stored subject token': numbered('M-I', 2),
  'connecting an account': numbered('M-N', 10),
  'the record of every operation': numbered('M-A', 5),
  'records that nothing may spoil': numbered('H-A', 6),
  'questions to the activity log': numbered('M-V', 9),
  'attacks on the activity log': numbered('L', 18),
  'the REST API for people': numbered('M-H', 8),
  'guarding a protected resource': numbered('H-G', 4),
  'bearer tokens, introspection and metadata': numbered('F-', 10),
  'challenges, logs, outages': [3, 6, 7, 10, 13, 14, 15, 16, 17].map((number) => `T-${number}`),
}

const noIssuer = 'about tokens that we issue: there is no authorization server in this version'

const notOurs: Readonly<Record<string, string>> = {
  'H-A1': noIssuer,
  'H-A3': noIssuer,
  'H-A4': noIssuer,
  'M-V3': 'records hold no payloads, so nothing is projected away',
  'M-V5': 'traffic is not accounted for; the summary counts records',
  L13: 'reading leaves no record',
  L14: 'an operation is one record, written when it ends',
  L15: 'a call without a known caller leaves no record, so nothing can flood them',
}

function numbered(prefix: string, count: number): readonly string[] {
  return Array.from({ length: count }, (_, index) => `${prefix}${index + 1}`)
}

/** Ids inside string literals: titles of tests, and rows of tables that become titles. A comment does not count. */
function carriedIds(): ReadonlySet<string> {
  const folder = import.meta.dirname
  const files = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter(
    (name) => /(\.test|-contract)\.ts$/.test(name) && name !== 'behaviours.test.ts',
  )
  const titles = files.flatMap((name) =>
    readFileSync(join(folder, name), 'utf8')
      .split('\n')
      .flatMap((line) => line.match(/(['"`]).*\1/)?.[0] ?? []),
  )
  return new Set(titles.flatMap((title) => title.match(/\b(?:[MH]-[A-Z]|[FT]-|L)\d+\b/g) ?? []))
}

describe('every behaviour has a test that names it', () => {
  const carried = carriedIds()

  it.each(Object.entries(behaviours))('%s', (_of, ids) => {
    const untested = ids.filter((id) => !carried.has(id) && notOurs[id] === undefined)
    expect(untested).toEqual([])
  })

  it('and what is not ours has none', () => {
    expect(Object.keys(notOurs).filter((id) => carried.has(id))).toEqual([])
  })
})
