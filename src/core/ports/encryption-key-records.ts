/** How much is sealed under one key id. */
export type KeyUsage = {
  readonly keyId: string
  /** Rows that hold at least one value sealed under it. */
  readonly rows: number
  readonly values: number
}

/** What the database knows of encryption keys. All throw BrokerError storage_unavailable. */
export interface EncryptionKeyRecords {
  /** The sealed check value of a key id; undefined for a key that was never used here. */
  findCheck(id: string): Promise<Uint8Array | undefined>

  /** Stores a first check value. Does nothing when there is one. */
  insertCheck(id: string, check: Uint8Array): Promise<void>

  /** Removes the check values of all other ids. */
  keepChecks(ids: readonly string[]): Promise<void>

  /**
   * Counts the sealed values of every table, check values excepted. A sealed value begins with `head`, then one byte with the
   * length of its key id, then the id in UTF-8; anything else belongs to no key and is left out.
   */
  countByKey(head: Uint8Array): Promise<readonly KeyUsage[]>
}
