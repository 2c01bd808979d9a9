import { personKey, type PersonId } from './caller.ts'
import type { CutOffRecords } from './ports/cut-off-records.ts'
import type { CutOff } from './ports/replicas.ts'
import type { StorageHealth } from './ports/storage-health.ts'

/**
 * People who were cut off, in memory. A replica that has not heard from the database for a while asks it, because somebody may
 * have been cut off since.
 */
export interface CutOffs {
  /**
   * Whether a bearer of this person counts. One that does not say when it was issued counts as issued before, until the person
   * has come back. No promise where nobody has to be asked. @throws BrokerError storage_unavailable
   */
  admitsBearer(person: PersonId, issuedAtSeconds: number | undefined): boolean | Promise<boolean>

  /** Whether a service may act for this person without their token. @throws BrokerError storage_unavailable */
  admitsAssertion(person: PersonId): boolean | Promise<boolean>
}

export function createCutOffs(ports: {
  readonly records: CutOffRecords
  readonly storage: StorageHealth
}): CutOffs & {
  /** Learns of a cut-off or a return, in whatever order and however often. */
  note(person: PersonId, cutOff: CutOff): void
} {
  const { records, storage } = ports
  // Grows with the people who were ever cut off, some 200 bytes each: nobody may be forgotten who must be refused.
  const known = new Map<string, CutOff>()

  function note(person: PersonId, cutOff: CutOff): void {
    const key = personKey(person)
    const before = known.get(key)
    if (before === undefined || before.cutAt < cutOff.cutAt) known.set(key, cutOff)
    else if (before.cutAt.getTime() === cutOff.cutAt.getTime() && cutOff.returned) {
      known.set(key, cutOff)
    }
  }

  async function look(person: PersonId): Promise<CutOff | undefined> {
    const found = await records.find(person)
    if (found !== undefined) note(person, found)
    return found
  }

  function judgeBearer(
    person: PersonId,
    cutOff: CutOff | undefined,
    issuedAtSeconds: number | undefined,
  ): boolean | Promise<boolean> {
    if (cutOff === undefined) return true
    if (issuedAtSeconds === undefined) return cutOff.returned
    if (issuedAtSeconds <= Math.floor(cutOff.cutAt.getTime() / 1000)) return false
    return cutOff.returned || noteReturn(person, cutOff, issuedAtSeconds)
  }

  async function noteReturn(
    person: PersonId,
    { cutAt }: CutOff,
    issuedAtSeconds: number,
  ): Promise<boolean> {
    try {
      await records.noteReturn(person, issuedAtSeconds)
      note(person, { cutAt, returned: true })
    } catch {
      // The bearer is as good; the next one says so again.
    }
    return true
  }

  return {
    note,

    admitsBearer(person, issuedAtSeconds) {
      if (!storage.isFresh()) {
        return look(person).then((cutOff) => judgeBearer(person, cutOff, issuedAtSeconds))
      }
      if (known.size === 0) return true
      return judgeBearer(person, known.get(personKey(person)), issuedAtSeconds)
    },

    admitsAssertion(person) {
      const cutOff = storage.isFresh() ? known.get(personKey(person)) : undefined
      if (storage.isFresh() && (cutOff === undefined || cutOff.returned)) return true
      // Asked before the refusal: the person may have come back through another replica a moment ago.
      return look(person).then((found) => found === undefined || found.returned)
    },
  }
}
