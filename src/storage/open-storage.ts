import type { Clock } from '../core/ports/clock.ts'
import type { JournalRecords } from '../core/ports/journal-records.ts'
import type { Notices } from '../core/ports/notices.ts'
import type { Secret } from '../core/secret.ts'
import { pageSettings } from './activity-store.ts'
import { claimDataDirectory } from './data-directory.ts'
import { type Database, openDatabase, openDatabases } from './database.ts'
import {
  borrowEmbedded,
  type EmbeddedPostgres,
  startEmbedded,
} from './embedded/embedded-postgres.ts'
import { openJournalFile } from './journal-file.ts'
import { startMaintenance } from './maintenance.ts'
import { migrate, requireCurrentSchema } from './migrate.ts'
import { startNotifications } from './notifications.ts'
import { createReplica, type Replica } from './replica.ts'
import type { StorageLog } from './storage-log.ts'

/** The databases of a running broker, on PostgreSQL by URL or embedded. */
export type Storage = {
  readonly calls: Database
  /** A pool of its own: a search that takes seconds keeps no call waiting. */
  readonly searches: Database
  /** For pages of the activity log, which take milliseconds and wait for no search. */
  readonly pages: Database
  /** For the writer of the activity log, which has a thread and a connection of its own. */
  readonly databaseUrl: Secret
  /** What replicas tell each other, over a connection of its own. */
  readonly notices: Notices
  /** What is kept in memory, and what the others must know of it. It joins when its memory is there. */
  readonly replica: Replica
  readonly clock: Clock
  /** Beside the database, under the data directory: what must not be lost while the database is away. */
  readonly journal: JournalRecords
  close(): Promise<void>
}

/** Of the embedded database besides those for calls: our own others, and commands that use it meanwhile. */
const moreConnections = 50
const searchConnections = 2
const pageConnections = 2

/**
 * Takes the data directory, starts the embedded database where no URL is given, and opens a database of this version.
 * The embedded one is migrated on the way; another is refused when it is not of this version.
 * @throws OperatorError what the operator has to change
 */
export async function openStorage(options: {
  readonly dataDir: string
  readonly url: Secret | undefined
  /** Connections for calls; at most seven more are opened. */
  readonly pool: number
  readonly retentionDays: number
  /** For how long a replica serves from memory after it last heard from the database; the same on all. Default: 10 s. */
  readonly freshForMs?: number
  readonly log: StorageLog
}): Promise<Storage> {
  const { log, retentionDays } = options
  // Undone in reverse, whether everything or only a part of it was opened.
  const opened: (() => Promise<void>)[] = []
  const close = async () => {
    for (let undo = opened.pop(); undo !== undefined; undo = opened.pop()) await undo()
  }
  try {
    const directory = await claimDataDirectory(options.dataDir)
    opened.push(directory.release)
    const journal = await openJournalFile(directory.path)
    opened.push(journal.close)
    let { url } = options
    if (url === undefined) {
      const embedded = await startEmbedded({
        directory,
        log,
        settings: { max_connections: `${options.pool + moreConnections}` },
      })
      opened.push(embedded.stop)
      url = embedded.url
      await migrateEmbedded(embedded, log)
    }
    const pools = { calls: options.pool, searches: searchConnections, pages: pageConnections }
    const settings = { searches: { jit: 'off' }, pages: pageSettings }
    const { freshForMs } = options
    const replica = createReplica(freshForMs === undefined ? {} : { freshForMs })
    const databases = await openDatabases({ url, pools, settings, beat: replica.beat })
    opened.push(databases.calls.close)
    await requireCurrentSchema(databases.calls)
    const notices = startNotifications({ url })
    opened.push(notices.stop, () => replica.leave())
    const maintenance = await startMaintenance({
      database: databases.calls,
      retentionDays,
      log,
    })
    opened.push(maintenance.stop)
    return {
      ...databases,
      databaseUrl: url,
      notices,
      replica,
      clock: replica.clock,
      journal,
      close,
    }
  } catch (error) {
    await close()
    throw error
  }
}

async function migrateEmbedded(embedded: EmbeddedPostgres, log: StorageLog): Promise<void> {
  const migrations = await migrate(embedded.url)
  if (migrations > 0) log.info({ event: 'database_migrated', migrations })
}

/** Where a command finds the database. */
export type StoragePlace = { readonly dataDir: string; readonly url: Secret | undefined }

/** Brings the database to this version; gives how many migrations that took. @throws OperatorError */
export async function migrateStorage(place: StoragePlace, log: StorageLog): Promise<number> {
  if (place.url !== undefined) return migrate(place.url)
  const embedded = await borrowEmbedded({ dataDir: place.dataDir, log })
  try {
    return await migrate(embedded.url)
  } finally {
    await embedded.stop()
  }
}

/**
 * Lets a command use the database, also beside a running broker: the embedded one is that broker's, else it is started
 * for this command alone.
 * @throws OperatorError what the operator has to change
 */
export async function withStorage<T>(
  place: StoragePlace,
  log: StorageLog,
  use: (database: Database) => Promise<T>,
): Promise<T> {
  if (place.url !== undefined) return withDatabase(place.url, use)
  const embedded = await borrowEmbedded({ dataDir: place.dataDir, log })
  try {
    if (!embedded.borrowed) await migrateEmbedded(embedded, log)
    return await withDatabase(embedded.url, use)
  } finally {
    await embedded.stop()
  }
}

async function withDatabase<T>(url: Secret, use: (database: Database) => Promise<T>): Promise<T> {
  const database = await openDatabase({ url, pool: 2 })
  try {
    await requireCurrentSchema(database)
    return await use(database)
  } finally {
    await database.close()
  }
}
