import type { CredentialKey } from '../credential.ts'
import type { CredentialBinding } from '../upstream.ts'

/** Which connections of an upstream are renewed ahead of their end. */
export type AheadTerms = {
  readonly upstream: string
  /** Only what is bound to this; anything else has to be connected again. */
  readonly binding: CredentialBinding
  readonly refreshBeforeSeconds: number
  /** Stored sign-in tokens are exchanged for it, so that a connection without a refresh token can be renewed, too. */
  readonly usesSignInTokens: boolean
  /** At most so many. */
  readonly limit: number
}

/** A connection that is to be renewed. */
export type DueRenewal = CredentialKey & {
  /** Once it has another one, somebody has renewed it. */
  readonly generation: number
  /** Negative when it is overdue. */
  readonly dueInSeconds: number
}

/**
 * What is to be renewed ahead of its end, for whichever replica asks first. Time is the database's. All throw BrokerError
 * storage_unavailable.
 */
export interface DueRenewals {
  /**
   * Takes the connections that are due within `withinSeconds`, the soonest to end first: of those that were used within the last
   * lifetime of their credential (10 min at least), that can be renewed without anybody, and that nobody is renewing. No
   * replica is given one of them again for 30 s.
   */
  take(terms: readonly AheadTerms[], withinSeconds: number): Promise<readonly DueRenewal[]>

  /** Leaves this generation of a connection to its next use, for so long. */
  postpone(renewal: DueRenewal, seconds: number): Promise<void>
}
