import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { generateKey } from '../../src/sealing/keyring.ts'
import { rewrapKeys } from '../../src/wiring/keys.ts'
import { startTestBroker, type TestBroker, type TestConfig } from '../support/broker.ts'
import { configOf } from '../support/config-files.ts'

// The short form of `test/faults/key-rotation.faults.ts`.

let broker: TestBroker
beforeAll(async () => {
  // So short that they are refreshed all the while.
  broker = await startTestBroker({ accessTokenSeconds: 2 })
})
afterAll(() => broker.stop())

it('S6: a key is replaced on two brokers while everybody calls: no call fails, no refresh is lost, the old one is not needed', async () => {
  const fresh = { id: 'k2', secret: generateKey() }
  broker.scan.register('encryption key', fresh.secret)
  await broker.connect('ada')
  await broker.connect('grace')
  const people = ['ada', 'grace', 'linus']
  for (const person of people) {
    expect((await broker.resolveAs(person, 'reports')).status).toBe(200)
  }

  let serving: readonly TestBroker[] = [broker]
  const failed: string[] = []
  let calls = 0
  /** How many calls each of them still has to answer. */
  const busy = new Map<TestBroker, number>()
  const whileBusy = async <T>(at: TestBroker, call: Promise<T>): Promise<T> => {
    busy.set(at, (busy.get(at) ?? 0) + 1)
    return call.finally(() => busy.set(at, (busy.get(at) ?? 0) - 1))
  }
  const over = new AbortController()
  const caller = async (person: string, upstream: string) => {
    while (!over.signal.aborted) {
      calls += 1
      const at = serving[calls % serving.length]
      const user = { issuer: broker.identityProvider.issuer, id: person }
      const answer = at && (await whileBusy(at, at.resolve({ upstream, user })))
      if (answer?.status !== 200) failed.push(`${upstream} of ${person}: ${answer?.text}`)
      await sleep(20)
    }
  }
  const calling = [
    caller('ada', 'files'),
    caller('grace', 'files'),
    ...people.map((person) => caller(person, 'reports')),
  ]

  let config: TestConfig | undefined
  type Keys = TestConfig['encryption']['keys']
  /** Two new ones take the place of those that serve. */
  const replaceAll = async (change: (first: Keys) => Keys) => {
    const before = serving
    const start = () =>
      broker.startBeside((own) => {
        own.encryption.keys = change(own.encryption.keys)
        config = own
      })
    serving = await Promise.all([start(), start()])
    // As behind a load balancer: a broker is told to stop once it gets no more calls.
    await expect.poll(() => before.every((one) => (busy.get(one) ?? 0) === 0)).toBe(true)
    await Promise.all(before.filter((one) => one !== broker).map((replica) => replica.stop()))
  }
  const keysOf = async () => {
    const { sql } = broker.database.database
    const rows = await sql<{ key: string }[]>`
      SELECT DISTINCT convert_from(substring(sealed FROM 4 FOR get_byte(sealed, 2)), 'UTF8') AS key FROM (
        SELECT access_token FROM credential UNION SELECT refresh_token FROM credential
        UNION SELECT private_key FROM activity_signing_key) AS all_of_them (sealed)
      WHERE sealed IS NOT NULL ORDER BY 1`
    return rows.map(({ key }) => key)
  }

  try {
    await replaceAll((first) => [...first, fresh])
    expect(await keysOf()).toEqual(['k1'])
    await replaceAll((first) => [fresh, ...first])
    if (config === undefined) throw new Error('no configuration')
    const options = {
      config: await configOf(config),
      database: broker.database.database,
      signal: new AbortController().signal,
      onProgress: () => {},
    }
    expect(await rewrapKeys(options)).toMatchObject({
      keyId: 'k2',
      unopened: 0,
      end: 'done',
      recorded: true,
    })
    expect(await keysOf()).toEqual(['k2'])
    await replaceAll(() => [fresh])
  } finally {
    over.abort()
    await Promise.all(calling)
    await Promise.all(serving.filter((one) => one !== broker).map((replica) => replica.stop()))
  }
  expect(failed).toEqual([])
  expect(calls).toBeGreaterThan(100)
  const { sql } = broker.database.database
  const [record, ...others] = await sql`
    SELECT outcome, reason, actor_kind, type FROM activity WHERE action = 'key_rewrap'`
  expect(others).toEqual([])
  expect(record).toMatchObject({ type: 'administration', outcome: 'success', reason: null })
  const refreshes = await sql`
    SELECT FROM activity WHERE action = 'refresh' AND outcome = 'success' AND upstream = 'files'`
  expect(refreshes.length).toBeGreaterThan(2)
}, 180_000)
