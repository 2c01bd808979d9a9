/** How a try failed, for those who waited for it. `unavailable` passes with time; nothing but a change mends the others. */
export type SetbackKind = 'unavailable' | 'misconfigured' | 'denied' | 'interaction_required'

/** A try that brought no credential and ended no connection. */
export type RenewalSetback = {
  readonly failure: SetbackKind
  /** Failures in a row, this one included. */
  readonly failCount: number
  readonly retryInSeconds: number
  /** False when the request may have been carried out: its token may be spent. */
  readonly outcomeKnown: boolean
  /** The server named a time: nobody asks it before. */
  readonly pause?: ServerPause | undefined
}

/** Of one token endpoint, by every authorization server that stands for it in bindings. */
export type ServerPause = {
  readonly authorizationServers: readonly string[]
  readonly seconds: number
}

/** Why a renewal could not be claimed, by the database's clock. */
export type RenewalState = {
  readonly leaseEpoch: number
  /** Another may be sending. */
  readonly leasedForSeconds: number | undefined
  /** The server paused everybody, or the old credential has to be used up before a token that may be spent is sent again. */
  readonly blockedForSeconds: number | undefined
  /** The last try failed. */
  readonly setback: { readonly failure: SetbackKind; readonly retryInSeconds: number } | undefined
  readonly forcedTooOften: boolean
}
