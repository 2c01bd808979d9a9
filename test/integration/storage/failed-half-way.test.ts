import { sql as expression } from 'drizzle-orm'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createTestDatabase, type TestDatabase } from '../../support/database.ts'

describe('a statement that fails after it has sent rows', () => {
  let test: TestDatabase
  beforeAll(async () => {
    test = await createTestDatabase({ pool: 1 })
  })
  afterAll(() => test.drop())

  /** Fails at the third row; two are on their way by then. */
  async function failHalfWay(): Promise<void> {
    const { run, sql } = test.database
    const failing = run(() => sql`SELECT 1 / (3 - number) FROM generate_series(1, 5) AS number`)
    await expect(failing).rejects.toMatchObject({ code: 'storage_unavailable' })
  }

  it('takes no row from the next answer on its connection', async () => {
    const { run, sql } = test.database
    await failHalfWay()
    const rows = await run(() => sql<{ number: number }[]>`SELECT 7 AS number`)
    expect([...rows]).toEqual([{ number: 7 }])
    await failHalfWay()
    const several = await run(
      () => sql<{ number: number }[]>`SELECT generate_series(1, 3) AS number`,
    )
    expect([...several]).toEqual([{ number: 1 }, { number: 2 }, { number: 3 }])
    await failHalfWay()
    expect(await run(() => sql`SELECT 1 WHERE false`)).toHaveLength(0)
  })

  it('nor through drizzle', async () => {
    const { run, db } = test.database
    await failHalfWay()
    const rows = await run(() => db.execute<{ number: number }>(expression`SELECT 7 AS number`))
    expect([...rows]).toEqual([{ number: 7 }])
  })
})
