import type { Secret } from '../core/secret.ts'
import { type Database, openDatabase } from './database.ts'

/** The databases of a running broker, on PostgreSQL by URL or embedded. */
export type Storage = {
  readonly calls: Database
  /** A pool of its own: a search that takes seconds keeps no call waiting. */
  readonly searches: Database
  /** One connection: batches wait for each other anyway. */
  readonly batches: Database
  close(): Promise<void>
}

export async function openStorage(options: {
  readonly dataDir: string
  readonly url: Secret | undefined
  readonly pool: number
  readonly retentionDays: number
  readonly log: unknown
}): Promise<Storage> {
  const { url, pool } = options
  if (url === undefined) throw new Error('embedded: coming')
  const [calls, searches, batches] = await Promise.all([
    openDatabase({ url, pool }),
    openDatabase({ url, pool: 2 }),
    openDatabase({ url, pool: 1 }),
  ])
  return {
    calls,
    searches,
    batches,
    async close() {
      await Promise.all([calls.close(), searches.close(), batches.close()])
    },
  }
}
