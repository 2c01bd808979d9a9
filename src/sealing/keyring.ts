import { createSecretKey, type KeyObject, randomBytes } from 'node:crypto'
import { OperatorError } from '../core/operator-error.ts'
import type { Secret } from '../core/secret.ts'

export const keyBytes = 32

/** Key ids travel in every sealed value behind one length byte. */
const maxKeyIdBytes = 255

export type DataKey = { readonly id: string; readonly idBytes: Buffer; readonly key: KeyObject }

/** The configured encryption keys: the first seals, all of them open. */
export type Keyring = {
  readonly sealing: DataKey
  readonly keys: readonly DataKey[]
  /** By the id's bytes as they stand in a sealed value; undefined when no such key is configured. */
  find(idBytes: Uint8Array): DataKey | undefined
}

/**
 * Reads the configured keys. Configuration reports the same faults earlier and all at once; here they end the start.
 * @throws OperatorError encryption_keys_refused for no key, an empty or oversized id, one id twice, or a secret that is not the base64 of 32 bytes.
 */
export function createKeyring(
  configured: readonly { readonly id: string; readonly secret: Secret }[],
): Keyring {
  const keys = configured.map(readKey)
  const [sealing] = keys
  if (sealing === undefined) throw refused('no encryption key is configured')
  const byId = new Map(keys.map((key) => [indexOf(key.idBytes), key]))
  if (byId.size < keys.length) throw refused('an encryption key id is configured twice')
  return { sealing, keys, find: (idBytes) => byId.get(indexOf(idBytes)) }
}

/**
 * A keyring that tells of every id which is looked for and not there: another replica seals with a key that this one was not
 * given. Undefined for what cannot be an id, because whoever can write rows could write anything in its place.
 */
export function watchKeyring(
  keyring: Keyring,
  onMissing: (id: string | undefined) => void,
): Keyring {
  return {
    ...keyring,
    find(idBytes) {
      const key = keyring.find(idBytes)
      if (key !== undefined) return key
      const id = Buffer.from(idBytes).toString('utf8')
      onMissing(/^[\p{L}\p{N}._-]{1,64}$/u.test(id) ? id : undefined)
      return undefined
    },
  }
}

/** A new key as the configuration takes it: the base64 of 32 random bytes. */
export function generateKey(): string {
  return randomBytes(keyBytes).toString('base64')
}

function readKey({ id, secret }: { readonly id: string; readonly secret: Secret }): DataKey {
  const idBytes = Buffer.from(id, 'utf8')
  if (idBytes.length === 0 || idBytes.length > maxKeyIdBytes) {
    throw refused(`an encryption key id must have 1 to ${maxKeyIdBytes} bytes`)
  }
  const bytes = decodeKey(secret)
  if (bytes === undefined) {
    throw refused(`encryption key ${JSON.stringify(id)} is not the base64 of ${keyBytes} bytes`)
  }
  const key = createSecretKey(bytes)
  bytes.fill(0)
  return { id, idBytes, key }
}

function decodeKey(secret: Secret): Buffer | undefined {
  const text = secret.reveal()
  // Node's decoder skips what is not base64, so a mistyped key would pass as a shorter or another one.
  if (!/^[A-Za-z0-9+/]{43}=?$/.test(text)) return undefined
  return Buffer.from(text, 'base64')
}

/** Latin-1 keeps bytes apart that UTF-8 decoding would merge into one replacement character. */
function indexOf(idBytes: Uint8Array): string {
  return Buffer.from(idBytes).toString('latin1')
}

function refused(problem: string): OperatorError {
  return new OperatorError('encryption_keys_refused', `encryption.keys: ${problem}.`)
}
