import { randomBytes } from 'node:crypto'
import type postgres from 'postgres'
import { inject } from 'vitest'
import { Secret } from '../../src/core/secret.ts'
import { type Database, openDatabase } from '../../src/storage/database.ts'
import { connectTo, databaseUrl } from './postgres-client.ts'

export type TestDatabase = {
  /** For a configuration file, or for `connectTo` of postgres-client.ts. */
  readonly url: string
  /** A pool on it that counts its statements. */
  readonly database: Database
  readonly drop: () => Promise<void>
}

/** A fresh, migrated database of its own; some 30 ms. Call `drop` when done with it. */
export async function createTestDatabase(
  options: { readonly pool?: number } = {},
): Promise<TestDatabase> {
  const { adminUrl, prefix, template } = inject('postgres')
  const name = `${prefix}_${randomBytes(6).toString('hex')}`
  await asAdmin((sql) => sql.unsafe(`create database ${name} template ${template}`))
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
      await asAdmin((sql) => sql.unsafe(`drop database if exists ${name} with (force)`))
    },
  }
}

/** A database without a schema, for tests of migrations. */
export async function createEmptyDatabase(): Promise<{ url: string; drop: () => Promise<void> }> {
  const { adminUrl, prefix } = inject('postgres')
  const name = `${prefix}_${randomBytes(6).toString('hex')}`
  await asAdmin((sql) => sql.unsafe(`create database ${name} template template0`))
  return {
    url: databaseUrl(adminUrl, name),
    drop: () =>
      asAdmin((sql) => sql.unsafe(`drop database if exists ${name} with (force)`)).then(() => {}),
  }
}

async function asAdmin<T>(use: (sql: postgres.Sql) => Promise<T>): Promise<T> {
  const sql = connectTo(inject('postgres').adminUrl)
  try {
    return await use(sql)
  } finally {
    await sql.end()
  }
}
