import type { Person, Service } from './caller.ts'

/** What a policy hook is asked. Never holds a credential. */
export type PolicyQuestion = {
  readonly person: Pick<Person, 'issuer' | 'userId' | 'email' | 'roles' | 'identity'>
  readonly service: Pick<Service, 'id'> | undefined
  readonly upstream: string
  readonly requestId: string
}

/** The last yes or no before a credential leaves, asked for every caller. One that throws or takes 5 s has said no. */
export type PolicyHook = (question: PolicyQuestion) => boolean | Promise<boolean>

const policyTimeoutMs = 5000

export async function isAllowedByPolicy(
  hook: PolicyHook,
  question: PolicyQuestion,
): Promise<boolean> {
  let timer: ReturnType<typeof setTimeout> | undefined
  const timeout = new Promise<false>((resolve) => {
    timer = setTimeout(() => resolve(false), policyTimeoutMs)
  })
  try {
    // Only `true` is a yes: a hook written in JavaScript may return anything.
    const answer: unknown = await Promise.race([hook(question), timeout])
    return answer === true
  } catch {
    return false
  } finally {
    clearTimeout(timer)
  }
}
