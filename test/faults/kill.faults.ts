import { describe, expect } from 'vitest'
import { at, type Moment, moments } from './support/moments.ts'
import { scenario } from './support/scenario.ts'
import { type Expected, some } from './support/scene.ts'
import { type RotationRule, rotationRules } from './support/token-server.ts'

const waiting = ['200', 'no answer', '503 upstream_unavailable'] as const
const outcomeUnknown = '403 connect_required refresh_outcome_unknown'

/** What a kill at that moment may cost. The answer may be on disk or not when the process dies right after it arrived. */
function costOf(rule: RotationRule, moment: Moment): Expected {
  const lostAnswer: readonly Moment[] = [
    'its request is at the server',
    'one byte of the answer has arrived',
    'all of the answer but its last byte has arrived',
  ]
  const perhaps = moment === 'the whole answer has arrived'
  if (!perhaps && !lostAnswer.includes(moment)) return { requests: 1, lost: 0, saw: waiting }
  const requests = perhaps ? ([1, 2] as const) : 2
  if (rule !== 'strict') return { requests, lost: 0, saw: waiting }
  const one = perhaps ? ([0, 1] as const) : 1
  return { requests, lost: one, reuses: one, saw: [...waiting, outcomeUnknown] }
}

describe('V8: a replica is killed with SIGKILL when', () => {
  for (const moment of moments) {
    for (const rule of rotationRules) {
      scenario(`${moment} (${rule})`, { replicas: 2 }, async (scene) => {
        const [first, second] = scene.replicas
        const person = await scene.person({ rule })
        const killed = at(scene, some(first), moment, () => some(first).kill())
        const call = person.resolve(first)
        await killed
        expect((await call).status).toBe(0)
        const settled = await person.untilSettled(second)
        const cost = costOf(rule, moment)
        const grant = scene.server.grant(person.id)
        expect(settled.status, JSON.stringify(settled)).toBe(grant.revoked ? 403 : 200)
        const row = await scene.finish(cost)
        return row
      })
    }
  }
})
