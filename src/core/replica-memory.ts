import type { PersonId } from './caller.ts'
import type { CredentialMemory } from './credential-memory.ts'
import { memoryKey } from './credential-memory.ts'
import type { createCutOffs } from './cut-offs.ts'
import type { ReplicaMemory } from './ports/replicas.ts'
import type { Renewals } from './renewals.ts'
import type { Upstream } from './upstream.ts'

/**
 * All that this process keeps in memory of the database, behind one door: whatever is removed, here or on another replica, is
 * forgotten everywhere in the house at once.
 */
export function createReplicaMemory(ports: {
  readonly upstreams: ReadonlyMap<string, Upstream>
  readonly credentials: Pick<CredentialMemory, 'forget' | 'forgetAll'>
  /** The gateway's. */
  readonly sessions: Pick<CredentialMemory, 'forget' | 'forgetAll'>
  readonly cutOffs: Pick<ReturnType<typeof createCutOffs>, 'note'>
  readonly renewals: Pick<Renewals, 'startAfresh'>
  /** The calls that are open with a credential. */
  readonly openCalls: {
    readonly change: (person: PersonId, upstream: string | undefined) => void
    readonly cut: (person: PersonId, upstream: string | undefined) => void
  }
}): ReplicaMemory {
  const { upstreams, credentials, sessions, cutOffs, renewals, openCalls } = ports

  function forget(person: PersonId, upstream: string | undefined): void {
    for (const name of upstream === undefined ? upstreams.keys() : [upstream]) {
      const key = memoryKey(person, name)
      credentials.forget(key)
      sessions.forget(key)
      renewals.startAfresh(key)
    }
  }

  return {
    forget(person, upstream) {
      forget(person, upstream)
      openCalls.change(person, upstream)
    },
    end(person, upstream) {
      forget(person, upstream)
      openCalls.cut(person, upstream)
    },
    forgetAll() {
      credentials.forgetAll()
      sessions.forgetAll()
      renewals.startAfresh()
    },
    cutOff: (person, cutOff) => cutOffs.note(person, cutOff),
  }
}
