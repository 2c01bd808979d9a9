import { AcquisitionFailure } from '../core/failure-verdict.ts'
import type { AcquisitionMethod } from '../core/ports/acquisition-method.ts'

/** A key that the person stored: nobody is asked for it, nothing renews it, and only its owner can end it where it came from. */
export function createUserKey(): AcquisitionMethod {
  const cannotRenew = () =>
    new AcquisitionFailure({ kind: 'reconnect', reason: 'credential_expired' })
  return {
    name: 'user_key',
    refresh: () => Promise.reject(cannotRenew()),
    readRefresh() {
      throw cannotRenew()
    },
    revoke: () => Promise.resolve(),
  }
}
