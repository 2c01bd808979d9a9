import type { AuditReason } from '../audit-event.ts'
import type { Actor, Person, PersonId, Service } from '../caller.ts'
import type { ConnectionReason, ConnectionStatus } from '../credential.ts'
import type { Secret } from '../secret.ts'
import type { MethodName, Upstream } from '../upstream.ts'

/** What the rooms that face callers (`http`, `gateway`) ask on every call. */
export interface CredentialResolver {
  /**
   * Gives the credential to inject for this person and leaves the one record of the call. Answers without a promise where
   * the credential is in memory. @throws BrokerError, also as a rejection.
   */
  resolve(request: ResolveRequest): ResolvedCredential | Promise<ResolvedCredential>
}

export type ResolveRequest = {
  /** Verified, or asserted by a service that may. */
  readonly person: Person
  /** The token presented with the call. */
  readonly subjectToken: Secret | undefined
  readonly service: Service | undefined
  readonly actor: Actor
  readonly upstream: Upstream
  /** The fingerprint of a credential that the upstream answered 401 to. */
  readonly rejected: string | undefined
  readonly requestId: string
  readonly startedAt: Date
  /** True: a refusal that says `connect_required` leaves no record, because the caller answers in the person's place. */
  readonly mayGoOnUnconnected?: boolean
}

export type ResolvedCredential = {
  readonly header: string
  readonly value: string
  readonly expiresAt: Date | undefined
  readonly fingerprint: string
}

/** Records refusals that are judged before the resolver is reached: one record a call. */
export interface RefusalRecorder {
  /** @throws BrokerError audit_unavailable */
  admit(): void
  /** As that of `AuditSink`: a door awaits it before it lets an answer out, what the resolver gave included. */
  settled(): Promise<void> | undefined
  refused(refusal: {
    readonly requestId: string
    readonly startedAt: Date
    readonly actor: Actor
    readonly person: Person | undefined
    /** Undefined for a name that is not configured: what a caller writes is never recorded. */
    readonly upstream: Upstream | undefined
    readonly reason: AuditReason
  }): void
}

/** A person's connections. */
export interface Connections {
  /**
   * Sorted by upstream; only those that the person may use, and what is stored of upstreams that are configured no more.
   * `presentsToken`: the request came with a bearer that could be exchanged, so an exchange needs nobody to be asked.
   */
  list(person: Person, presentsToken: boolean): Promise<readonly ConnectionView[]>
  find(person: Person, upstream: Upstream, presentsToken: boolean): Promise<ConnectionView>
  /** Stored, of an upstream that is configured no more; undefined where there is none. */
  findUnconfigured(person: Person, upstream: string): Promise<ConnectionView | undefined>
  /**
   * Removes, and revokes where the upstream is configured; resolves also when there was nothing.
   * @throws BrokerError unknown_upstream where none of that name is configured nor was stored
   */
  disconnect(options: {
    readonly person: PersonId
    /** The person, or an admin. */
    readonly actor: Actor
    readonly upstream: string
    readonly requestId: string
    readonly startedAt: Date
  }): Promise<void>

  /**
   * Stores a key of the person's own, in place of any before it; it counts on every replica when this resolves.
   * @throws BrokerError not_connectable where the upstream takes none
   */
  storeKey(options: {
    readonly person: Person
    readonly upstream: Upstream
    readonly key: Secret
    readonly requestId: string
    readonly startedAt: Date
  }): Promise<void>
}

export type ConnectionView = {
  readonly upstream: string
  readonly displayName: string
  /** Null where the upstream is configured no more. */
  readonly mode: string | null
  readonly status: ConnectionStatus
  readonly reason: ConnectionReason | null
  readonly scopes: readonly string[]
  readonly audience: string | null
  readonly method: MethodName
  readonly account: string | null
  readonly expiresAt: Date | null
  readonly connectedAt: Date | null
  readonly lastUsedAt: Date | null
  readonly connectable: boolean
}

export interface OAuthConnector {
  /** A link that the person asked for. @throws BrokerError not_connectable */
  issueLink(options: {
    readonly person: Person
    readonly upstream: Upstream
    readonly returnTo: string | undefined
  }): Promise<{ readonly url: string; readonly expiresAt: Date }>

  /** The link that a refused call names; the same one again while it lives. */
  offerLink(options: {
    readonly person: Person
    readonly upstream: Upstream
    readonly claims: Secret | undefined
    /** What to ask for instead of what is configured. */
    readonly scopes?: readonly string[]
  }): Promise<string>

  /** What the page behind a link shows. @throws BrokerError connect_link_invalid, connect_wrong_person */
  view(options: { readonly ticket: string; readonly person: Person }): Promise<ConnectPageView>

  /**
   * The person said yes: uses the link up and says where the browser goes. `sign_in`: to the identity provider with a
   * challenge, for an upstream whose credentials come from an exchange.
   */
  confirm(options: {
    readonly ticket: string
    readonly person: Person
    readonly browser: string
  }): Promise<
    | { readonly kind: 'authorize'; readonly url: URL }
    | { readonly kind: 'sign_in'; readonly claims: Secret; readonly returnTo: string }
  >

  /**
   * The authorization server sent the browser back. Gives where the browser goes on: a path of ours or an allow-listed URL,
   * with the result in its query. @throws BrokerError connect_link_invalid when nothing of ours fits the parameters.
   */
  complete(options: {
    readonly upstream: Upstream
    readonly params: URLSearchParams
    readonly person: Person
    readonly browser: string | undefined
    readonly requestId: string
    readonly startedAt: Date
  }): Promise<{ readonly redirectTo: string }>
}

export type ConnectPageView =
  | {
      readonly kind: 'confirm'
      readonly upstream: Upstream
      readonly authorizationServerHost: string
      readonly scopes: readonly string[]
    }
  | { readonly kind: 'sign_in_again'; readonly upstream: Upstream }
  | { readonly kind: 'already_connected'; readonly upstream: Upstream }
