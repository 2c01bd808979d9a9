import type { PersonId } from '../caller.ts'
import type { StorageHealth } from './storage-health.ts'

/**
 * This process among those that share the database. What one of them changes, the others hold in memory for as long as they have
 * not heard of it; whoever promises that a change counts everywhere waits for them.
 */
export interface Replicas extends StorageHealth {
  /** Names what keeps things in memory. Once, and before this process counts as a replica. */
  keeps(memory: ReplicaMemory): void

  /**
   * Resolves when no replica serves anything any more that was removed before this call: each has said that it forgot it, or was
   * not heard from for so long that it serves nothing from memory. After 10 s that is certain of all. Never rejects.
   */
  caughtUp(): Promise<void>
}

/** What a process keeps in memory of the database. */
export interface ReplicaMemory {
  /** A person's connection is another than it was; without `upstream` any of theirs. */
  forget(person: PersonId, upstream: string | undefined): void
  /** It is gone: as `forget`, and what is open with it is cut. */
  end(person: PersonId, upstream: string | undefined): void
  /** Forgets everything: changes may have been missed. */
  forgetAll(): void
  /** A person was cut off, or has come back since; also when it is known already. */
  cutOff(person: PersonId, cutOff: CutOff): void
}

/** From when on a person counts again. */
export type CutOff = {
  /** Bearers issued up to the second of this instant are refused. */
  readonly cutAt: Date
  /** A later bearer or sign-in was seen, so that assertions count again. */
  readonly returned: boolean
}
