import type { Admins, Issuer } from '../core/issuer.ts'
import { isPlainText, isUserId, type Person, type PersonId } from '../core/caller.ts'

/** What an issuer says about a person: the payload of a JWT, an introspection answer, a userinfo answer. */
export type Claims = Readonly<Record<string, unknown>>

/** How far the issuer's clock and ours may differ. */
export const clockToleranceSeconds = 30

/**
 * A claim by its name. A name that is itself a member wins (`https://example.com/roles`), otherwise dots lead into nested
 * objects (`realm_access.roles`). Undefined when there is none. Own members only, so `__proto__` names nothing.
 */
function readClaim(claims: Claims, name: string): unknown {
  if (Object.hasOwn(claims, name)) return claims[name]
  let value: unknown = claims
  for (const part of name.split('.')) {
    if (!isObject(value) || !Object.hasOwn(value, part)) return undefined
    value = value[part]
  }
  return value
}

/** Audiences of a token; empty when it names none or in a form that RFC 7519 §4.1.3 does not have. */
export function audiencesOf(claims: Claims): readonly string[] {
  return stringsOf(claims['aud'])
}

/** Scopes of a token, from `scope` (RFC 9068 §2.2.3) and `scp` (Entra, Okta), each a list or a text with spaces. */
export function scopesOf(claims: Claims): ReadonlySet<string> {
  const named = [...stringsOf(claims['scope']), ...stringsOf(claims['scp'])]
  return new Set(named.flatMap((text) => text.split(' ')).filter((scope) => scope !== ''))
}

/**
 * Undefined when `exp`, `nbf` and `iat` hold now, otherwise what is wrong with them. `exp` is required: jose takes a token without
 * one. All are whole seconds, so that neither `1e400` nor a text passes for a time; an `iat` that is still to come is a forgery or
 * a broken clock.
 */
export function failedTimes(claims: Claims, nowMs: number): 'expired' | 'claims' | undefined {
  const { exp, nbf, iat } = claims as { exp?: unknown; nbf?: unknown; iat?: unknown }
  if (hasExpired(claims, nowMs)) return 'expired'
  const hold =
    isWholeNumber(exp) &&
    [nbf, iat].every(
      (from) =>
        (from ?? undefined) === undefined ||
        (isWholeNumber(from) && from <= nowMs / 1000 + clockToleranceSeconds),
    )
  return hold ? undefined : 'claims'
}

/** When a token whose times hold was issued, in seconds since 1970; a server that leaves `iat` out may still say `nbf`. */
export function issuedAtOf({ iat, nbf }: Claims): number | undefined {
  return [iat, nbf].find(isWholeNumber)
}

/** Whether it says of itself that it has ended. Says nothing about who wrote it. */
export function hasExpired(claims: Claims, nowMs: number): boolean {
  const exp = claims['exp']
  return isWholeNumber(exp) && exp <= nowMs / 1000 - clockToleranceSeconds
}

const otherKinds = new Set([
  'id',
  'id_token',
  'serialized-id',
  'refresh',
  'refresh_token',
  'offline',
  'logout',
  'logout_token',
])

/**
 * Whether these are the claims of an ID token, a refresh token or a logout token, which an issuer signs with the same keys
 * and which must never pass for an access token (RFC 8725 §2.8): `at_hash` and `c_hash` (OpenID Connect Core), `events` (RFC 8417),
 * `typ` as Keycloak and `token_use` as Cognito and Hydra write it.
 */
export function isOfAnotherKind(claims: Claims): boolean {
  if (['at_hash', 'c_hash', 'events'].some((name) => Object.hasOwn(claims, name))) return true
  return [claims['typ'], claims['token_use']].some(
    (kind) => typeof kind === 'string' && otherKinds.has(kind.toLowerCase()),
  )
}

/** Whether every claim that the configuration demands has exactly its value. The first source that has a claim decides. */
export function hasRequiredClaims(issuer: Issuer, sources: readonly Claims[]): boolean {
  return Object.entries(issuer.requiredClaims).every(
    ([name, value]) => firstClaim(sources, name) === value,
  )
}

/**
 * The person whom claims of this issuer describe; undefined when the user claim is not a usable text. The first source that
 * has a claim decides. An e-mail address or role that is no usable text is left out.
 */
export function identify(
  issuer: Issuer,
  admins: Admins,
  sources: readonly Claims[],
): Person | undefined {
  const userId = firstClaim(sources, issuer.claims.user)
  if (!isUserId(userId)) return undefined
  const email = firstClaim(sources, issuer.claims.email)
  const roles = stringsOf(firstClaim(sources, issuer.claims.roles)).filter(isPlainText)
  const id = { issuer: issuer.issuer, userId }
  return {
    ...id,
    email: isPlainText(email) ? email : undefined,
    roles,
    admin: isAdmin(admins, id, roles),
    identity: 'token',
  }
}

export function isAdmin(admins: Admins, person: PersonId, roles: readonly string[]): boolean {
  if (person.issuer !== admins.issuer) return false
  return admins.users.includes(person.userId) || roles.some((role) => admins.roles.includes(role))
}

export function firstClaim(sources: readonly Claims[], name: string): unknown {
  for (const claims of sources) {
    const value = readClaim(claims, name)
    if (value !== undefined && value !== null) return value
  }
  return undefined
}

function stringsOf(value: unknown): readonly string[] {
  if (typeof value === 'string') return [value]
  if (!Array.isArray(value)) return []
  return value.filter((item): item is string => typeof item === 'string')
}

function isWholeNumber(value: unknown): value is number {
  return Number.isSafeInteger(value)
}

export function isObject(value: unknown): value is Claims {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
