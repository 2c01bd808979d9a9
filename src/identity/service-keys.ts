import { hash, timingSafeEqual } from 'node:crypto'
import type { Service } from '../core/caller.ts'
import type { ServiceWithKeys } from '../core/issuer.ts'

/** Characters of a SHA-256 in base64url. */
const digestLength = 43

/**
 * Finds the service whose key this is. Every key is compared in constant time, whether or not an earlier one fitted, so that
 * the time of an answer says nothing about a key. Only their hashes are kept.
 */
export function createServiceKeys(
  services: readonly ServiceWithKeys[],
): (key: string) => Service | undefined {
  const known = services.flatMap(({ keys, ...service }) =>
    keys.map((key) => ({ service, digest: Buffer.from(digestOf(key.reveal()), 'latin1') })),
  )
  // Asked on every call. A hash into a text and the text into this buffer take half the time of a hash into a new buffer.
  const presented = Buffer.alloc(digestLength)
  return (key) => {
    presented.write(digestOf(key), 'latin1')
    let found: Service | undefined
    for (const { service, digest } of known) {
      if (timingSafeEqual(digest, presented)) found = service
    }
    return found
  }
}

function digestOf(key: string): string {
  return hash('sha256', key, 'base64url')
}
