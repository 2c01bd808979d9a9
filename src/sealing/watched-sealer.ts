import { isBrokerError } from '../core/errors.ts'
import type { Sealer, SealingContext } from '../core/ports/sealer.ts'

/**
 * A sealer that tells of every value which does not open, for stores whose callers carry on without it or know nobody to tell: the
 * operator is to hear of it all the same.
 */
export function createWatchedSealer(ports: {
  readonly sealer: Sealer
  readonly onCorrupt: (context: SealingContext) => void
}): Sealer {
  const { sealer, onCorrupt } = ports
  return {
    seal: (text, context) => sealer.seal(text, context),
    open(sealed, context) {
      try {
        return sealer.open(sealed, context)
      } catch (error) {
        if (isBrokerError(error, 'credential_corrupt')) onCorrupt(context)
        throw error
      }
    },
  }
}
