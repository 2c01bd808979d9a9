import type { PersonId } from '../caller.ts'
import type { CredentialKey } from '../credential.ts'
import type { RenewalSetback, RenewalState, ServerPause } from '../setback.ts'

/** One who asks a server for a person's credential before there is one, or for another instead of it. */
export type AcquisitionAttempt = {
  readonly name: string
  /** The generation that the credential will have; no other attempt has it. */
  readonly generation: number
  /** Failures in a row before this try. */
  readonly failCount: number
}

/** Why an exchange could not be claimed, by the database's clock. */
export type ExchangeState = Pick<
  RenewalState,
  'leasedForSeconds' | 'blockedForSeconds' | 'setback'
> & {
  /** Of whoever asks, or asked last; undefined where nobody does. */
  readonly generation: number | undefined
}

/**
 * Who asks for what is not stored yet, over all replicas. What an attempt brings is stored only while it is still here
 * (`CredentialStore.putArrived`), so that whoever removes it (`CredentialStore.take`) refuses what it will bring, wherever that
 * arrives.
 * All throw BrokerError storage_unavailable.
 */
export interface AcquisitionAttempts {
  /**
   * Takes the lease (`leaseSeconds`) on the one exchange of a person and upstream. Undefined when another holds it, the next try is
   * not due, or the server paused everybody: `lookAtExchange` says which.
   */
  claimExchange(
    key: CredentialKey,
    authorizationServer: string,
  ): Promise<AcquisitionAttempt | undefined>

  lookAtExchange(key: CredentialKey, authorizationServer: string): Promise<ExchangeState>

  /** Of a code, of which several may be redeemed at once. */
  beginCode(key: CredentialKey): Promise<AcquisitionAttempt>

  /** It brought nothing, and nobody is to wait for the next. */
  end(key: CredentialKey, attempt: AcquisitionAttempt): Promise<void>

  /** It failed, and the next try is due later. False where it was refused meanwhile, or somebody else's turn came. */
  fail(
    key: CredentialKey,
    attempt: AcquisitionAttempt,
    setback: Omit<RenewalSetback, 'outcomeKnown'>,
  ): Promise<boolean>

  pause(pause: ServerPause): Promise<void>

  /** What does not work for now: upstreams whose last exchange for this person failed, and servers that paused everybody. */
  failing(person: PersonId): Promise<{
    readonly upstreams: ReadonlySet<string>
    readonly authorizationServers: ReadonlySet<string>
  }>
}
