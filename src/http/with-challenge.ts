import { BrokerError, isBrokerError } from '../core/errors.ts'
import type { BearerRefusal } from '../core/ports/protected-resources.ts'

/** The refusal of a token, with what `WWW-Authenticate` says of it; any other error as it is. */
export function withChallenge(
  error: unknown,
  challenge: (refusal: BearerRefusal) => string,
): unknown {
  if (isBrokerError(error, 'unauthenticated')) {
    const named = challenge({ error: 'invalid_token', scopes: [] })
    return new BrokerError('unauthenticated', { challenge: named, cause: error })
  }
  if (isBrokerError(error, 'insufficient_scope')) {
    const lacking = error.details.scopes ?? []
    const named = challenge({ error: 'insufficient_scope', scopes: lacking })
    return new BrokerError('insufficient_scope', { challenge: named, cause: error })
  }
  return error
}
