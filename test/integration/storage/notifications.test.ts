import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Secret } from '../../../src/core/secret.ts'
import { notify } from '../../../src/storage/notice-channel.ts'
import { startNotifications } from '../../../src/storage/notifications.ts'
import { createTestDatabase, type TestDatabase } from '../../support/database.ts'

describe('notices over LISTEN', () => {
  let test: TestDatabase
  let notifications: ReturnType<typeof startNotifications>
  const heard: string[] = []
  let gaps = 0

  beforeAll(async () => {
    test = await createTestDatabase()
    notifications = startNotifications({ url: new Secret(test.url) })
    notifications.on('credential', (subject) => heard.push(subject))
    notifications.onGap(() => {
      gaps += 1
    })
    await new Promise<void>((resolve) => {
      const heardOnce = notifications.onGap(() => {
        heardOnce()
        resolve()
      })
    })
  })
  afterAll(async () => {
    await notifications.stop()
    await test.drop()
  })

  const send = (subject: string) => {
    const { sql, run } = test.database
    return run(() => sql`SELECT ${notify(sql, 'credential', subject)}`)
  }

  it('brings the subject of a notice, which names nobody', async () => {
    const key = { issuer: 'https://login.example.com', userId: 'ada', upstream: 'files' }
    const subject = notifications.subjectOf(key)
    expect(subject).toMatch(/^[\w-]{22}$/)
    expect(notifications.subjectOf({ ...key, upstream: 'other' })).not.toBe(subject)
    await send(subject)
    await expect.poll(() => heard).toEqual([subject])
  })

  it('V14: goes on over another connection after its own was killed, and says that it may have missed something', async () => {
    await test.database.run(
      () => test.database.sql`
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'onbehalf notices'`,
    )
    await expect.poll(() => gaps).toBe(2)
    await send('after')
    await expect.poll(() => heard).toContain('after')
  })

  it('tells nobody who has stopped listening', async () => {
    const before = heard.length
    const others: string[] = []
    const stop = notifications.on('credential', (subject) => others.push(subject))
    stop()
    await send('later')
    await expect.poll(() => heard).toHaveLength(before + 1)
    expect(others).toEqual([])
  })
})
