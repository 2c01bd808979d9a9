import type { PersonId } from '../caller.ts'

/** A sign-in that has not come back yet: hashes and sealed bytes. */
export type NewSignInFlowRecord = {
  readonly stateHash: Uint8Array
  readonly browserHash: Uint8Array
  readonly sealedCodeVerifier: Uint8Array
  readonly sealedNonce: Uint8Array
  readonly sealedReturnTo: Uint8Array
}

export type SignInFlowRecord = Pick<
  NewSignInFlowRecord,
  'sealedCodeVerifier' | 'sealedNonce' | 'sealedReturnTo'
> & { readonly begunAt: Date }

/** A signed-in browser, without its administration rights: those follow the configuration. */
export type SessionRecord = PersonId & {
  readonly email: string | undefined
  readonly roles: readonly string[]
}

/** What a sign-in left for exchanges, sealed under `generation`. */
export type SignInTokenRecord = {
  readonly generation: number
  readonly sealedAccessToken: Uint8Array
  /** Absent when nobody said. */
  readonly accessTokenExpiresAt: Date | undefined
  readonly sealedIdToken: Uint8Array | undefined
  readonly idTokenExpiresAt: Date | undefined
  readonly sealedRefreshToken: Uint8Array | undefined
}

/**
 * The rows of browser sign-in. Every change is one statement, and time is the database's. Rows that ended go with the next
 * insert. All throw BrokerError storage_unavailable.
 */
export interface SessionRecords {
  /** Keeps it for 10 minutes. */
  insertFlow(flow: NewSignInFlowRecord): Promise<void>

  /** Removes the flow of this browser and returns it; undefined when there is none or it has ended. */
  takeFlow(by: {
    readonly stateHash: Uint8Array
    readonly browserHash: Uint8Array
  }): Promise<SignInFlowRecord | undefined>

  /**
   * A sign-in counts from when it was begun. It brings a person back who was cut off before that; where they were cut off since,
   * nothing is stored and this is false.
   */
  insertSession(
    sessionHash: Uint8Array,
    session: SessionRecord,
    signIn: { readonly begunAt: Date; readonly lifetimeSeconds: number },
  ): Promise<boolean>

  /** Undefined when it is unknown or has ended, or its person was cut off since its sign-in was begun. */
  findSession(sessionHash: Uint8Array): Promise<SessionRecord | undefined>

  deleteSession(sessionHash: Uint8Array): Promise<void>

  /** A number that no sign-in token had or will have; fetched before sealing, because it is bound into the sealed values. */
  nextGeneration(): Promise<number>

  /** Undefined where the person was cut off since the sign-in that it comes from was begun, as if there were none. */
  findSignInToken(person: PersonId): Promise<SignInTokenRecord | undefined>

  /** Inserts or replaces, unless a later generation is there already. */
  putSignInToken(person: PersonId, token: SignInTokenRecord, begunAt: Date): Promise<void>

  /** Takes the turn to refresh this generation (`strictLeaseSeconds`). False when another has it, or the generation moved on. */
  claimSignInToken(person: PersonId, generation: number, leaseOwner: string): Promise<boolean>

  /** Gives the turn back, where it is still the owner's. */
  releaseSignInToken(person: PersonId, generation: number, leaseOwner: string): Promise<void>

  /** Replaces where the row still has `fromGeneration`. False when it does not. */
  replaceSignInToken(
    person: PersonId,
    fromGeneration: number,
    token: SignInTokenRecord,
  ): Promise<boolean>

  /** Forgets a refresh token that the issuer takes no more, where the row still has this generation. */
  dropRefreshToken(person: PersonId, generation: number): Promise<void>
}
