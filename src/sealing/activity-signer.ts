import { createPrivateKey, createPublicKey, generateKeyPairSync, hash, sign } from 'node:crypto'
import { isBrokerError } from '../core/errors.ts'
import type { ActivityPublicKey, ActivitySigner } from '../core/ports/activity-signer.ts'
import type { Sealer, SealingContext } from '../core/ports/sealer.ts'
import type { SigningKeyRecord, SigningKeyRecords } from '../core/ports/signing-key-records.ts'
import { Secret } from '../core/secret.ts'

type SigningKey = {
  readonly record: SigningKeyRecord
  readonly publicKey: ActivityPublicKey
  readonly sign: (text: string) => string
}

/** An ActivitySigner whose private keys (PKCS #8, base64url) lie sealed in the database and are opened once. */
export function createActivitySigner(ports: {
  readonly records: SigningKeyRecords
  readonly sealer: Sealer
}): ActivitySigner {
  const { records, sealer } = ports
  let current: Promise<SigningKey> | undefined

  async function findOrMake(): Promise<SigningKey> {
    // A key that does not open is left where it is, and a later one takes over.
    for (;;) {
      const found = await records.list()
      const last = found.at(-1)
      const opened = last && open(last)
      if (opened !== undefined) return opened
      await records.insert(makeKey((last?.number ?? 0) + 1))
    }
  }

  function makeKey(number: number): Omit<SigningKeyRecord, 'createdAt'> {
    const { privateKey } = generateKeyPairSync('ed25519')
    const pkcs8 = privateKey.export({ format: 'der', type: 'pkcs8' }).toString('base64url')
    const { x, kid } = publicKeyOf(pkcs8)
    const sealedPrivateKey = sealer.seal(new Secret(pkcs8), contextOf(kid))
    return { keyId: kid, number, publicKey: x, sealedPrivateKey }
  }

  function open(record: SigningKeyRecord): SigningKey | undefined {
    let pkcs8: string
    try {
      pkcs8 = sealer.open(record.sealedPrivateKey, contextOf(record.keyId)).reveal()
    } catch (error) {
      if (isBrokerError(error, 'credential_corrupt')) return undefined
      throw error
    }
    const publicKey = publicKeyOf(pkcs8)
    if (publicKey.kid !== record.keyId || publicKey.x !== record.publicKey) return undefined
    const key = privateKeyOf(pkcs8)
    return {
      record,
      publicKey,
      sign: (text) => sign(null, Buffer.from(text, 'utf8'), key).toString('base64url'),
    }
  }

  return {
    async sign(text) {
      current ??= findOrMake()
      let key: SigningKey
      try {
        key = await current
      } catch (error) {
        current = undefined
        throw error
      }
      return { key: key.publicKey, signature: key.sign(text) }
    },

    async keys() {
      const opened = (await records.list()).map(open)
      return opened
        .filter((key) => key !== undefined)
        .map(({ publicKey, record }) => ({ ...publicKey, createdAt: record.createdAt }))
    },
  }
}

function contextOf(keyId: string): SealingContext {
  return { table: 'activity_signing_key', field: 'private_key', keyId }
}

function privateKeyOf(pkcs8: string) {
  return createPrivateKey({ key: Buffer.from(pkcs8, 'base64url'), format: 'der', type: 'pkcs8' })
}

function publicKeyOf(pkcs8: string): ActivityPublicKey {
  const { x = '' } = createPublicKey(privateKeyOf(pkcs8)).export({ format: 'jwk' })
  // RFC 7638 §3.2: the required members in the order of their names.
  const kid = hash('sha256', `{"crv":"Ed25519","kty":"OKP","x":"${x}"}`, 'base64url')
  return { kty: 'OKP', crv: 'Ed25519', x, kid, alg: 'EdDSA', use: 'sig' }
}
