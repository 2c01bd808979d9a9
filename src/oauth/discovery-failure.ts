import { BrokerError } from '../core/errors.ts'

/** Where discovery stands: in this order. */
export type DiscoveryStep = 'challenge' | 'resource_metadata' | 'server_metadata' | 'client'

/** Why a step led nowhere. Closed: nothing of a server's answer fits. */
export type DiscoveryFault =
  | 'address_refused'
  | 'busy'
  | 'endpoint_missing'
  | 'issuer_mismatch'
  | 'issuer_unusable'
  | 'no_answer'
  | 'no_authorization_server'
  | 'no_challenge'
  | 'no_way_to_register'
  | 'not_found'
  | 'pkce_not_advertised'
  | 'redirect'
  | 'registration_refused'
  | 'resource_mismatch'
  | 'too_large'
  | 'unreachable'
  | 'unreadable'
  | 'url_unusable'

const passing: ReadonlySet<DiscoveryFault> = new Set(['busy', 'no_answer', 'unreachable'])

export function isPassing(fault: DiscoveryFault): boolean {
  return passing.has(fault)
}

/** A step of discovery that led nowhere. */
export class DiscoveryFailure extends Error {
  readonly step: DiscoveryStep
  readonly fault: DiscoveryFault

  constructor(step: DiscoveryStep, fault: DiscoveryFault) {
    super(`discovery failed: ${step} ${fault}`)
    this.name = 'DiscoveryFailure'
    this.step = step
    this.fault = fault
  }
}

/** The refusal that callers hear. */
export function refusalOf(failure: DiscoveryFailure): BrokerError {
  const { fault } = failure
  const addressRefused = fault === 'address_refused'
  if (!addressRefused && !isPassing(fault)) {
    return new BrokerError('upstream_misconfigured', { cause: failure })
  }
  return new BrokerError('upstream_unavailable', {
    retryAfterSeconds: 5,
    addressRefused,
    cause: failure,
  })
}
