import type { PersonId } from '../caller.ts'
import type { CutOff } from './replicas.ts'

/** The rows of people who were cut off. All throw BrokerError storage_unavailable. */
export interface CutOffRecords {
  find(person: PersonId): Promise<CutOff | undefined>

  /** A bearer of this person was seen that was issued after the second of the cut-off; every replica hears of it. */
  noteReturn(person: PersonId, issuedAtSeconds: number): Promise<void>
}
