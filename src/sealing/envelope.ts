import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from 'node:crypto'
import { BrokerError } from '../core/errors.ts'
import type { Sealer, SealingContext } from '../core/ports/sealer.ts'
import { Secret } from '../core/secret.ts'
import { type DataKey, type Keyring, keyBytes } from './keyring.ts'

// magic(1) format(1) key id length(1) key id salt(32) iv(12) ciphertext tag(16)
//
// The key id stands in front and in clear, so that SQL can count rows per key. The magic byte is a UTF-8 continuation byte:
// no text, so no plaintext put in the place of a sealed value, begins with it.
const magic = 0xb7
const format = 1
const headBytes = 3
const saltBytes = 32
const ivBytes = 12
const tagBytes = 16
const cipher = 'aes-256-gcm'

/** What every sealed value begins with; the length of the key id and the id follow. */
export const sealedHead: Uint8Array = Buffer.of(magic, format)

/** What every value sealed under this key begins with. */
export function headOf({ idBytes }: DataKey): Buffer {
  return Buffer.concat([sealedHead, Buffer.of(idBytes.length), idBytes])
}

/** The id of the key that a value was sealed under; undefined for anything that was not sealed. */
export function keyIdOf(sealed: Uint8Array): string | undefined {
  const length = sealed[sealedHead.length]
  const idEnd = headBytes + (length ?? 0)
  if (length === undefined || sealed.length < idEnd) return undefined
  if (!sealedHead.every((byte, at) => sealed[at] === byte)) return undefined
  return Buffer.from(sealed.subarray(headBytes, idEnd)).toString('utf8')
}

/** Part of the key derivation, so that these keys serve nothing else. */
const derivationInfo = Buffer.from('onbehalf/v1/record')

/**
 * AES-256-GCM under a key of its own for every value (HKDF-SHA-256 of the data key and a random salt), which takes away the
 * limit of 2^32 messages that one GCM key with random IVs has (NIST SP 800-38D §8.3).
 */
export function createEnvelope(keyring: Keyring): Sealer {
  return {
    seal: (text, context) => seal(keyring.sealing, text, context),
    open: (sealed, context) => open(keyring, sealed, context),
  }
}

function seal(dataKey: DataKey, text: Secret, context: SealingContext): Buffer {
  const salt = randomBytes(saltBytes)
  const iv = randomBytes(ivBytes)
  const encryptor = createCipheriv(cipher, deriveRecordKey(dataKey, salt), iv, {
    authTagLength: tagBytes,
  })
  encryptor.setAAD(associatedData(dataKey, context))
  const plain = Buffer.from(text.reveal(), 'utf8')
  const ciphertext = Buffer.concat([encryptor.update(plain), encryptor.final()])
  plain.fill(0)
  return Buffer.concat([headOf(dataKey), salt, iv, ciphertext, encryptor.getAuthTag()])
}

function open(keyring: Keyring, sealed: Uint8Array, context: SealingContext): Secret {
  const { dataKey, salt, iv, ciphertext, tag } = parse(keyring, sealed)
  // Without authTagLength, Node 20 takes a tag of 4 bytes, which can be guessed.
  const decryptor = createDecipheriv(cipher, deriveRecordKey(dataKey, salt), iv, {
    authTagLength: tagBytes,
  })
  decryptor.setAAD(associatedData(dataKey, context))
  decryptor.setAuthTag(tag)
  const plain = decryptor.update(ciphertext)
  try {
    decryptor.final()
    return new Secret(plain.toString('utf8'))
  } catch {
    throw corrupt('does not authenticate')
  } finally {
    plain.fill(0)
  }
}

/** Lengths first, then magic and format, then the key. There is no format that holds plaintext. */
function parse(keyring: Keyring, sealed: Uint8Array) {
  const keyIdLength = sealed[2]
  if (keyIdLength === undefined) throw corrupt('too short')
  const saltAt = headBytes + keyIdLength
  const ivAt = saltAt + saltBytes
  const ciphertextAt = ivAt + ivBytes
  const tagAt = sealed.length - tagBytes
  if (tagAt < ciphertextAt) throw corrupt('too short')
  if (sealed[0] !== magic || sealed[1] !== format) throw corrupt('unknown format')
  const dataKey = keyring.find(sealed.subarray(headBytes, saltAt))
  if (dataKey === undefined) throw corrupt('unknown key')
  return {
    dataKey,
    salt: sealed.subarray(saltAt, ivAt),
    iv: sealed.subarray(ivAt, ciphertextAt),
    ciphertext: sealed.subarray(ciphertextAt, tagAt),
    tag: sealed.subarray(tagAt),
  }
}

function deriveRecordKey(dataKey: DataKey, salt: Uint8Array): Uint8Array {
  return new Uint8Array(hkdfSync('sha256', dataKey.key, salt, derivationInfo, keyBytes))
}

function associatedData(dataKey: DataKey, context: SealingContext): Buffer {
  const parts = [
    Buffer.of(format),
    dataKey.idBytes,
    ...[context.table, context.field, ...boundParts(context)].map(bytesOf),
  ]
  return Buffer.concat(
    parts.flatMap((part) => {
      // A length before each part keeps person `a` on upstream `bc` apart from person `ab` on upstream `c`.
      const length = Buffer.alloc(4)
      length.writeUInt32BE(part.length)
      return [length, part]
    }),
  )
}

/** The table stands before these parts, so tables of different shapes cannot be taken for each other. */
function boundParts(context: SealingContext): readonly (string | Uint8Array)[] {
  switch (context.table) {
    case 'credential':
    case 'refresh_journal':
      return [context.issuer, context.userId, context.upstream, String(context.generation)]
    case 'connect_ticket':
      return [context.issuer, context.userId, context.upstream, context.ticketHash]
    case 'connect_flow':
      return [context.issuer, context.userId, context.upstream, context.stateHash]
    case 'sign_in_flow':
      return [context.stateHash]
    case 'sign_in_token':
      return [context.issuer, context.userId, String(context.generation)]
    case 'activity_signing_key':
      return [context.keyId]
    case 'gateway_session':
      return [context.issuer, context.userId, context.upstream, context.idHash]
    case 'mcp_request_state':
      return [context.issuer, context.userId, context.upstream]
    case 'upstream_discovery':
      return [context.upstream, context.source]
    case 'client_registration':
      return [context.authorizationServer, context.redirectUri]
    case 'encryption_key':
      return []
  }
}

function bytesOf(part: string | Uint8Array): Uint8Array {
  return typeof part === 'string' ? Buffer.from(part, 'utf8') : part
}

/** The cause is for the log; it is one of our own few words. */
function corrupt(what: 'too short' | 'unknown format' | 'unknown key' | 'does not authenticate') {
  return new BrokerError('credential_corrupt', { cause: new Error(`sealed value: ${what}`) })
}
