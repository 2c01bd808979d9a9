import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type postgres from 'postgres'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { connectTo } from '../support/postgres-client.ts'
import { createSecretScan, scanDatabase } from '../support/secret-scan.ts'

describe('the secret scan of a database', () => {
  const secret = 'a-secret-of-this-test-0123456789'
  let database: TestDatabase
  let sql: postgres.Sql

  beforeAll(async () => {
    database = await createTestDatabase()
    sql = connectTo(database.url)
    await sql`create table place (words text, bytes bytea, document jsonb, list text[], at timestamptz)`
  })
  afterAll(async () => {
    await sql.end()
    await database.drop()
  })

  function scanFor(value: string) {
    const scan = createSecretScan()
    scan.register('test', value)
    return scan
  }

  it('finds nothing in a fresh schema, and looked at its own planted rows', async () => {
    const { findings, cells } = await scanDatabase(scanFor(secret), sql)
    expect(findings).toEqual([])
    expect(cells).toBeGreaterThanOrEqual(20)
  })

  it('finds a secret in every type of column, encoded or not, and says where', async () => {
    const encoded = Buffer.from(`user:${secret}`).toString('base64')
    await sql`insert into place values
      (${encoded}, ${Buffer.from(secret)}, ${sql.json({ inside: secret })}, ${[secret]}, now()),
      ('clean', null, null, null, now())`
    const { findings } = await scanDatabase(scanFor(secret), sql)
    const places = new Set(findings.map(({ where }) => where))
    expect(places).toEqual(
      new Set(
        ['words', 'bytes', 'document', 'list'].map(
          (column) => `table place, row 0, column ${column}`,
        ),
      ),
    )
    expect((await scanDatabase(scanFor('another-secret-9876543210'), sql)).findings).toEqual([])
  })

  it('leaves nothing of its own behind', async () => {
    const left = await sql`select 1 from pg_class where relname = 'secret_scan_control'`
    expect(left).toHaveLength(0)
  })

  it('is made of every database of a test when it is dropped, and that fails', async () => {
    const leaking = await createTestDatabase()
    await leaking.database.sql`
      INSERT INTO encryption_key (id, "check") VALUES ('k', ${Buffer.from('CNRY-AT-of-ada')})`
    await expect(leaking.drop()).rejects.toThrow(/table encryption_key.*column check/)
  })
})
