import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import {
  isAllowedByPolicy,
  type PolicyHook,
  type PolicyQuestion,
} from '../../../src/core/policy.ts'

const question: PolicyQuestion = {
  person: {
    issuer: 'https://login.example.com',
    userId: 'ada',
    email: undefined,
    roles: [],
    identity: 'token',
  },
  service: { id: 'edge' },
  upstream: 'files',
  requestId: '0199a1b2-0000-7000-8000-000000000001',
}

describe('a policy hook', () => {
  beforeEach(() => vi.useFakeTimers())
  afterEach(() => vi.useRealTimers())

  it('is asked about the person, the service and the upstream, and says yes with true', async () => {
    const hook = vi.fn<PolicyHook>(() => true)
    expect(await isAllowedByPolicy(hook, question)).toBe(true)
    expect(await isAllowedByPolicy(async () => true, question)).toBe(true)
    expect(hook.mock.calls).toEqual([[question]])
    expect(vi.getTimerCount()).toBe(0)
  })

  it.each([false, undefined, null, 0, '', Number.NaN, 'yes', 1, {}, []])(
    'H-G3: that returns %j, whatever its type promised, has said no',
    async (answer) => {
      const sloppy = (() => answer) as unknown as PolicyHook
      const promising = (() => Promise.resolve(answer)) as unknown as PolicyHook
      expect(await isAllowedByPolicy(sloppy, question)).toBe(false)
      expect(await isAllowedByPolicy(promising, question)).toBe(false)
    },
  )

  it('that throws or rejects has said no', async () => {
    const throwing = () => {
      throw new Error('CNRY of the hook')
    }
    expect(await isAllowedByPolicy(throwing, question)).toBe(false)
    expect(await isAllowedByPolicy(() => Promise.reject(new Error('x')), question)).toBe(false)
  })

  it('that takes 5 s has said no, also when it says yes later', async () => {
    const late = () => new Promise<boolean>((resolve) => setTimeout(() => resolve(true), 5001))
    const inTime = () => new Promise<boolean>((resolve) => setTimeout(() => resolve(true), 4999))
    const answers = Promise.all([
      isAllowedByPolicy(late, question),
      isAllowedByPolicy(inTime, question),
    ])
    await vi.advanceTimersByTimeAsync(6000)
    expect(await answers).toEqual([false, true])
  })
})
