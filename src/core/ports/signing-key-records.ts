/** A signing key as the database keeps it. */
export type SigningKeyRecord = {
  readonly keyId: string
  /** 1, 2, …: the latest signs. */
  readonly number: number
  /** 32 bytes, base64url. */
  readonly publicKey: string
  readonly sealedPrivateKey: Uint8Array
  readonly createdAt: Date
}

/** Our own signing keys, old ones too. All throw BrokerError storage_unavailable. */
export interface SigningKeyRecords {
  /** Oldest first. */
  list(): Promise<readonly SigningKeyRecord[]>

  /** Does nothing where another process has stored one of that number. */
  insert(record: Omit<SigningKeyRecord, 'createdAt'>): Promise<void>
}
