import type { Person, PersonId, Service } from '../caller.ts'
import type { Secret } from '../secret.ts'
import type { Upstream } from '../upstream.ts'

/** Which audiences a bearer may have been issued for besides the issuer's configured ones. */
export type BearerUse =
  | { readonly kind: 'api' }
  | { readonly kind: 'upstream'; readonly upstream: Upstream }

/** Turns credentials of callers into callers. */
export interface Authenticator {
  /**
   * Verifies an access token (JWT or introspection). Answers without a promise when the token is in the verified cache, which
   * keeps the warm path free of turns of the event loop.
   * @throws BrokerError unauthenticated (bad token, or issued before its person was offboarded), insufficient_scope,
   * issuer_unavailable, storage_unavailable.
   */
  verifyBearer(token: string, use: BearerUse): Person | Promise<Person>

  /** The service whose key this is, compared in constant time; undefined when it is nobody's. */
  findService(key: string): Service | undefined

  /** The person that a service asserts. @throws BrokerError invalid_request for an issuer that is not configured. */
  assertPerson(id: PersonId): Person

  /**
   * Refuses to have a person asserted who was offboarded and has not come back. Without a promise where nobody is to be asked.
   * @throws BrokerError unauthenticated, storage_unavailable
   */
  admitAssertion(person: PersonId): void | Promise<void>
}

/** A browser that signed in. */
export type Session = {
  readonly person: Person
  /** Goes into forms; derived from the session's secret, useless without its cookie. */
  readonly csrfToken: string
}

/** Browser sign-in and sessions, kept in the database. Absent when `identity.login` is. */
export interface SignIn {
  /**
   * Starts the code flow with PKCE, nonce and state; `returnTo` is a path of ours. `claims` is a server's challenge to pass on.
   * Gives the URL to redirect to. `browser` binds the answer to this browser's cookie.
   */
  start(options: { returnTo: string; browser: string; claims?: Secret }): Promise<string>

  /** Completes it. Gives the new session's cookie value and where to go. @throws BrokerError */
  complete(options: {
    params: URLSearchParams
    browser: string | undefined
  }): Promise<{ session: string; returnTo: string; maxAgeSeconds: number }>

  /** The live session behind a cookie's value. */
  find(session: string): Promise<Session | undefined>

  end(session: string): Promise<void>
}
