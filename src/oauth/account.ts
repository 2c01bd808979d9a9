/** Claims by which people know their accounts, the most telling first. */
const nameClaims = ['email', 'preferred_username', 'upn', 'login', 'name', 'sub'] as const

const maxLength = 200

/**
 * What a server calls the person, out of an ID token that came with the tokens. For display only, so its signature is not
 * checked: it came from the token endpoint itself over TLS (OpenID Connect Core §3.1.3.7). Undefined where it says nothing
 * that could be shown.
 */
export function accountOfIdToken(idToken: string | undefined): string | undefined {
  const claims = claimsOf(idToken)
  if (claims === undefined) return undefined
  for (const claim of nameClaims) {
    const name = displayName(Object.hasOwn(claims, claim) ? claims[claim] : undefined)
    if (name !== undefined) return name
  }
  return undefined
}

/** A text that may be shown as it is: short, without control, format or bidi characters. Undefined otherwise. */
export function displayName(value: unknown): string | undefined {
  if (typeof value !== 'string' || value === '' || value.length > maxLength) return undefined
  return /[\p{C}\p{Zl}\p{Zp}]/u.test(value) ? undefined : value
}

function claimsOf(idToken: string | undefined): Record<string, unknown> | undefined {
  const payload = idToken?.split('.')[1]
  if (payload === undefined) return undefined
  try {
    const claims: unknown = JSON.parse(Buffer.from(payload, 'base64url').toString('utf8'))
    return typeof claims === 'object' && claims !== null
      ? (claims as Record<string, unknown>)
      : undefined
  } catch {
    return undefined
  }
}
