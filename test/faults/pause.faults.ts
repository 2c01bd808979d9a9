import { describe, expect } from 'vitest'
import { sleep } from './support/replica.ts'
import { at } from './support/moments.ts'
import { scenario } from './support/scenario.ts'
import { some } from './support/scene.ts'

const waiting = ['200', '503 upstream_unavailable'] as const
const outcomeUnknown = '403 connect_required refresh_outcome_unknown'

describe('V9: a replica stands still (SIGSTOP) before its send', () => {
  scenario(
    'past its lease; others go on, and when it runs again it sends nothing',
    {},
    async (scene) => {
      const [first, second] = scene.replicas
      const person = await scene.person()
      const stopped = at(scene, some(first), 'the claim is acknowledged', () => some(first).pause())
      const call = person.resolve(first)
      await stopped
      expect((await person.untilSettled(second)).status).toBe(200)
      some(first).resume()
      await call
      expect((await person.untilSettled(first)).status).toBe(200)
      // Its statement has waited longer than a statement may.
      return scene.finish({ requests: 1, lost: 0, saw: [...waiting, '503 storage_unavailable'] })
    },
  )

  scenario('for 2 s, everybody waits for it', { replicas: 3 }, async (scene) => {
    const [first, ...others] = scene.replicas
    const person = await scene.person()
    const stopped = at(scene, some(first), 'the claim is acknowledged', () => some(first).pause())
    const call = person.resolve(first)
    await stopped
    const storm = person.storm(60, others)
    await sleep(2000)
    some(first).resume()
    await Promise.all([call, storm])
    return scene.finish({ requests: 1, lost: 0, saw: ['200'] })
  })

  scenario('whose credential is still valid: nobody waits for it', {}, async (scene) => {
    const [first, second] = scene.replicas
    const person = await scene.person({ endsInSeconds: 20 })
    const stopped = at(scene, some(first), 'the claim is acknowledged', () => some(first).pause())
    const call = person.resolve(first)
    await stopped
    const served = await person.storm(60, [some(second)])
    for (const one of served) expect(one.accessToken).toBe(person.accessToken)
    some(first).resume()
    await call
    await scene.until('the new credential is served', async () => {
      const { accessToken } = await person.resolve(second)
      return accessToken !== person.accessToken
    })
    return scene.finish({ requests: 1, lost: 0, saw: ['200'] })
  })
})

describe('V10: a replica stands still after its send', () => {
  scenario(
    'for 3 s with a credential that is still valid: it is served, and the late answer is stored',
    {},
    async (scene) => {
      const [first, second] = scene.replicas
      const person = await scene.person({ endsInSeconds: 20 })
      const stopped = at(scene, some(first), 'its request is at the server', () =>
        some(first).pause(),
      )
      const call = person.resolve(first)
      await stopped
      const served = await person.storm(60, [some(second)])
      for (const one of served) expect(one.accessToken).toBe(person.accessToken)
      await sleep(3000)
      some(first).resume()
      await call
      await scene.until('the new credential is served', async () => {
        const { accessToken } = await person.resolve(second)
        return accessToken !== person.accessToken
      })
      return scene.finish({ requests: 1, lost: 0, saw: ['200'] })
    },
  )

  scenario('for 5 s with an ended one: everybody waits for it', { replicas: 3 }, async (scene) => {
    const [first, ...others] = scene.replicas
    const person = await scene.person()
    const stopped = at(scene, some(first), 'its request is at the server', () =>
      some(first).pause(),
    )
    const call = person.resolve(first)
    await stopped
    const storm = person.storm(60, others)
    await sleep(5000)
    some(first).resume()
    await Promise.all([call, storm])
    return scene.finish({ requests: 1, lost: 0, saw: ['200'] })
  })

  scenario(
    'for 12 s, past the time that an answer may take: the answer that waits in its socket is read, not given up',
    {},
    async (scene) => {
      const [first, second] = scene.replicas
      const person = await scene.person()
      const stopped = at(scene, some(first), 'its request is at the server', () =>
        some(first).pause(),
      )
      const call = person.resolve(first)
      await stopped
      await sleep(12_000)
      some(first).resume()
      await call
      expect((await person.untilSettled(second)).status).toBe(200)
      return scene.finish({ requests: 1, lost: 0, saw: waiting })
    },
  )

  scenario('when the answer has arrived, for 5 s', { replicas: 3 }, async (scene) => {
    const [first, ...others] = scene.replicas
    const person = await scene.person()
    const stopped = at(scene, some(first), 'the commit is sent', () => some(first).pause())
    const call = person.resolve(first)
    await stopped
    const storm = person.storm(60, others)
    await sleep(5000)
    some(first).resume()
    await Promise.all([call, storm])
    return scene.finish({ requests: 1, lost: 0, saw: ['200'] })
  })
})

describe('V11: a replica stands still after its send for longer than anybody waits', () => {
  for (const rule of ['none', 'grace'] as const) {
    scenario(`${rule}: another sends again, the late answer hurts nobody`, {}, async (scene) => {
      const [first, second] = scene.replicas
      const person = await scene.person({ rule })
      const stopped = at(scene, some(first), 'its request is at the server', () =>
        some(first).pause(),
      )
      const call = person.resolve(first)
      await stopped
      expect((await person.untilSettled(second)).status).toBe(200)
      some(first).resume()
      await call
      expect((await person.untilSettled(first)).status).toBe(200)
      return scene.finish({ requests: 2, lost: 0, saw: waiting, atOnce: 2 })
    })
  }

  scenario(
    'strict: one try more, which costs the grant; no loop, a clear reason',
    {},
    async (scene) => {
      const [first, second] = scene.replicas
      const person = await scene.person()
      const stopped = at(scene, some(first), 'its request is at the server', () =>
        some(first).pause(),
      )
      const call = person.resolve(first)
      await stopped
      expect((await person.untilSettled(second)).reason).toBe('refresh_outcome_unknown')
      for (let again = 0; again < 3; again += 1) await person.resolve(second)
      some(first).resume()
      await call
      return scene.finish({
        requests: 2,
        lost: 1,
        reuses: 1,
        saw: [...waiting, outcomeUnknown],
        atOnce: 2,
      })
    },
  )
})

describe('V21: SIGTERM during a refresh', () => {
  const moments = [
    'the claim is acknowledged',
    'its request is at the server',
    'the whole answer has arrived',
    'the commit is sent',
  ] as const
  for (const moment of moments) {
    scenario(`when ${moment}: it is finished first`, {}, async (scene) => {
      const [first, second] = scene.replicas
      const person = await scene.person()
      const told = at(scene, some(first), moment, async () => {
        some(first).signal('SIGTERM')
        await sleep(500)
      })
      const call = person.resolve(first)
      await told
      expect((await call).status).toBe(200)
      expect((await some(first).ended()).code).toBe(0)
      expect((await person.resolve(second)).status).toBe(200)
      return scene.finish({ requests: 1, lost: 0, saw: ['200'] })
    })
  }
})
