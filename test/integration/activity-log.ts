import { randomUUID } from 'node:crypto'
import { createActivityLineEncoder } from '../../src/audit/activity-line.ts'
import { chainedBatch } from '../../src/audit/chained-batch.ts'
import { uuidV7 } from '../../src/audit/uuid-v7.ts'
import type { AuditRecord } from '../../src/core/audit-event.ts'
import type { ActivityRecord, ActivityStore } from '../../src/core/ports/activity-store.ts'
import { createActivityBatches } from '../../src/storage/activity-batches.ts'
import type { Database } from '../../src/storage/database.ts'
import { connectTo } from '../support/postgres-client.ts'

export const issuer = 'https://login.example.com'

/** A record of Alice's, but for what is named. */
export function auditRecord(more: Partial<AuditRecord> = {}): AuditRecord {
  return {
    requestId: randomUUID(),
    startedAt: new Date(),
    userId: 'alice',
    issuer,
    actor: { kind: 'service', id: 'edge' },
    upstream: 'files',
    action: 'inject',
    method: 'connect',
    outcome: 'success',
    reason: undefined,
    details: { identity: 'token' },
    ...more,
  }
}

/** Writes records at times of the test's own choosing, as one writer. */
export async function recordAt(
  database: Database,
  records: readonly (Partial<AuditRecord> & { readonly at: string | Date })[],
): Promise<void> {
  const store = createActivityBatches(database)
  const encode = createActivityLineEncoder()
  const writer = uuidV7(Date.now())
  let before = await store.open(writer, new Date())
  const lines = records.map(({ at, ...more }) => {
    const now = new Date(at)
    return encode(auditRecord({ startedAt: now, ...more }), now.getTime())
  })
  for (let from = 0; from < lines.length; from += 500) {
    const part = lines
      .slice(from, from + 500)
      .map((line, index) => ({ position: from + index + 1, line }))
    const batch = chainedBatch({ writer, before, records: part, uses: [] })
    if ((await store.append(batch)) !== 'stored') throw new Error('a record was not stored')
    before = batch.after
  }
}

/** All records that the log holds, oldest first. */
export async function allRecords(store: ActivityStore): Promise<ActivityRecord[]> {
  const found: ActivityRecord[] = []
  let page = await store.page({}, 1000, undefined)
  found.push(...page.records)
  while (page.next !== undefined) {
    page = await store.page({}, 1000, page.next)
    found.push(...page.records)
  }
  return found.toReversed()
}

/** Keeps everybody from writing to the log until the function that it gives is called. */
export async function holdTable(url: string): Promise<() => Promise<void>> {
  const sql = connectTo(url, 1)
  await sql`begin`
  await sql`lock table activity in exclusive mode`
  return () => sql.end()
}
