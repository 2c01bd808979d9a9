import { BrokerError } from './errors.ts'
import { AcquisitionFailure } from './failure-verdict.ts'
import type { StoredConnection } from './ports/credential-store.ts'
import type { SetbackKind } from './setback.ts'

/** What those hear who waited for a try that failed, or who come before the next one is due. */
export function refusalAfter(setback: {
  readonly failure: SetbackKind
  readonly retryInSeconds: number
}): BrokerError {
  switch (setback.failure) {
    case 'unavailable':
      return upstreamUnavailable(setback.retryInSeconds)
    case 'misconfigured':
      return new BrokerError('upstream_misconfigured')
    case 'denied':
      return new BrokerError('policy_denied')
    case 'interaction_required':
      return new BrokerError('connect_required', { reason: 'insufficient_scope' })
  }
}

/** A refusal that says when to come back: whole seconds, 1 to 900. */
export function upstreamUnavailable(seconds: number, cause?: unknown): BrokerError {
  const retryAfterSeconds = Math.min(900, Math.max(1, Math.ceil(seconds)))
  const addressRefused =
    cause instanceof AcquisitionFailure &&
    cause.verdict.kind === 'retry_at' &&
    cause.verdict.addressRefused === true
  return new BrokerError('upstream_unavailable', { retryAfterSeconds, addressRefused, cause })
}

/** Why a row has nothing that may be used, or that there is none. */
export function nothingStored(
  found: { readonly connection: Pick<StoredConnection, 'reason'> } | undefined,
): BrokerError {
  const reason =
    found === undefined ? 'not_connected' : (found.connection.reason ?? 'refresh_failed')
  return new BrokerError('connect_required', { reason })
}
