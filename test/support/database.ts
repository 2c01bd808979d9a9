import { randomBytes } from 'node:crypto'
import type postgres from 'postgres'
import { inject } from 'vitest'
import { Secret } from '../../src/core/secret.ts'
import { type Database, openDatabase } from '../../src/storage/database.ts'
import { connectTo, databaseUrl } from './postgres-client.ts'
import { createSecretScan, scanDatabase } from './secret-scan.ts'

export type TestDatabase = {
  /** For a configuration file, or for `connectTo` of postgres-client.ts. */
  readonly url: string
  /** A pool on it that counts its statements. */
  readonly database: Database
  readonly drop: () => Promise<void>
}

/**
 * A fresh, migrated database of its own; some 30 ms. Call `drop` when done with it: it throws where a test has left a secret
 * in clear.
 */
export async function createTestDatabase(
  options: { readonly pool?: number } = {},
): Promise<TestDatabase> {
  const { adminUrl, prefix, template } = inject('postgres')
  const name = `${prefix}_${randomBytes(6).toString('hex')}`
  await create(name, template)
  const url = databaseUrl(adminUrl, name)
  const database = await openDatabase({
    url: new Secret(url),
    pool: options.pool ?? 10,
    countStatements: true,
  })
  return {
    url,
    database,
    async drop() {
      await database.close()
      const leaks = await leaksIn(url)
      await asAdmin((sql) => sql.unsafe(`drop database if exists ${name} with (force)`))
      if (leaks.length > 0) throw new Error(`secrets were in the database:\n${leaks.join('\n')}`)
    },
  }
}

/** What begins like a secret of a test (`canaryPrefixes`), in any table, as text, hex or base64. */
async function leaksIn(url: string): Promise<readonly string[]> {
  const sql = connectTo(url)
  try {
    const { findings } = await scanDatabase(createSecretScan(), sql)
    return findings.map(({ where, kind, form }) => `${kind} (${form}) in ${where}`)
  } finally {
    await sql.end()
  }
}

/** A database without a schema, for tests of migrations. */
export async function createEmptyDatabase(): Promise<{ url: string; drop: () => Promise<void> }> {
  const { adminUrl, prefix } = inject('postgres')
  const name = `${prefix}_${randomBytes(6).toString('hex')}`
  await create(name, 'template0')
  return {
    url: databaseUrl(adminUrl, name),
    drop: () =>
      asAdmin((sql) => sql.unsafe(`drop database if exists ${name} with (force)`)).then(() => {}),
  }
}

/** Copies files, and not every page through the log. */
async function create(name: string, template: string): Promise<void> {
  await asAdmin((sql) =>
    sql.unsafe(`create database ${name} template ${template} strategy file_copy`),
  )
}

async function asAdmin<T>(use: (sql: postgres.Sql) => Promise<T>): Promise<T> {
  const sql = connectTo(inject('postgres').adminUrl)
  try {
    return await use(sql)
  } finally {
    await sql.end()
  }
}
