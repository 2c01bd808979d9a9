import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { ensureBuilt } from '../support/program.ts'
import { at, isCommit } from './support/moments.ts'
import type { Replica } from './support/replica.ts'
import { type Expected, type Scene, some, startScene } from './support/scene.ts'

// Processes are started and killed here: on a busy machine that takes its time.
vi.setConfig({ testTimeout: 180_000 })

/** A few scenarios of `npm run test:faults`, on two brokers that all of them share; those that wait for a lease to end are left out. */
describe('two broker processes on one database', () => {
  let scene: Scene
  let first: Replica
  let second: Replica
  const promised: Expected = {
    requests: 0,
    lost: 0,
    saw: [
      '200',
      'no answer',
      '403 connect_required not_connected',
      '503 storage_unavailable',
      '503 upstream_unavailable',
    ],
  }
  let requests = 0

  beforeAll(async () => {
    await ensureBuilt()
    scene = await startScene({ replicas: 2, latencyMs: 100 })
    first = some(scene.replicas[0])
    second = some(scene.replicas[1])
  }, 120_000)
  afterAll(async () => {
    try {
      await scene.finish({ ...promised, requests })
    } finally {
      await scene.stop()
    }
  }, 60_000)

  it('V1: 200 callers on both whose credential has ended make one request, and get one credential', async () => {
    for (let round = 0; round < 3; round += 1) {
      const person = await scene.person()
      const outcomes = await person.storm(200, scene.replicas)
      expect(outcomes.filter(({ status }) => status !== 200)).toEqual([])
      expect(new Set(outcomes.map(({ accessToken }) => accessToken)).size).toBe(1)
      requests += 1
      expect(scene.server.requests()).toBe(requests)
    }
  })

  it('V10: stopped (SIGSTOP) after its send with a credential still valid: callers are served, the late answer is stored', async () => {
    const person = await scene.person({ endsInSeconds: 30 })
    const stopped = at(scene, first, 'its request is at the server', () => first.pause())
    const call = person.resolve(first)
    await stopped
    for (const { accessToken } of await person.storm(50, [second])) {
      expect(accessToken).toBe(person.accessToken)
    }
    first.resume()
    await call
    await scene.until('the new credential is served', async () => {
      const { accessToken } = await person.resolve(second)
      return accessToken !== person.accessToken
    })
    requests += 1
    expect(scene.server.requests()).toBe(requests)
  })

  it('V22: disconnected on the other replica during a refresh: the new token is revoked, not stored', async () => {
    const person = await scene.person()
    let letGo = () => {}
    const released = new Promise<void>((resolve) => {
      letGo = resolve
    })
    scene.server.next(async (visit) => {
      const answer = visit.consume()
      await released
      await visit.send(answer)
    })
    requests += 1
    const call = person.resolve(first)
    await scene.until('the request', () => scene.server.requests() === requests)
    person.leave()
    expect(await person.disconnect(second)).toBe(204)
    letGo()
    expect((await call).status).toBe(403)
    await scene.until('the revocation', () =>
      scene.server.revocations().some((token) => scene.server.isCurrent(person.id, token)),
    )
    for (const replica of scene.replicas) {
      expect((await person.resolve(replica)).reason).toBe('not_connected')
    }
  })

  it('P-9: a disconnect on one replica is seen by the next call on the other', async () => {
    for (const [here, there] of [
      [first, second],
      [second, first],
    ] as const) {
      const person = await scene.person({ endsInSeconds: 3600 })
      expect((await person.resolve(there)).status).toBe(200)
      person.leave()
      expect(await person.disconnect(here)).toBe(204)
      expect((await person.resolve(there)).status).toBe(403)
    }
  })

  it('V12: killed (SIGKILL) with the answer not yet in the database, which is away: its journal is replayed at the next start', async () => {
    const person = await scene.person()
    const cut = new Promise<void>((resolve) => {
      first.wire.hook((phase, text) => {
        if (phase !== 'sent' || !isCommit(text)) return 'forward'
        first.wire.hook(undefined)
        first.wire.shut()
        resolve()
        return 'drop'
      })
    })
    const call = person.resolve(first)
    await cut
    await first.kill()
    await call
    first.wire.open()
    await first.start()
    requests += 1
    for (const replica of scene.replicas) {
      expect((await person.untilSettled(replica)).status).toBe(200)
    }
    expect(scene.server.requests()).toBe(requests)
  })

  it('V8: killed (SIGKILL) with its commit on the way: the other has the new credential', async () => {
    const person = await scene.person()
    const killed = at(scene, second, 'the commit is sent', () => second.kill())
    const call = person.resolve(second)
    await killed
    await call
    requests += 1
    expect((await person.untilSettled(first)).status).toBe(200)
    expect(scene.server.requests()).toBe(requests)
  })
})
