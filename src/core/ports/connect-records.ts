import type { CredentialKey } from '../credential.ts'
import type { CredentialBinding } from '../upstream.ts'

/** A connect link as it lies in the database: known by the hash of its ticket. */
export type ConnectTicketRecord = CredentialKey & {
  readonly returnTo: string | undefined
  readonly scopes: readonly string[]
  readonly sealedClaims: Uint8Array | undefined
  readonly isOver: boolean
}

export type NewTicketRecord = CredentialKey & {
  readonly ticketHash: Uint8Array
  readonly returnTo: string | undefined
  readonly scopes: readonly string[]
  readonly sealedClaims: Uint8Array | undefined
  readonly claimsHash: Uint8Array | undefined
}

/** A link that is given out again while it lives, so its ticket is kept, sealed. */
export type OfferedTicketRecord = Omit<NewTicketRecord, 'returnTo'> & {
  readonly sealedTicket: Uint8Array
}

export type NewFlowRecord = CredentialKey & {
  readonly stateHash: Uint8Array
  readonly browserHash: Uint8Array
  readonly returnTo: string | undefined
  readonly scopes: readonly string[]
  readonly sealedCodeVerifier: Uint8Array
  readonly expectedIssuer: string | undefined
  readonly issuerRequired: boolean
  readonly binding: CredentialBinding
}

export type ConnectFlowRecord = Omit<NewFlowRecord, 'stateHash' | 'browserHash'>

/**
 * The rows behind a ConnectStore: hashes and sealed bytes. Every change is a single statement with the owner in its WHERE, and
 * time is the database's. All throw BrokerError storage_unavailable.
 */
export interface ConnectRecords {
  /** Adds a link that a person asked for and ends the person's oldest beyond ten open ones. */
  insertTicket(ticket: NewTicketRecord): Promise<{ readonly expiresAt: Date }>

  /**
   * Gives the open link for the same person, upstream, scopes and claims that lives for another minute at least, else inserts
   * the candidate. `reuse: false` inserts in any case.
   */
  offerTicket(
    candidate: OfferedTicketRecord,
    options: { readonly reuse: boolean },
  ): Promise<{
    readonly ticketHash: Uint8Array
    readonly sealedTicket: Uint8Array
    readonly expiresAt: Date
  }>

  /** Used and ended links too, until a day after their end. */
  findTicket(ticketHash: Uint8Array): Promise<ConnectTicketRecord | undefined>

  /** Uses the person's open link up and inserts the flow, both or neither. False when there is no such link. */
  beginFlow(ticketHash: Uint8Array, flow: NewFlowRecord): Promise<boolean>

  /** Uses the person's open link up where no flow follows. False when there is no such link. */
  useTicket(ticketHash: Uint8Array, key: CredentialKey): Promise<boolean>

  /** Removes the flow and returns it, where everything fits and it has not ended. */
  takeFlow(
    by: CredentialKey & { readonly stateHash: Uint8Array; readonly browserHash: Uint8Array },
  ): Promise<ConnectFlowRecord | undefined>
}
