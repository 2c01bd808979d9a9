import { createHmac } from 'node:crypto'

export const issuer = 'http://127.0.0.1/bench-issuer'
export const publicUrl = 'http://127.0.0.1:9'

const tokens = new Map<string, string>()

/** A person's access token (HS256), made once: the callers of a storm present the same one. */
export function tokenOf(person: string, secret: string): string {
  const known = tokens.get(person)
  if (known !== undefined) return known
  const part = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const now = Math.floor(Date.now() / 1000)
  const claims = { iss: issuer, aud: publicUrl, sub: person, iat: now, exp: now + 21_600 }
  const signed = `${part({ alg: 'HS256', typ: 'at+jwt' })}.${part(claims)}`
  const signature = createHmac('sha256', secret).update(signed).digest('base64url')
  tokens.set(person, `${signed}.${signature}`)
  return `${signed}.${signature}`
}
