import type { CredentialKey } from '../credential.ts'
import type { Secret } from '../secret.ts'
import type { CredentialBinding } from '../upstream.ts'

/** What a connect link stands for. */
export type ConnectTicket = CredentialKey & {
  readonly returnTo: string | undefined
  readonly scopes: readonly string[]
  /** The claims that a server asked the person for (Entra), sealed at rest. */
  readonly claims: Secret | undefined
  /** Used, replaced or too old, by the database's clock: the link that another replaced just now is over at once. */
  readonly isOver: boolean
}

/** A redirect to an authorization server that has not come back yet. */
export type ConnectFlow = CredentialKey & {
  readonly returnTo: string | undefined
  readonly scopes: readonly string[]
  readonly codeVerifier: Secret
  /** The issuer that the answer must name (RFC 9207); undefined where no metadata is known. */
  readonly expectedIssuer: string | undefined
  /** The server's metadata promise an `iss`, so its absence is refused. */
  readonly issuerRequired: boolean
  readonly binding: CredentialBinding
}

/** State of the connect flow, all of it in the database: any replica goes on where another began. Secrets are looked up by hash. */
export interface ConnectStore {
  /** Issues a link on the person's own request; the eleventh open one replaces the oldest. */
  issueTicket(ticket: NewTicket): Promise<{ ticket: Secret; expiresAt: Date }>

  /**
   * Gives out the open link of the same person, upstream, scopes and claims while it lives for at least another minute, else
   * issues one. Never replaces a link that a person asked for.
   */
  offerTicket(ticket: Omit<NewTicket, 'returnTo'>): Promise<{ ticket: Secret; expiresAt: Date }>

  /** Looks at a link without using it. Undefined when unknown or ended for over its keeping time. */
  findTicket(ticket: string): Promise<ConnectTicket | undefined>

  /** Uses the link up, once, for its own person, in the statement that opens the flow. False when it was used, ended or is another's. */
  beginFlow(ticket: string, flow: NewFlow): Promise<boolean>

  /** Uses up a link that leads to a new sign-in instead of a flow. False as above. */
  useTicket(ticket: string, key: CredentialKey): Promise<boolean>

  /**
   * Takes a flow by its state, once. Browser, person and upstream stand in the WHERE, so that whoever holds a stolen state
   * cannot even use it up.
   */
  takeFlow(by: FlowProof): Promise<ConnectFlow | undefined>
}

export type NewTicket = CredentialKey & {
  readonly returnTo: string | undefined
  readonly scopes: readonly string[]
  readonly claims: Secret | undefined
}

export type NewFlow = CredentialKey & {
  readonly state: string
  /** The random value of the browser's cookie. */
  readonly browser: string
  readonly returnTo: string | undefined
  readonly scopes: readonly string[]
  readonly codeVerifier: Secret
  readonly expectedIssuer: string | undefined
  readonly issuerRequired: boolean
  readonly binding: CredentialBinding
}

export type FlowProof = CredentialKey & {
  readonly state: string
  readonly browser: string
}
