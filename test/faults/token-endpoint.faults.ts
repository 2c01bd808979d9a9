import { describe, expect } from 'vitest'
import { sleep } from './support/replica.ts'
import { scenario } from './support/scenario.ts'
import { some } from './support/scene.ts'
import { json, type Plan } from './support/token-server.ts'

const passing = ['200', '503 upstream_unavailable'] as const
const outcomeUnknown = '403 connect_required refresh_outcome_unknown'

const hangs: Plan = () => {}
const hangsAfterwards: Plan = (visit) => void visit.consume()
const resets: Plan = (visit) => visit.reset()
const resetsAfterwards: Plan = (visit) => {
  visit.consume()
  visit.reset()
}
const cuts: Plan = async (visit) => {
  await visit.send(visit.consume(), -20)
  visit.reset()
}

describe('the token endpoint', () => {
  for (const [name, plan] of [
    ['hangs and has done nothing', hangs],
    ['resets the connection and has done nothing', resets],
  ] as const) {
    scenario(`${name} (strict): tried once more, nobody lost`, {}, async (scene) => {
      const [first, second] = scene.replicas
      const person = await scene.person()
      scene.server.next(plan)
      await person.storm(20, scene.replicas)
      expect((await person.untilSettled(first)).status).toBe(200)
      expect((await person.untilSettled(second)).status).toBe(200)
      return scene.finish({ requests: 2, lost: 0, saw: passing })
    })
  }

  for (const [name, plan] of [
    ['hangs after it has done the work', hangsAfterwards],
    ['resets after it has done the work', resetsAfterwards],
    ['cuts its answer short', cuts],
  ] as const) {
    for (const rule of ['none', 'grace'] as const) {
      scenario(`${name} (${rule}): asked again, nobody lost`, {}, async (scene) => {
        const [first, second] = scene.replicas
        const person = await scene.person({ rule })
        scene.server.next(plan)
        await person.storm(20, scene.replicas)
        expect((await person.untilSettled(first)).status).toBe(200)
        expect((await person.untilSettled(second)).status).toBe(200)
        return scene.finish({ requests: 2, lost: 0, saw: passing })
      })
    }
    scenario(`${name} (strict): one try more, and a clear reason`, {}, async (scene) => {
      const [first, second] = scene.replicas
      const person = await scene.person()
      scene.server.next(plan)
      await person.storm(20, scene.replicas)
      await person.untilSettled(first)
      expect((await person.untilSettled(second)).reason).toBe('refresh_outcome_unknown')
      expect(await person.view(first)).toMatchObject({ reason: 'refresh_outcome_unknown' })
      return scene.finish({ requests: 2, lost: 1, reuses: 1, saw: [...passing, outcomeUnknown] })
    })
  }

  scenario(
    'loses its answer while the old credential is valid (strict): it is served to its end, and no try before',
    {},
    async (scene) => {
      const person = await scene.person({ endsInSeconds: 8 })
      scene.server.next(resetsAfterwards)
      const endsAt = Date.now() + 8000
      while (Date.now() < endsAt - 1500) {
        const served = await person.storm(4, scene.replicas)
        for (const one of served) expect(one.accessToken).toBe(person.accessToken)
        expect(scene.server.grant(person.id).requests).toBe(1)
        await sleep(200)
      }
      expect((await person.untilSettled(scene.replicas[0])).status).toBe(200)
      await sleep(2500)
      expect((await person.untilSettled(scene.replicas[0])).reason).toBe('refresh_outcome_unknown')
      return scene.finish({ requests: 2, lost: 1, reuses: 1, saw: [...passing, outcomeUnknown] })
    },
  )

  scenario('answers after 8 s: everybody waits for the one request', {}, async (scene) => {
    const person = await scene.person()
    scene.server.next(async (visit) => {
      const answer = visit.consume()
      await sleep(8000)
      await visit.send(answer)
    })
    await person.storm(40, scene.replicas)
    return scene.finish({ requests: 1, lost: 0, saw: ['200'] })
  })

  scenario(
    'V4: 429 with Retry-After pauses it for everybody on every replica',
    {},
    async (scene) => {
      const people = await Promise.all([scene.person(), scene.person()])
      const [ada, grace] = people
      scene.server.next((visit) => visit.send(json(429, {}, { 'retry-after': '4' })))
      const refused = await some(ada).resolve(scene.replicas[0])
      expect(refused.retryAfterSeconds).toBeGreaterThanOrEqual(3)
      expect(refused.retryAfterSeconds).toBeLessThanOrEqual(4)
      const others = await Promise.all(
        people.flatMap((person) => scene.replicas.map((replica) => person.resolve(replica))),
      )
      expect(others.map(({ status }) => status)).toEqual([503, 503, 503, 503])
      expect(scene.server.requests()).toBe(1)
      for (const person of [some(ada), some(grace)]) {
        expect((await person.untilSettled(scene.replicas[1])).status).toBe(200)
      }
      return scene.finish({ requests: 3, lost: 0, saw: passing })
    },
  )

  scenario(
    'V3: 500 for 12 s: few tries, shared by the replicas, and it heals by itself',
    {},
    async (scene) => {
      const person = await scene.person()
      scene.server.always((visit) => visit.send(json(500, { error: 'server_error' })))
      const healsAt = Date.now() + 12_000
      while (Date.now() < healsAt) {
        await person.storm(10, scene.replicas)
        await sleep(200)
      }
      expect(await person.view(scene.replicas[0])).toMatchObject({ reason: null })
      scene.server.always(undefined)
      expect((await person.untilSettled(scene.replicas[1])).status).toBe(200)
      // Full jitter from 1 s up to 30 s.
      return scene.finish({ requests: [2, 20], lost: 0, saw: passing })
    },
  )

  scenario('V3: fails while the credential is valid: everybody is served', {}, async (scene) => {
    const person = await scene.person({ endsInSeconds: 50 })
    scene.server.always((visit) => visit.send(json(503, {})))
    const healsAt = Date.now() + 6000
    while (Date.now() < healsAt) {
      await person.storm(10, scene.replicas)
      await sleep(200)
    }
    scene.server.always(undefined)
    return scene.finish({ requests: [1, 12], lost: 0, saw: ['200'] })
  })

  scenario('V3: cannot be reached', {}, async (scene) => {
    const person = await scene.person()
    scene.server.onConnection((socket) => socket.destroy())
    const healsAt = Date.now() + 4000
    while (Date.now() < healsAt) {
      await person.storm(10, scene.replicas)
      await sleep(200)
    }
    scene.server.onConnection(undefined)
    expect((await person.untilSettled(scene.replicas[1])).status).toBe(200)
    return scene.finish({ requests: 1, lost: 0, saw: passing })
  })

  scenario(
    'V6: invalid_grant ends the connection, and that grant is never asked again',
    {},
    async (scene) => {
      const [first, second] = scene.replicas
      const person = await scene.person()
      scene.server.next((visit) => visit.send(json(400, { error: 'invalid_grant' })))
      for (let round = 0; round < 3; round += 1) await person.storm(20, scene.replicas)
      expect(await person.view(first)).toEqual(await person.view(second))
      expect(await person.view(first)).toMatchObject({
        status: 'reconnect_required',
        reason: 'refresh_failed',
      })
      await some(first).kill()
      await some(first).start()
      await person.storm(10, scene.replicas)
      return scene.finish({ requests: 1, lost: 1, saw: ['403 connect_required refresh_failed'] })
    },
  )

  for (const error of ['invalid_client', 'unauthorized_client', 'invalid_scope'] as const) {
    scenario(`V6: ${error} costs nobody a connection`, {}, async (scene) => {
      const [first, second] = scene.replicas
      const person = await scene.person()
      scene.server.next((visit) => visit.send(json(401, { error })))
      expect((await person.resolve(first)).status).toBe(502)
      expect((await person.resolve(second)).status).toBe(200)
      return scene.finish({ requests: 2, lost: 0, saw: ['200', '502 upstream_misconfigured'] })
    })
  }

  scenario('V5: one that hangs holds up nobody of another', {}, async (scene) => {
    const people = await Promise.all(
      Array.from({ length: 20 }, () => scene.person({ rule: 'strict' })),
    )
    scene.server.always((visit) =>
      visit.grant?.rule === 'strict' ? undefined : visit.send(visit.consume()),
    )
    const hanging = people.map((person, index) => person.resolve(scene.replicas[index % 2]))
    await scene.until('they hang', () => scene.server.requests() >= 20)
    const others = await Promise.all(
      Array.from({ length: 20 }, () => scene.person({ rule: 'none' })),
    )
    const isOver = Promise.race(hanging)
    let over = false
    void isOver.then(() => {
      over = true
    })
    for (const other of others) expect((await other.resolve(scene.replicas[0])).status).toBe(200)
    expect(over, 'the others were served while the first ones hung').toBe(false)
    scene.server.always(undefined)
    await Promise.all(hanging)
    await Promise.all(people.map((person) => person.untilSettled(scene.replicas[1])))
    return scene.finish({ requests: 60, lost: 0, saw: passing })
  })

  scenario(
    'V20: every second request fails: no failure causes more than one request more',
    {},
    async (scene) => {
      const people = await Promise.all(Array.from({ length: 40 }, () => scene.person()))
      let arrived = 0
      let failed = 0
      scene.server.always((visit) => {
        arrived += 1
        if (arrived % 2 === 0) return visit.send(visit.consume())
        failed += 1
        return visit.send(json(500, {}))
      })
      await Promise.all(
        people.map(async (person, index) => {
          await person.storm(6, scene.replicas)
          // Six failures in a row happen to one of forty in every second run, and the pause after each is twice as long.
          const settled = await person.untilSettled(scene.replicas[index % 2], 200)
          expect(settled.status).toBe(200)
        }),
      )
      expect(scene.server.requests()).toBe(people.length + failed)
      return scene.finish({ requests: [40, 400], lost: 0, saw: passing })
    },
  )
})
