/** A public key that checkpoints of the activity log are signed with, as RFC 8037 writes it. */
export type ActivityPublicKey = {
  readonly kty: 'OKP'
  readonly crv: 'Ed25519'
  /** The 32 bytes, base64url. */
  readonly x: string
  /** Its RFC 7638 thumbprint. */
  readonly kid: string
  readonly alg: 'EdDSA'
  readonly use: 'sig'
}

export type ActivitySignature = {
  readonly key: ActivityPublicKey
  /** Ed25519 over the text in UTF-8, base64url. */
  readonly signature: string
}

/** Signs what the activity log says of itself, with a key of our own that lies sealed in the database. */
export interface ActivitySigner {
  /** Makes the first key at its first use. @throws BrokerError storage_unavailable */
  sign(text: string): Promise<ActivitySignature>

  /**
   * Every key that there ever was, oldest first. Only those whose sealed half opens and belongs to the public one: a public
   * key alone could have been put there by whoever may write the database. @throws BrokerError storage_unavailable
   */
  keys(): Promise<readonly (ActivityPublicKey & { readonly createdAt: Date })[]>
}
