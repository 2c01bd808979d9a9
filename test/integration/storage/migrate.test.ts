import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { Secret } from '../../../src/core/secret.ts'
import { openDatabase } from '../../../src/storage/database.ts'
import { migrate, requireCurrentSchema, schemaVersion } from '../../../src/storage/migrate.ts'
import { createEmptyDatabase } from '../../support/database.ts'
import { connectTo } from '../../support/postgres-client.ts'

const folder = join(import.meta.dirname, '../../../migrations')
const files = readdirSync(folder).filter((name) => name.endsWith('.sql'))

async function emptyDatabase() {
  const { url, drop } = await createEmptyDatabase()
  onTestFinished(drop)
  const sql = connectTo(url)
  onTestFinished(() => sql.end())
  const database = await openDatabase({ url: new Secret(url), pool: 2 })
  onTestFinished(database.close)
  return { url: new Secret(url), sql, database }
}

describe('migrate', () => {
  it('brings an empty database to this version, once', async () => {
    const { url, database } = await emptyDatabase()
    expect(await schemaVersion(database)).toEqual({ applied: 0, known: files.length, unknown: 0 })
    expect(await migrate(url)).toBe(files.length)
    expect(await migrate(url)).toBe(0)
    expect(await schemaVersion(database)).toEqual({
      applied: files.length,
      known: files.length,
      unknown: 0,
    })
    await requireCurrentSchema(database)
    await database.run(() => database.sql`select from credential, session, activity limit 0`)
  })

  it('may be run several times at once', async () => {
    const { url, database } = await emptyDatabase()
    const counts = await Promise.all([migrate(url), migrate(url), migrate(url)])
    expect(counts.toSorted((a, b) => a - b)).toEqual([0, 0, files.length])
    await requireCurrentSchema(database)
  })

  it('leaves nothing behind when it fails half way', async () => {
    const { url, sql, database } = await emptyDatabase()
    // In the way of a table that comes late in the first migration.
    await sql`create table sign_in_flow (mine text)`
    await expect(migrate(url)).rejects.toMatchObject({ cause: { code: '42P07' } })
    expect(await schemaVersion(database)).toMatchObject({ applied: 0 })
    expect(await sql`select to_regclass('credential') as made`).toEqual([{ made: null }])
    await sql`drop table sign_in_flow`
    expect(await migrate(url)).toBe(files.length)
  })

  it('refuses a database whose migrations are not those of this version', async () => {
    const { url, sql } = await emptyDatabase()
    await migrate(url)
    await sql`update drizzle.__drizzle_migrations set hash = 'edited'`
    await expect(migrate(url)).rejects.toMatchObject({ code: 'schema_edited' })
  })
})

describe('serving', () => {
  it('refuses an older database, naming the command', async () => {
    const { database } = await emptyDatabase()
    await expect(requireCurrentSchema(database)).rejects.toMatchObject({
      name: 'OperatorError',
      code: 'schema_older',
      message: expect.stringContaining('onbehalf migrate') as string,
    })
  })

  it('and migrating refuse a database that is already further', async () => {
    const { url, sql, database } = await emptyDatabase()
    await migrate(url)
    await sql`insert into drizzle.__drizzle_migrations (hash, created_at) values ('later', 9999999999999)`
    await expect(requireCurrentSchema(database)).rejects.toMatchObject({ code: 'schema_newer' })
    await expect(migrate(url)).rejects.toMatchObject({ code: 'schema_newer' })
  })
})

describe('migrations/', () => {
  it('is append-only: a file that was released is never edited, and each has its line in checksums.json', () => {
    const recorded = JSON.parse(readFileSync(join(folder, 'checksums.json'), 'utf8')) as unknown
    const actual = Object.fromEntries(
      files.toSorted().map((name) => [
        name,
        createHash('sha256')
          .update(readFileSync(join(folder, name)))
          .digest('hex'),
      ]),
    )
    // To change the schema, write a new migration (npm run migrate:new) and add its line.
    expect(actual).toEqual(recorded)
  })

  it('is listed in its journal, oldest first', () => {
    const journal = JSON.parse(readFileSync(join(folder, 'meta/_journal.json'), 'utf8')) as {
      entries: { tag: string; when: number }[]
    }
    expect(journal.entries.map(({ tag }) => `${tag}.sql`)).toEqual(files.toSorted())
    const times = journal.entries.map(({ when }) => when)
    expect(times).toEqual([...new Set(times)].toSorted((a, b) => a - b))
  })
})
