import { type Claims, isObject } from './claims.ts'

/** A JWT as it reads, before anyone has checked who wrote it. */
export type UnverifiedJwt = { readonly header: Claims; readonly claims: Claims }

/** Reads a signed JWT in compact form (RFC 7519 §7.2). Undefined when it is none, encrypted ones (five parts) included. */
export function readJwt(token: string): UnverifiedJwt | undefined {
  const parts = token.split('.', 4)
  const [head, body] = parts
  if (parts.length !== 3 || head === undefined || body === undefined) return undefined
  const header = readPart(head)
  if (typeof header?.['alg'] !== 'string') return undefined
  const claims = readPart(body)
  return claims === undefined ? undefined : { header, claims }
}

function readPart(part: string): Claims | undefined {
  try {
    const value: unknown = JSON.parse(Buffer.from(part, 'base64url').toString('utf8'))
    return isObject(value) ? value : undefined
  } catch {
    return undefined
  }
}
