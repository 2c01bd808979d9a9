import type { Secret } from '../secret.ts'

/** What an upstream and its authorization server say of themselves, as far as it is kept. */
export type FoundServer = {
  readonly issuer: string
  /** As the upstream names itself (RFC 9728 §2). */
  readonly resource: string
  readonly scopes: readonly string[]
  readonly authorizationEndpoint: string
  readonly tokenEndpoint: string
  readonly revocationEndpoint: string | undefined
  readonly registrationEndpoint: string | undefined
  /** It takes the URL of a client's own document as its id. */
  readonly takesClientDocuments: boolean
  /** How a client may authenticate there; undefined where it does not say. */
  readonly clientAuthenticationMethods: readonly string[] | undefined
  readonly issuerInResponses: boolean
}

/** A client that we registered (RFC 7591). */
export type RegisteredClient = {
  readonly clientId: string
  readonly authentication:
    | { readonly method: 'client_secret_basic' | 'client_secret_post'; readonly secret: Secret }
    | { readonly method: 'none' }
}

/** A client is registered for one server and one redirect URI. */
export type RegistrationKey = { readonly authorizationServer: string; readonly redirectUri: string }

/** What a discovery was made for: what is found for another url or another written issuer does not count. */
export type DiscoverySubject = { readonly upstream: string; readonly source: string }

/**
 * What discovery found and what it registered, sealed: whoever writes to the database must not be able to send people's tokens
 * elsewhere. What does not open counts as not there. All throw BrokerError storage_unavailable.
 */
export interface DiscoveryStore {
  /** Changes with every change of what is found or registered. */
  version(): Promise<string>
  find(subject: DiscoverySubject): Promise<FoundServer | undefined>
  put(subject: DiscoverySubject, found: FoundServer): Promise<void>

  /** Undefined where there is none, or its secret has ended. */
  findClient(key: RegistrationKey): Promise<RegisteredClient | undefined>
  /** The right to register, for half a minute; false where another replica has it or a client is there. */
  claimRegistration(key: RegistrationKey): Promise<boolean>
  putClient(
    key: RegistrationKey,
    client: RegisteredClient,
    expiresAt: Date | undefined,
  ): Promise<void>
  /** Gives the right to register back. */
  releaseRegistration(key: RegistrationKey): Promise<void>
  /**
   * Drops a client that its server does not know any more; at most once an hour, so that a server which knows no client at all is
   * not flooded with them. False where it was dropped before, or is not to be.
   */
  dropClient(key: RegistrationKey, clientId: string): Promise<boolean>
}
