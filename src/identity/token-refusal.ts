import { BrokerError } from '../core/errors.ts'
import type { TokenCheck } from './identity-log.ts'

/** A token that is not taken: to the outside it says no more than its code, to the operator also which check failed. */
export class TokenRefusal extends BrokerError {
  readonly check: TokenCheck
  /** Null where the token names none of the configured issuers. */
  readonly issuer: string | null

  constructor(check: TokenCheck, issuer: string | null, scopes?: readonly string[]) {
    if (scopes === undefined) super('unauthenticated')
    else super('insufficient_scope', { scopes })
    this.check = check
    this.issuer = issuer
  }
}
