/** One key id, named as `keys status` prints it. */
export type KeyStatus = {
  readonly id: string
  /** How many sealed values of the whole database this key opens. */
  readonly rows: number
  readonly configured: boolean
  /** It is the first, which new values are sealed with. */
  readonly seals: boolean
  readonly removable: boolean
}

/** What moving everything to the first key came to. */
export type RewrapReport = {
  /** The first configured key. */
  readonly keyId: string
  /** Rows that were moved to it. */
  readonly rows: number
  /** Values that no configured key opens where they stand. They were left as they were. */
  readonly unopened: number
  /**
   * `done`: nothing that opens is left under another key. `stopped`: by the signal. `outrun`: somebody goes on sealing under
   * another key, so that there is no end to it.
   */
  readonly end: 'done' | 'stopped' | 'outrun'
}

/** The same with what became of the record of it. */
export type RecordedRewrap = RewrapReport & {
  /** Whether its record is in the activity log. */
  readonly recorded: boolean
}
