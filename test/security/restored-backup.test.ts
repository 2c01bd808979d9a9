import { afterAll, beforeAll, expect, it } from 'vitest'
import { endpoints } from '../support/authorization-server.ts'
import { startTestBroker, type TestBroker } from '../support/broker.ts'

let broker: TestBroker
beforeAll(async () => {
  broker = await startTestBroker({ refreshReuse: 'strict' })
})
afterAll(() => broker.stop())

it('S18: a database that was put back from a backup: one request for a refresh token that was spent since, then the person connects again', async () => {
  const { sql } = broker.database.database
  const requests = () => broker.authorizationServer.received(endpoints.token).length
  await broker.connect('ada')
  await broker.connect('grace')
  await sql`CREATE TABLE backup AS SELECT * FROM credential`
  // Life goes on after the backup: ada's refresh token is used up, grace's is not.
  await broker.age('ada', 'files', { expiresInSeconds: -1 })
  const before = await broker.startBeside()
  expect((await before.resolveAs('ada', 'files')).status).toBe(200)
  await before.stop()

  await sql`DELETE FROM credential`
  await sql`INSERT INTO credential SELECT * FROM backup`
  await sql`DROP TABLE backup`
  for (const person of ['ada', 'grace']) await broker.age(person, 'files', { expiresInSeconds: -1 })
  const restored = await broker.startBeside()
  const sent = requests()
  const answers = await Promise.all(
    Array.from({ length: 10 }, () => restored.resolveAs('ada', 'files')),
  )
  for (const { status, body } of answers) {
    expect({ status, ...body }).toMatchObject({ status: 403, reason: 'refresh_failed' })
  }
  expect(requests() - sent).toBe(1)
  expect((await restored.resolveAs('ada', 'files')).status).toBe(403)
  expect(requests() - sent).toBe(1)
  // Whoever lost nothing notices nothing.
  expect((await restored.resolveAs('grace', 'files')).status).toBe(200)
  await restored.connect('ada')
  expect((await restored.resolveAs('ada', 'files')).status).toBe(200)
  await restored.stop()
})
