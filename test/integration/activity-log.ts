import { randomUUID } from 'node:crypto'
import { type AuditRecorder, createAuditRecorder } from '../../src/audit/recorder.ts'
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

/** Writes records at times of the test's own choosing, through the recorder. */
export async function recordAt(
  database: Database,
  records: readonly (Partial<AuditRecord> & { readonly at: string | Date })[],
): Promise<void> {
  let now = new Date()
  const recorder = createRecorder(database, { now: () => now })
  for (const { at, ...more } of records) {
    now = new Date(at)
    recorder.record(auditRecord({ startedAt: now, ...more }))
  }
  await recorder.stop()
  if (recorder.stats().dropped > 0) throw new Error('a record of the test was not stored')
}

function createRecorder(database: Database, clock: { now(): Date }): AuditRecorder {
  const silent = () => {}
  return createAuditRecorder({
    store: createActivityBatches(database),
    clock,
    capacity: 100_000,
    whenFull: 'refuse',
    log: { error: silent, info: silent },
  })
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
