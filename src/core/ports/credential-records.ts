import type { PersonId } from '../caller.ts'
import type { ConnectionReason, CredentialKey } from '../credential.ts'
import type { CredentialBinding, MethodName } from '../upstream.ts'
import type { ClaimTerms, StoredConnection } from './credential-store.ts'
import type { RenewalSetback, RenewalState } from '../setback.ts'

/** A stored connection with its access token as it lies in the database. The refresh token comes with a claim only. */
export type CredentialRecord = StoredConnection & {
  readonly renewed: boolean
  /** Absent once the connection ended. */
  readonly sealedAccessToken: Uint8Array | undefined
}

/** A first or replacing credential, sealed under `generation`. */
export type NewCredentialRecord = {
  readonly generation: number
  readonly method: MethodName
  readonly scopes: readonly string[]
  readonly audience: string | undefined
  readonly account: string | undefined
  readonly binding: CredentialBinding
  readonly sealedAccessToken: Uint8Array
  readonly sealedRefreshToken: Uint8Array | undefined
  readonly expiresAt: Date | undefined
  readonly renewed: boolean
}

/** What a renewal brought, sealed under `generation`. */
export type RenewedCredentialRecord = {
  readonly generation: number
  readonly scopes: readonly string[]
  /** Absent: the stored one goes on. */
  readonly account: string | undefined
  readonly sealedAccessToken: Uint8Array
  readonly sealedRefreshToken: Uint8Array
  readonly expiresAt: Date | undefined
  /** Every replica is to forget what it replaces. */
  readonly forgetsOld: boolean
}

export type ClaimedRecord = {
  readonly nextGeneration: number
  readonly leaseEpoch: number
  readonly afterLostAnswer: boolean
  readonly failCount: number
  readonly sealedRefreshToken: Uint8Array
  readonly scopes: readonly string[]
}

export type TakenRecord = {
  readonly generation: number
  readonly method: MethodName
  readonly binding: CredentialBinding
  readonly sealedAccessToken: Uint8Array | undefined
  readonly sealedRefreshToken: Uint8Array | undefined
}

/**
 * The rows behind a CredentialStore: sealed bytes in, sealed bytes out. Every function is one statement with the owner in its
 * WHERE, and time is the database's. All throw BrokerError storage_unavailable.
 */
export interface CredentialRecords {
  /** A number that no credential had or will have. Fetched before sealing, because it is bound into the sealed values. */
  nextGeneration(): Promise<number>

  find(key: CredentialKey): Promise<CredentialRecord | undefined>

  /** Sorted by upstream. */
  list(person: PersonId): Promise<readonly StoredConnection[]>

  /** Inserts or replaces. Undefined when a later generation is there already. */
  put(key: CredentialKey, record: NewCredentialRecord): Promise<CredentialRecord | undefined>

  /** The same for what an attempt brought; undefined where the attempt is no longer there. `rejected`: every replica hears of it. */
  putArrived(
    key: CredentialKey,
    record: NewCredentialRecord,
    attempt: { readonly name: string; readonly rejected: boolean },
  ): Promise<CredentialRecord | undefined>

  /** Counts a renewal that callers forced; false where there were too many, or the generation moved on. */
  countForced(key: CredentialKey, generation: number): Promise<boolean>

  /** Takes the lease and marks an attempt as open. Undefined where CredentialStore.claimRenewal is. */
  claim(
    key: CredentialKey,
    generation: number,
    terms: ClaimTerms & { readonly leaseOwner: string },
  ): Promise<ClaimedRecord | undefined>

  /** The row, and why its renewal could not be claimed. */
  look(
    key: CredentialKey,
    terms: ClaimTerms,
  ): Promise<{ readonly record: CredentialRecord; readonly renewal: RenewalState } | undefined>

  /** Replaces where the row still has `fromGeneration`, whatever its lease and status say. */
  commit(
    key: CredentialKey,
    fromGeneration: number,
    record: RenewedCredentialRecord,
  ): Promise<CredentialRecord | undefined>

  /** Ends the connection and forgets its tokens, where generation and lease are still the claim's. False where they are not. */
  endConnection(
    key: CredentialKey,
    claim: { readonly generation: number; readonly leaseEpoch: number },
    reason: ConnectionReason,
  ): Promise<boolean>

  /**
   * Gives the lease back, where generation and lease are still the claim's; false where they are not. The attempt stays open
   * when its outcome is unknown, and when an earlier one's is: a known answer to the second says nothing about the first.
   */
  releaseLease(
    key: CredentialKey,
    claim: {
      readonly generation: number
      readonly leaseEpoch: number
      readonly afterLostAnswer: boolean
    },
    setback: RenewalSetback,
  ): Promise<boolean>

  /** Removes the row and returns what was in it. */
  take(key: CredentialKey): Promise<TakenRecord | undefined>

  /** Cuts a person off, and removes their connections, open connects, sessions and stored sign-in token. */
  offboard(person: PersonId): Promise<{
    readonly cutAt: Date
    readonly taken: readonly (TakenRecord & { readonly upstream: string })[]
  }>
}
