import type { Secret } from '../core/secret.ts'

/**
 * HTTP Basic of a client. RFC 6749 §2.3.1 form-encodes both halves. Only what must be is encoded, so that servers which forget
 * to decode still understand the ids and secrets that providers hand out (`-`, `_`, `.`, `~`).
 */
export function basicAuthorization(clientId: string, clientSecret: Secret): string {
  const pair = `${formEncoded(clientId)}:${formEncoded(clientSecret.reveal())}`
  return `Basic ${Buffer.from(pair).toString('base64')}`
}

function formEncoded(text: string): string {
  return encodeURIComponent(text).replaceAll('%20', '+')
}
