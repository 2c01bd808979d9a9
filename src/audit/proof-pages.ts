import type { ActivityProofRecords, ActivityRow } from '../core/ports/activity-proof.ts'
import type { RemovedRun } from './chain-verifier.ts'
import { isSignedBy, removalText } from './signed-statements.ts'

const rowsPerPage = 1000
const removalsPerPage = 500

/** All rows of a table, a page at a time; ends early when the table is dropped. */
export async function* rowPages(
  records: ActivityProofRecords,
  table: string,
): AsyncGenerator<readonly ActivityRow[]> {
  let page = await records.rows(table, undefined, rowsPerPage)
  while (page?.next !== undefined) {
    // Fetched while this one is looked at. Where nobody asks for it any more, nobody hears of its failure either.
    const following = records.rows(table, page.next, rowsPerPage)
    following.catch(() => {})
    yield page.rows
    page = await following
  }
  if (page !== undefined) yield page.rows
}

/** What the retention removed rightly: only what one of the given keys (base64url, by id) signed. */
export async function readRemovals(
  records: ActivityProofRecords,
  keys: ReadonlyMap<string, string>,
): Promise<{ removed: Map<string, RemovedRun[]>; count: number }> {
  const removed = new Map<string, RemovedRun[]>()
  let count = 0
  let page = await records.removals(0, removalsPerPage)
  while (page.length > 0) {
    for (const removal of page) {
      const key = keys.get(removal.keyId)
      // Not ours: what it speaks of is missing, and is named so.
      if (key === undefined || !isSignedBy(key, removalText(removal), removal.signature)) continue
      const { writer, first, last, lastHash } = removal
      const runs = removed.get(writer) ?? []
      runs.push({ first, last, lastHash: Buffer.from(lastHash, 'hex') })
      removed.set(writer, runs)
      count += last - first + 1
    }
    page = await records.removals(page.at(-1)?.id ?? Infinity, removalsPerPage)
  }
  return { removed, count }
}
