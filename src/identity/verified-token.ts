import type { Person } from '../core/caller.ts'
import type { Admins, Issuer } from '../core/issuer.ts'
import type { BearerUse } from '../core/ports/authenticator.ts'
import type { Upstream } from '../core/upstream.ts'
import { audiencesOfUpstream } from './challenge.ts'
import {
  audiencesOf,
  type Claims,
  hasRequiredClaims,
  identify,
  issuedAtOf,
  scopesOf,
} from './claims.ts'
import type { TokenCheck } from './identity-log.ts'
import { TokenRefusal } from './token-refusal.ts'

/** A token that its issuer stands for, before it is judged for a use. */
export type VerifiedToken = {
  readonly person: Person
  readonly audiences: readonly string[]
  /** One of them is a configured audience of the issuer, so it serves everywhere. */
  readonly servesEverywhere: boolean
  /** The scopes that the issuer's tokens need and this one lacks. */
  readonly missingScopes: readonly string[]
  readonly requiredScopes: readonly string[]
  /** By its issuer's clock, from `iat`, else `nbf`; undefined where it says neither. */
  readonly issuedAtSeconds: number | undefined
}

/** Reads verified claims as a caller and judges for what their token serves. */
export interface TokenRules {
  /**
   * The check that fails when the claims name nobody, lack a required claim, are bound to a key, or are for an audience that is nowhere
   * ours. Signature, issuer and times are to be checked before.
   */
  accept(issuer: Issuer, claims: Claims): VerifiedToken | TokenCheck

  /** Why the token does not serve for this use; undefined when it does. Judged at every use, cached token or not. */
  refusalFor(token: VerifiedToken, use: BearerUse): TokenRefusal | undefined
}

export function createTokenRules(options: {
  readonly publicUrl: string
  readonly admins: Admins
  readonly upstreams: ReadonlyMap<string, Upstream>
}): TokenRules {
  const { publicUrl, admins, upstreams } = options
  const audiencesByUpstream = new Map(
    [...upstreams.values()].map((upstream): [string, readonly string[]] => [
      upstream.name,
      audiencesOfUpstream(publicUrl, upstream),
    ]),
  )
  const upstreamAudiences = new Set([...audiencesByUpstream.values()].flat())

  function accept(issuer: Issuer, claims: Claims): VerifiedToken | TokenCheck {
    const audiences = audiencesOf(claims)
    const servesEverywhere = audiences.some((audience) => issuer.audiences.includes(audience))
    if (!servesEverywhere && !audiences.some((audience) => upstreamAudiences.has(audience))) {
      return 'audience'
    }
    // Bound to a key of the client's: without the proof of it, whoever holds the token could have stolen it (RFC 9449 §7.2).
    if (Object.hasOwn(claims, 'cnf')) return 'claims'
    if (!hasRequiredClaims(issuer, [claims])) return 'claims'
    const person = identify(issuer, admins, [claims])
    if (person === undefined) return 'claims'
    const scopes = scopesOf(claims)
    const { requiredScopes } = issuer
    return {
      person,
      audiences,
      servesEverywhere,
      missingScopes: requiredScopes.filter((scope) => !scopes.has(scope)),
      requiredScopes,
      issuedAtSeconds: issuedAtOf(claims),
    }
  }

  function refusalFor(token: VerifiedToken, use: BearerUse): TokenRefusal | undefined {
    const { issuer } = token.person
    if (!token.servesEverywhere && !isFor(token, use)) return new TokenRefusal('audience', issuer)
    if (token.missingScopes.length === 0) return undefined
    // All that is needed and not only what is missing: a client that asked for the rest alone would lose what it has.
    return new TokenRefusal('scope', issuer, token.requiredScopes)
  }

  function isFor(token: VerifiedToken, use: BearerUse): boolean {
    if (use.kind === 'api') return false
    const accepted = audiencesByUpstream.get(use.upstream.name) ?? []
    return token.audiences.some((audience) => accepted.includes(audience))
  }

  return { accept, refusalFor }
}
