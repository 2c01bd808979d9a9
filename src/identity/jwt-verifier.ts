import { createSecretKey, type KeyObject } from 'node:crypto'
import { jwtVerify } from 'jose'
import type { Issuer } from '../core/issuer.ts'
import type { Clock } from '../core/ports/clock.ts'
import { clockToleranceSeconds, failedTimes } from './claims.ts'
import type { TokenCheck } from './identity-log.ts'
import type { IssuerKey, IssuerKeys } from './issuer-keys.ts'
import type { UnverifiedJwt } from './jwt.ts'
import type { TokenRules, VerifiedToken } from './verified-token.ts'

/** A token that was verified with a key of its issuer, and how long that may be remembered. */
export type VerifiedJwt = {
  readonly token: VerifiedToken
  readonly goodUntilMs: number
  /** Absent for a shared secret. */
  readonly key: IssuerKey | undefined
}

/** Verifies access tokens of one issuer that are JWTs (RFC 9068, RFC 7519) with its keys. */
export interface JwtVerifier {
  /** The check that failed when the token is not accepted. @throws BrokerError issuer_unavailable */
  verify(token: string, unverified: UnverifiedJwt): Promise<VerifiedJwt | TokenCheck>
}

/**
 * How long a verified token is remembered at most. Short, so that the keys are looked at often enough to notice that they
 * changed; a key that is known to be gone ends its tokens at once.
 */
const rememberedForMs = 60_000

export function createJwtVerifier(options: {
  readonly issuer: Issuer
  readonly keys: IssuerKeys
  readonly rules: TokenRules
  readonly clock: Clock
}): JwtVerifier {
  const { issuer, keys, rules, clock } = options
  const secret =
    issuer.secret === undefined ? undefined : createSecretKey(issuer.secret.reveal(), 'utf8')

  /**
   * The algorithm alone decides which kind of key is taken, and a kind is taken only if the configuration allows it: a public
   * key never serves as an HMAC secret (RFC 8725 §3.1). `jwk`, `jku` and `x5u` of the header are not looked at.
   */
  async function keyFor(
    algorithm: string,
    keyId: unknown,
  ): Promise<{ verifyWith: KeyObject; key: IssuerKey | undefined } | undefined> {
    if (algorithm === 'HS256') {
      return secret === undefined ? undefined : { verifyWith: secret, key: undefined }
    }
    if (typeof keyId !== 'string') return undefined
    const key = await keys.find(keyId, algorithm)
    return key === undefined ? undefined : { verifyWith: key.publicKey, key }
  }

  async function verify(
    token: string,
    { header, claims: unverified }: UnverifiedJwt,
  ): Promise<VerifiedJwt | TokenCheck> {
    const algorithm = String(header['alg'])
    if (!issuer.algorithms.includes(algorithm)) return 'signature'
    if (!isAccessTokenType(header['typ'], issuer.requireAtJwt)) return 'typ'
    const now = clock.now()
    const badTimes = failedTimes(unverified, now.getTime())
    if (badTimes !== undefined) return badTimes
    const found = await keyFor(algorithm, header['kid'])
    if (found === undefined) return 'signature'
    const claims = await jwtVerify(token, found.verifyWith, {
      algorithms: [algorithm],
      issuer: issuer.issuer,
      clockTolerance: clockToleranceSeconds,
      requiredClaims: ['exp'],
      currentDate: now,
    }).then(
      ({ payload }) => payload,
      () => undefined,
    )
    if (claims === undefined) return 'signature'
    const accepted = rules.accept(issuer, claims)
    if (typeof accepted === 'string') return accepted
    const expMs = Number(claims.exp) * 1000
    return {
      token: accepted,
      goodUntilMs: Math.min(expMs, now.getTime() + rememberedForMs),
      key: found.key,
    }
  }

  return { verify }
}

/** RFC 9068 §4: `at+jwt`, with or without `application/`. Where the issuer does not set it: also `JWT` or nothing, never another type. */
function isAccessTokenType(typ: unknown, required: boolean): boolean {
  if (typ === undefined) return !required
  if (typeof typ !== 'string') return false
  const type = typ.toLowerCase()
  if (type === 'at+jwt' || type === 'application/at+jwt') return true
  return type === 'jwt' && !required
}
