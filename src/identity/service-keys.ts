import { hash, timingSafeEqual } from 'node:crypto'
import type { Service } from '../core/caller.ts'
import type { ServiceWithKeys } from '../core/issuer.ts'

/**
 * Finds the service whose key this is. Every key is compared in constant time, whether or not an earlier one fitted, so that
 * the time of an answer says nothing about a key. Only their hashes are kept.
 */
export function createServiceKeys(
  services: readonly ServiceWithKeys[],
): (key: string) => Service | undefined {
  const known = services.flatMap(({ keys, ...service }) =>
    keys.map((key) => ({ service, digest: hash('sha256', key.reveal(), 'buffer') })),
  )
  return (key) => {
    const presented = hash('sha256', key, 'buffer')
    let found: Service | undefined
    for (const { service, digest } of known) {
      if (timingSafeEqual(digest, presented)) found = service
    }
    return found
  }
}
