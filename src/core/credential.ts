import type { PersonId } from './caller.ts'
import type { Secret } from './secret.ts'
import type { CredentialBinding, MethodName, UpstreamCredential } from './upstream.ts'

/** Whose credential for what. */
export type CredentialKey = PersonId & { readonly upstream: string }

/** The key alone, whatever else is known of the person and the upstream. */
export function credentialKeyOf(
  { issuer, userId }: PersonId,
  { name }: { readonly name: string },
): CredentialKey {
  return { issuer, userId, upstream: name }
}

/** Why a connection does not work, or why the person must connect. */
export type ConnectionReason =
  | 'access_denied'
  | 'configuration_changed'
  | 'credential_expired'
  | 'insufficient_scope'
  | 'not_connected'
  | 'refresh_failed'
  | 'refresh_outcome_unknown'

/** What a token endpoint gave. */
export type TokenSet = {
  readonly accessToken: Secret
  /** Absent in an answer to a refresh: the old one goes on. */
  readonly refreshToken: Secret | undefined
  /** Absent when the server named no lifetime. */
  readonly expiresAt: Date | undefined
  /** Absent when the answer did not say: then what was asked for was granted (RFC 6749 §5.1). */
  readonly scopes: readonly string[] | undefined
  /** What the server calls the person, where it says. */
  readonly account: string | undefined
}

/** A stored credential as the resolver sees it: opened, without the refresh token, which only a renewal opens. */
export type Credential = {
  readonly generation: number
  readonly accessToken: Secret
  readonly fingerprint: string
  readonly method: MethodName
  readonly scopes: readonly string[]
  readonly audience: string | undefined
  readonly obtainedAt: Date
  readonly expiresAt: Date | undefined
  readonly renewable: boolean
  /** It came from a refresh, not from a connect or a first acquisition. */
  readonly renewed: boolean
  readonly binding: CredentialBinding
}

/** `valid`: inject it; `ending`: still good, renew it now; `ended`: must not leave any more. */
export type Freshness = 'valid' | 'ending' | 'ended'

export function freshnessOf(
  credential: Pick<Credential, 'expiresAt' | 'obtainedAt' | 'renewed'>,
  settings: Pick<UpstreamCredential, 'refreshBeforeSeconds'>,
  now: Date,
): Freshness {
  const nowMs = now.getTime()
  if (credential.expiresAt !== undefined && nowMs >= credential.expiresAt.getTime()) return 'ended'
  return nowMs >= renewalDueAtMs(credential, settings) ? 'ending' : 'valid'
}

/**
 * From when a credential is to be renewed, in milliseconds since 1970; infinite for one without an end. `refresh_before`
 * counts from its end; one that came from a refresh is not refreshed early again before half of its life is over, so that a
 * server with very short lifetimes is not asked on every call.
 */
export function renewalDueAtMs(
  credential: Pick<Credential, 'expiresAt' | 'obtainedAt' | 'renewed'>,
  settings: Pick<UpstreamCredential, 'refreshBeforeSeconds'>,
): number {
  if (credential.expiresAt === undefined) return Number.POSITIVE_INFINITY
  const endMs = credential.expiresAt.getTime()
  const dueMs = endMs - settings.refreshBeforeSeconds * 1000
  if (!credential.renewed) return dueMs
  const obtainedMs = credential.obtainedAt.getTime()
  return Math.max(dueMs, obtainedMs + (endMs - obtainedMs) / 2)
}

export type ConnectionStatus =
  | 'connected'
  | 'expired'
  | 'not_connected'
  | 'reconnect_required'
  | 'unavailable'
