import { fileURLToPath } from 'node:url'
import { readMigrationFiles } from 'drizzle-orm/migrator'
import { isOperatorError, OperatorError } from '../core/operator-error.ts'
import type { Secret } from '../core/secret.ts'
import { connectOnce } from './connections.ts'
import type { Database } from './database.ts'
import { sqlStates } from './sql-states.ts'
import { storageUnavailable } from './storage-fault.ts'

/** Beside `src` and beside `dist`: the same two steps up from either. */
const migrationsFolder = fileURLToPath(new URL('../../migrations', import.meta.url))

/** Any number, as long as it is the same in every version: "onbehalf" in bytes, cut to fit. */
const migrationLock = 0x6f6e6265
const lockTimeoutMs = 60_000

type Migration = { readonly sql: string; readonly when: number; readonly hash: string }

/** The migrations of this version, oldest first. */
function knownMigrations(): Migration[] {
  return readMigrationFiles({ migrationsFolder }).map(({ sql, folderMillis, hash }) => ({
    sql: sql.join(';\n'),
    when: folderMillis,
    hash,
  }))
}

/**
 * Brings the database to this version and gives how many migrations that took. Several at once wait for each other.
 * Each migration is sent as one text, which PostgreSQL runs as one transaction: it is there with its entry, or not at all.
 * The entries are where drizzle keeps them, so that its tools can read them.
 * @throws OperatorError database_unreachable, schema_newer, schema_edited, migration_locked; BrokerError storage_unavailable
 */
export async function migrate(url: Secret): Promise<number> {
  const sql = await connectOnce(url, 'migrate')
  try {
    await sql`select set_config('lock_timeout', ${`${lockTimeoutMs}`}, false)`
    await sql`select pg_advisory_lock(${migrationLock})`
    await sql`
      create schema if not exists drizzle;
      create table if not exists drizzle.__drizzle_migrations
        (id serial primary key, hash text not null, created_at bigint);
    `.simple()
    const applied = await sql<
      Applied[]
    >`select hash, created_at as when from drizzle.__drizzle_migrations order by created_at`
    const missing = missingOf(applied)
    for (const { sql: statements, when, hash } of missing) {
      // Both come from our own files: a hexadecimal digest and a number.
      const entry = `insert into drizzle.__drizzle_migrations (hash, created_at) values ('${hash}', ${when})`
      await sql.unsafe(`${statements};\n${entry};`).simple()
    }
    return missing.length
  } catch (error) {
    if (isOperatorError(error)) throw error
    if ((error as { code?: unknown }).code === sqlStates.lockNotAvailable) {
      throw new OperatorError(
        'migration_locked',
        `Another migration has been running on this database for ${lockTimeoutMs / 1000} s. Wait for its end, or end its session, and try again.`,
      )
    }
    throw storageUnavailable(error)
  } finally {
    await sql.end({ timeout: 1 })
  }
}

type Applied = { readonly hash: string; readonly when: number }

function missingOf(applied: readonly Applied[]): Migration[] {
  const known = knownMigrations()
  for (const { hash, when } of applied) {
    const same = known.find((migration) => migration.when === when)
    if (same === undefined) throw newer()
    if (same.hash !== hash) {
      throw new OperatorError(
        'schema_edited',
        'A migration of this version is not the one that this database was made with. Install the version that made it, unchanged.',
      )
    }
  }
  return known.filter(({ when }) => applied.every((entry) => entry.when !== when))
}

/** How many migrations the database has, this version knows, and the database has that this version does not know. */
export type SchemaVersion = {
  readonly applied: number
  readonly known: number
  readonly unknown: number
}

/** @throws BrokerError storage_unavailable */
export async function schemaVersion(database: Database): Promise<SchemaVersion> {
  const known = knownMigrations()
  const [table] = await database.run(
    () => database.sql<{ present: boolean }[]>`
      select to_regclass('drizzle.__drizzle_migrations') is not null as present`,
  )
  const applied =
    table?.present === true
      ? await database.run(
          () => database.sql<{ when: number }[]>`
            select created_at as when from drizzle.__drizzle_migrations`,
        )
      : []
  return {
    applied: applied.length,
    known: known.length,
    unknown: applied.filter(({ when }) => known.every((migration) => migration.when !== when))
      .length,
  }
}

/**
 * Refuses a database that was not migrated to this version, or is already further.
 * @throws OperatorError schema_older, schema_newer, BrokerError storage_unavailable
 */
export async function requireCurrentSchema(database: Database): Promise<void> {
  const { applied, known, unknown } = await schemaVersion(database)
  if (unknown > 0) throw newer()
  if (applied < known) {
    throw new OperatorError(
      'schema_older',
      `The database has ${applied} of the ${known} migrations of this version. Run: onbehalf migrate`,
    )
  }
}

function newer(): OperatorError {
  return new OperatorError(
    'schema_newer',
    'The database was migrated by a newer version of onbehalf. Run that version or a later one.',
  )
}
