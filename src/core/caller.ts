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
  readonly mayOffboard: boolean
}

/** Who caused an operation, as the activity log names it. */
export type Actor = { readonly kind: 'user' | 'service' | 'admin' | 'system'; readonly id: string }

/** What nobody asked for is the broker's own doing. */
export const systemActor: Actor = { kind: 'system', id: 'onbehalf' }

/** One string per person. The length prefix keeps (`a:b`, `c`) and (`a`, `b:c`) apart. */
export function personKey(person: PersonId): string {
  return `${person.issuer.length}:${person.issuer}${person.userId}`
}

/**
 * A user id is a text of 1 to 255 characters. A number is none: `1` and `"1"` could be two people. Without control characters and
 * halves of surrogate pairs: PostgreSQL refuses NUL, and every lone half is stored as the same U+FFFD, which would make one person
 * of two.
 */
export function isUserId(value: unknown): value is string {
  return typeof value === 'string' && value.length <= 255 && isPlainText(value)
}

/** Not empty, and as it can be stored and shown. */
export function isPlainText(value: unknown): value is string {
  return typeof value === 'string' && value !== '' && !/[\p{Cc}\p{Cs}]/u.test(value)
}

export function isSamePerson(a: PersonId, b: PersonId): boolean {
  return a.issuer === b.issuer && a.userId === b.userId
}

export function mayUseUpstreamThrough(service: Service, upstream: string): boolean {
  return service.upstreams.includes('*') || service.upstreams.includes(upstream)
}
