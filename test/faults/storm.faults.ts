import { describe, expect } from 'vitest'
import { scenario } from './support/scenario.ts'
import { some } from './support/scene.ts'

describe('V1: a storm', () => {
  scenario(
    '4 replicas, 300 callers for one person whose credential has ended, 100 times',
    { replicas: 4, latencyMs: 100 },
    async (scene) => {
      const counts: number[] = []
      for (let round = 0; round < 100; round += 1) {
        const person = await scene.person()
        const outcomes = await person.storm(300, scene.replicas)
        const values = new Set(outcomes.map(({ accessToken }) => accessToken))
        expect(values.size, `round ${round}`).toBe(1)
        counts.push(scene.server.grant(person.id).requests)
      }
      expect(counts.filter((count) => count !== 1)).toEqual([])
      return scene.finish({ requests: 100, lost: 0, saw: ['200'] })
    },
  )

  scenario(
    'callers whose credential is still valid for 20 s: nobody waits for the server',
    { replicas: 3 },
    async (scene) => {
      const person = await scene.person({ endsInSeconds: 20 })
      let answer: (() => void) | undefined
      const held = new Promise<void>((resolve) => {
        answer = resolve
      })
      scene.server.next(async (visit) => {
        await held
        await visit.send(visit.consume())
      })
      // The server answers only after everybody has been served.
      for (const one of await person.storm(300, scene.replicas)) {
        expect(one.accessToken).toBe(person.accessToken)
      }
      some(answer)()
      await scene.until('the new credential is served', async () => {
        const { accessToken } = await person.resolve(scene.replicas[1])
        return accessToken !== person.accessToken
      })
      return scene.finish({ requests: 1, lost: 0, saw: ['200'] })
    },
  )

  scenario(
    'V2: 300 people end at the same second',
    { replicas: 3, latencyMs: 50 },
    async (scene) => {
      const people = await Promise.all(Array.from({ length: 300 }, () => scene.person()))
      await Promise.all(
        people.flatMap((person, index) => [
          person.resolve(scene.replicas[index % 3]),
          person.resolve(scene.replicas[(index + 1) % 3]),
        ]),
      )
      return scene.finish({ requests: 300, lost: 0, saw: ['200'] })
    },
  )

  scenario(
    'callers that go away cancel nothing',
    { replicas: 2, latencyMs: 500 },
    async (scene) => {
      const person = await scene.person()
      const [first, second] = scene.replicas
      const leaving = new AbortController()
      const gone = some(first).resolve(person.id, person.upstream, {}, leaving.signal)
      await scene.until('the request is at the server', () => scene.server.requests() === 1)
      leaving.abort()
      expect((await gone).status).toBe(0)
      expect((await person.resolve(second)).status).toBe(200)
      return scene.finish({ requests: 1, lost: 0, saw: ['200', 'no answer'] })
    },
  )

  scenario(
    'rejected: all callers who saw the same credential share one forced refresh',
    { replicas: 3, latencyMs: 100 },
    async (scene) => {
      const person = await scene.person({ endsInSeconds: 3600 })
      const seen = await Promise.all(scene.replicas.map((replica) => person.resolve(replica)))
      const rejected = some(seen[0]?.fingerprint)
      const forced = await Promise.all(
        Array.from({ length: 150 }, (_, index) =>
          person.resolve(scene.replicas[index % 3], { rejected }),
        ),
      )
      expect(new Set(forced.map(({ fingerprint }) => fingerprint)).size).toBe(1)
      expect(forced[0]?.fingerprint).not.toBe(rejected)
      // Replaced already: none.
      await Promise.all(scene.replicas.map((replica) => person.resolve(replica, { rejected })))
      return scene.finish({ requests: 1, lost: 0, saw: ['200'] })
    },
  )
})

describe('V21: rolling restarts', () => {
  scenario(
    'each of 3 replicas is restarted 3 times (SIGTERM) under load, with credentials of 6 s',
    { replicas: 3 },
    async (scene) => {
      const people = await Promise.all(
        Array.from({ length: 6 }, () => scene.person({ livesSeconds: 6 })),
      )
      await scene.load(people, 16, async () => {
        for (let round = 0; round < 3; round += 1) {
          for (const replica of scene.replicas) {
            replica.signal('SIGTERM')
            expect((await replica.ended()).code).toBe(0)
            await replica.start()
          }
        }
      })
      return scene.finish({
        requests: [6, Number.POSITIVE_INFINITY],
        lost: 0,
        saw: ['200', 'refused connection'],
      })
    },
  )

  scenario(
    'each of 3 replicas is killed 3 times (SIGKILL) under load, with credentials of 6 s',
    { replicas: 3 },
    async (scene) => {
      const people = await Promise.all(
        Array.from({ length: 6 }, () => scene.person({ rule: 'grace', livesSeconds: 6 })),
      )
      await scene.load(people, 16, async () => {
        for (let round = 0; round < 3; round += 1) {
          for (const replica of scene.replicas) {
            await replica.kill()
            await replica.start()
          }
        }
      })
      for (const person of people)
        expect((await person.untilSettled(scene.replicas[0])).status).toBe(200)
      return scene.finish({
        requests: [6, Number.POSITIVE_INFINITY],
        lost: 0,
        saw: ['200', 'no answer', 'refused connection', '503 upstream_unavailable'],
      })
    },
  )
})
