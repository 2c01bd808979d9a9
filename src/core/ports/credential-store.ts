import type { AcquisitionAttempt } from './acquisition-attempts.ts'
import type { PersonId } from '../caller.ts'
import type { ConnectionReason, Credential, CredentialKey, TokenSet } from '../credential.ts'
import type { Secret } from '../secret.ts'
import type { RenewalSetback, RenewalState } from '../setback.ts'
import type { CredentialBinding, MethodName } from '../upstream.ts'

/** A connection as it is stored, whether or not it works, without its tokens. */
export type StoredConnection = CredentialKey & {
  readonly generation: number
  readonly status: 'connected' | 'reconnect_required'
  readonly reason: ConnectionReason | undefined
  readonly method: MethodName
  readonly scopes: readonly string[]
  readonly audience: string | undefined
  readonly account: string | undefined
  readonly binding: CredentialBinding
  readonly renewable: boolean
  readonly connectedAt: Date
  readonly obtainedAt: Date
  readonly expiresAt: Date | undefined
  /** When the next try of a renewal may be made; undefined unless the last one failed. */
  readonly nextTryAt: Date | undefined
}

/** On which terms a renewal is asked for. */
export type ClaimTerms = {
  /** The server takes a refresh token again whose answer was lost; where not, the old credential is used up first. */
  readonly repeatable: boolean
  readonly leaseSeconds: number
  /** Callers name the stored credential as rejected; at most 5 renewals of a connection a minute are for that. */
  readonly forced: boolean
  /** A holder whose lease ended without a word from it keeps its turn. */
  readonly sparesSilent?: boolean
}

/** What a renewal needs; handed out with the lease on this generation. */
export type RenewalClaim = {
  readonly generation: number
  /** The generation that the renewed credential will have. */
  readonly nextGeneration: number
  readonly leaseEpoch: number
  /** An earlier attempt on this generation was sent and its answer never seen: the token may be spent. */
  readonly afterLostAnswer: boolean
  /** Failures in a row before this try. */
  readonly failCount: number
  /** Callers had named the credential as rejected: no replica is to give it out again once there is another. */
  readonly forced: boolean
  readonly refreshToken: Secret
  readonly scopes: readonly string[]
}

/** A token set on its way into the store. */
export type NewCredential = {
  readonly tokens: TokenSet
  readonly method: MethodName
  readonly scopes: readonly string[]
  readonly audience: string | undefined
  readonly binding: CredentialBinding
  /** An exchange made again; it counts as a refresh for what is refreshed early. */
  readonly renewed: boolean
}

/**
 * Credentials at rest, sealed. Every change is one statement with the owner in its WHERE.
 * All throw BrokerError storage_unavailable, and those that open a value credential_corrupt.
 */
export interface CredentialStore {
  /** Undefined when there is no row. A row that must be reconnected comes without a credential. */
  find(
    key: CredentialKey,
  ): Promise<{ connection: StoredConnection; credential: Credential | undefined } | undefined>

  list(person: PersonId): Promise<readonly StoredConnection[]>

  /** Stores a first or replacing credential (connect, exchange) under a generation of its own; lease and failures are cleared. */
  put(key: CredentialKey, credential: NewCredential): Promise<Credential>

  /**
   * The same for what an attempt brought, while the attempt is still there. Undefined where it was refused meanwhile, or somebody
   * else's turn came: then nothing is stored, and what arrived is to be revoked.
   */
  putArrived(
    key: CredentialKey,
    attempt: AcquisitionAttempt,
    credential: NewCredential & { readonly rejected?: boolean },
  ): Promise<Credential | undefined>

  /** Counts an exchange that is made because callers name this generation as rejected; false when there were five within a minute. */
  countForced(key: CredentialKey, generation: number): Promise<boolean>

  /**
   * Takes the lease on one generation for a renewal and writes the intent to send, in one statement. Undefined
   * when another holds it, the generation moved on, or the next try is not due: `lookAtRenewal` says which. Without terms:
   * neither repeatable nor forced, and the longer lease.
   */
  claimRenewal(
    key: CredentialKey,
    generation: number,
    terms?: ClaimTerms,
  ): Promise<RenewalClaim | undefined>

  /** The row as `find` gives it, and how its renewal stands. */
  lookAtRenewal(
    key: CredentialKey,
    terms?: ClaimTerms,
  ): Promise<
    | {
        readonly connection: StoredConnection
        readonly credential: Credential | undefined
        readonly renewal: RenewalState
      }
    | undefined
  >

  /**
   * Stores what a renewal brought, where the row still has the generation whose refresh token was used, and only then:
   * a late success must win over another's failure, and a disconnected row must stay away. Undefined when it does not.
   */
  commitRenewal(
    key: CredentialKey,
    claim: RenewalClaim,
    renewed: { tokens: TokenSet; scopes: readonly string[] },
  ): Promise<Credential | undefined>

  /** What `commitRenewal` will give, for as long as the database cannot be asked. Asks nobody. */
  foreseeRenewal(
    current: Credential,
    claim: RenewalClaim,
    renewed: { tokens: TokenSet; scopes: readonly string[]; obtainedAt: Date },
  ): Credential

  /** Ends a claim without a new credential, where generation and lease are still the claim's; false where they are not. */
  failRenewal(
    key: CredentialKey,
    claim: Pick<RenewalClaim, 'generation' | 'leaseEpoch' | 'afterLostAnswer'>,
    failure:
      | { readonly kind: 'reconnect'; readonly reason: ConnectionReason }
      | ({ readonly kind: 'retry' } & RenewalSetback),
  ): Promise<boolean>

  /**
   * Removes the row and returns the token to revoke, the refresh token before the access token, and what it was bound to: it
   * must go to no other server. Undefined when there was none.
   */
  take(key: CredentialKey): Promise<TakenCredential | undefined>

  /**
   * Cuts a person off: removes all that lets anybody act for them, in one statement, and returns from when on they are cut off and
   * what is to be revoked.
   */
  offboard(person: PersonId): Promise<{
    readonly cutAt: Date
    readonly taken: readonly (TakenCredential & { readonly upstream: string })[]
  }>
}

export type TakenCredential = {
  readonly method: MethodName
  readonly binding: CredentialBinding
} & (
  | { readonly token: Secret; readonly hint: 'refresh_token' | 'access_token' }
  | { readonly token: undefined }
)
