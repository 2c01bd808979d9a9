import { BrokerError } from '../core/errors.ts'
import { Secret } from '../core/secret.ts'
import type { Upstream } from '../core/upstream.ts'

/** In characters. */
export const longestKey = 8192

/** @throws BrokerError not_connectable where the upstream takes no keys */
export function requireKeyMode({ credential }: Upstream): void {
  if (credential.mode === 'user_key') return
  throw new BrokerError('not_connectable', { expectation: 'This upstream takes no key.' })
}

/** A key as it can stand in a header. @throws BrokerError invalid_request, without the key */
export function readKey(text: string): Secret {
  // A blank at an end would be cut off on the way, and a line break would end the header.
  if (text.length <= longestKey && /^[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?$/.test(text)) {
    return new Secret(text)
  }
  throw new BrokerError('invalid_request', {
    field: 'key',
    expectation: `1 to ${longestKey} characters of printable ASCII, without blanks at its ends.`,
  })
}
