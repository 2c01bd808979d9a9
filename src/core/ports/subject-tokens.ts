import type { PersonId } from '../caller.ts'
import type { Secret } from '../secret.ts'

export type SubjectTokenType = 'access_token' | 'id_token' | 'jwt'

/** The stored sign-in token of a person (`identity.login.store_subject_token`). */
export interface SubjectTokens {
  /** The token if it is still good, refreshed when it can be; undefined when the person must sign in again. */
  find(person: PersonId, type: SubjectTokenType): Promise<Secret | undefined>
}
