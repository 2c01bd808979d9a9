import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startTestBroker, type TestBroker } from '../support/broker.ts'
import { startTcpDoor, type TcpDoor } from '../support/tcp-door.ts'

type Call = { readonly startedAt: number; readonly status: number; readonly code: unknown }

/** Calls one after the other until it is told to stop. */
function hammer(broker: TestBroker, subjectToken: string, upstream: string) {
  const calls: Call[] = []
  const stopping = new AbortController()
  const running = (async () => {
    while (!stopping.signal.aborted) {
      const startedAt = performance.now()
      const answer = await broker.resolve({ upstream, subject_token: subjectToken })
      calls.push({ startedAt, status: answer.status, code: answer.body['code'] })
    }
  })()
  return {
    calls,
    async stop(): Promise<void> {
      stopping.abort()
      await running
    },
  }
}

/** Puts the same row back, as often as it is removed. */
async function keepConnection({
  database: { database },
}: TestBroker): Promise<() => Promise<unknown>> {
  const { sql } = database
  await sql`DROP TABLE IF EXISTS kept`
  await sql`CREATE TABLE kept AS SELECT * FROM credential`
  return () => sql`INSERT INTO credential SELECT * FROM kept ON CONFLICT DO NOTHING`
}

describe('two replicas on one database', () => {
  let here: TestBroker
  let there: TestBroker
  beforeAll(async () => {
    here = await startTestBroker()
    there = await here.startBeside()
  })
  afterAll(async () => {
    await there.stop()
    await here.stop()
  })

  it('P12: a call that starts after a disconnect was answered never gets the old credential, on whatever replica', async () => {
    await here.connect('ada')
    const restore = await keepConnection(here)
    const token = await here.tokenOf('ada')
    const replicas = [here, there]
    let served = 0
    for (let round = 0; round < 100; round += 1) {
      await restore()
      for (const replica of replicas) {
        const answer = await replica.resolve({ upstream: 'files', subject_token: token })
        expect(answer.status).toBe(200)
      }
      const hammers = replicas.flatMap((replica) => [
        hammer(replica, token, 'files'),
        hammer(replica, token, 'files'),
      ])
      const on = replicas[round % 2] ?? here
      const answer = await on.call('DELETE', '/api/v1/connections/files', 'ada')
      const answeredAt = performance.now()
      expect(answer.status).toBe(204)
      const after = await Promise.all(
        replicas.map((replica) => replica.resolve({ upstream: 'files', subject_token: token })),
      )
      for (const { status, body } of after) {
        expect(status).toBe(403)
        expect(body).toMatchObject({ code: 'connect_required', reason: 'not_connected' })
      }
      await Promise.all(hammers.map((one) => one.stop()))
      const calls = hammers.flatMap((one) => one.calls)
      served += calls.filter(({ status }) => status === 200).length
      const late = calls.filter(({ startedAt }) => startedAt > answeredAt)
      expect(late.filter(({ status }) => status === 200)).toEqual([])
    }
    expect(served).toBeGreaterThan(100)
  }, 300_000)

  it('P12: of many who disconnect at once, each is answered when it is true everywhere', async () => {
    await here.connect('ada')
    const restore = await keepConnection(here)
    const token = await here.tokenOf('ada')
    for (let round = 0; round < 10; round += 1) {
      await restore()
      await there.resolve({ upstream: 'files', subject_token: token })
      await Promise.all(
        [here, here, there].map(async (replica) => {
          // The one that finds nothing to remove waits as well: what was removed may still be served.
          const answer = await replica.call('DELETE', '/api/v1/connections/files', 'ada')
          expect(answer.status).toBe(204)
          const next = await there.resolve({ upstream: 'files', subject_token: token })
          expect(next.status).toBe(403)
        }),
      )
    }
  })

  it('a new connection replaces what the other replica has in memory', async () => {
    await here.connect('grace')
    const token = await here.tokenOf('grace')
    const ask = () => there.resolve({ upstream: 'files', subject_token: token })
    const before = (await ask()).body['fingerprint']
    await here.connect('grace')
    await expect.poll(async () => (await ask()).body['fingerprint']).not.toBe(before)
  })
})

describe('a replica whose database is gone', () => {
  const freshForMs = 6000
  let here: TestBroker
  let door: TcpDoor
  let cut: TestBroker
  beforeAll(async () => {
    here = await startTestBroker({ timings: { freshForMs } })
    door = await startTcpDoor(here.database.url)
    cut = await here.startBeside((config) => {
      config.database.url = door.url
    })
  })
  afterAll(async () => {
    door.open()
    await cut.stop()
    await here.stop()
    await door.stop()
  })

  it('P12: serves from memory for a while, and is waited for so long and no longer; then it is 503 storage_unavailable', async () => {
    await here.connect('ada')
    const token = await here.tokenOf('ada')
    const ask = () => cut.resolve({ upstream: 'files', subject_token: token })
    expect((await ask()).status).toBe(200)
    door.shut()
    expect((await ask()).status).toBe(200)
    const calls = hammer(cut, token, 'files')
    const startedAt = performance.now()
    const answer = await here.call('DELETE', '/api/v1/connections/files', 'ada')
    const answeredAt = performance.now()
    expect(answer.status).toBe(204)
    const next = await ask()
    expect(next.status).toBe(503)
    expect(next.body['code']).toBe('storage_unavailable')
    expect(next.headers.get('retry-after')).toMatch(/^[1-9]\d*$/)
    const lateOnes = () => calls.calls.filter((call) => call.startedAt > answeredAt)
    await expect.poll(() => lateOnes().length).toBeGreaterThan(0)
    await calls.stop()
    const late = lateOnes()
    expect(new Set(late.map(({ status }) => status))).toEqual(new Set([503]))
    // It had the credential, and gave it, until shortly before.
    const waitedFor = calls.calls.filter(
      (call) => call.startedAt < answeredAt && call.status === 200,
    )
    expect(waitedFor.length).toBeGreaterThan(0)
    expect(answeredAt - startedAt).toBeLessThan(2 * freshForMs)
    // The second finds a replica that is given up already.
    const again = performance.now()
    await here.call('DELETE', '/api/v1/connections/files', 'ada')
    expect(performance.now() - again).toBeLessThan(freshForMs)

    door.open()
    const works = async () => (await ask()).status
    await expect.poll(works).toBe(403)
  })
})
