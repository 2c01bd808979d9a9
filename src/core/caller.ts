/**
 * A person is (issuer, userId) and nothing else; e-mail addresses are display text, because issuers let people change them.
 */
export type PersonId = { readonly issuer: string; readonly userId: string }

export type Person = PersonId & {
  readonly email: string | undefined
  readonly roles: readonly string[]
  readonly admin: boolean
  /** `asserted` by a service that may do so, otherwise proved by a token or a session. */
  readonly identity: 'token' | 'asserted'
}

/** A proxy that calls resolve with a service key. */
export type Service = {
  readonly id: string
  /** Upstream names, or `['*']` for all. */
  readonly upstreams: readonly string[]
  readonly maxAgeSeconds: number
  readonly mayAssertUser: boolean
  readonly mayReadActivity: boolean
}

/** Who caused an operation, as the activity log names it. */
export type Actor = { readonly kind: 'user' | 'service' | 'admin' | 'system'; readonly id: string }

/** One string per person. The length prefix keeps (`a:b`, `c`) and (`a`, `b:c`) apart. */
export function personKey(person: PersonId): string {
  return `${person.issuer.length}:${person.issuer}${person.userId}`
}

export function isSamePerson(a: PersonId, b: PersonId): boolean {
  return a.issuer === b.issuer && a.userId === b.userId
}

export function mayUseUpstreamThrough(service: Service, upstream: string): boolean {
  return service.upstreams.includes('*') || service.upstreams.includes(upstream)
}
