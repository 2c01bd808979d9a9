import { type PersonId, personKey } from '../core/caller.ts'
import { BrokerError } from '../core/errors.ts'

/** A call, or a stream, that is open for a person. */
export type OpenCall = {
  readonly upstream: string
  /** False for a stream that waits for its person to connect: no disconnect ends that. */
  readonly usesCredential: boolean
  readonly cut: () => void
}

/** The calls that are open on this replica, by person. */
export type OpenCalls = {
  /** Gives what takes the call off again. @throws BrokerError too_many_streams */
  readonly add: (person: PersonId, call: OpenCall) => () => void
  /** Cuts what a person's credential for an upstream is used for; without an upstream all that the person has open. */
  readonly cut: (person: PersonId, upstream: string | undefined) => void
  /** Cuts everything. */
  readonly cutAll: () => void
}

const mostAPerson = 100

export function createOpenCalls(): OpenCalls {
  const open = new Map<string, Set<OpenCall>>()
  return {
    add(person, call) {
      const key = personKey(person)
      const calls = open.get(key) ?? new Set()
      if (calls.size >= mostAPerson) throw new BrokerError('too_many_streams')
      open.set(key, calls.add(call))
      return () => {
        calls.delete(call)
        if (calls.size === 0 && open.get(key) === calls) open.delete(key)
      }
    },
    cut(person, upstream) {
      for (const call of open.get(personKey(person)) ?? []) {
        const isMeant = call.upstream === upstream && call.usesCredential
        if (upstream === undefined || isMeant) call.cut()
      }
    },
    cutAll() {
      for (const calls of open.values()) for (const call of calls) call.cut()
    },
  }
}
