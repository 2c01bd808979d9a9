import { createPrivateKey, type KeyObject } from 'node:crypto'
import { importPKCS8 } from 'jose'
import {
  type ClientAuth,
  ClientSecretPost,
  type CryptoKey,
  None,
  PrivateKeyJwt,
} from 'oauth4webapi'
import type { Secret } from '../core/secret.ts'
import type { ClientAuthentication } from '../core/upstream.ts'
import { basicAuthorization } from './basic-authorization.ts'

/**
 * How a request proves that it is ours (RFC 6749 §2.3, RFC 7523 §2.2). An assertion's audience is the `issuer` of the
 * server object that the request is built with, one string only.
 * @throws Error when the private key cannot be read; its message never holds any of it.
 */
export async function clientAuthOf(authentication: ClientAuthentication): Promise<ClientAuth> {
  switch (authentication.method) {
    case 'client_secret_basic':
      return basic(authentication.secret)
    case 'client_secret_post':
      return ClientSecretPost(authentication.secret.reveal())
    case 'private_key_jwt': {
      const key = await signingKey(authentication.privateKeyPem)
      const { keyId } = authentication
      return PrivateKeyJwt(keyId === undefined ? key : { key, kid: keyId })
    }
    case 'none':
      return None()
  }
}

function basic(secret: Secret): ClientAuth {
  return (_server, client, _body, headers) => {
    headers.set('authorization', basicAuthorization(client.client_id, secret))
  }
}

const signingKeys = new WeakMap<Secret, Promise<CryptoKey>>()

function signingKey(pem: Secret): Promise<CryptoKey> {
  const known = signingKeys.get(pem)
  if (known !== undefined) return known
  const imported = importKey(pem)
  signingKeys.set(pem, imported)
  return imported
}

async function importKey(pem: Secret): Promise<CryptoKey> {
  let key: KeyObject
  try {
    key = createPrivateKey(pem.reveal())
  } catch {
    throw new Error('the private key cannot be read')
  }
  const pkcs8 = key.export({ type: 'pkcs8', format: 'pem' }).toString()
  return importPKCS8(pkcs8, algorithmOf(key))
}

/** What each kind of key signs with; an EC key's kind is its curve. */
const algorithms: Readonly<Record<string, string>> = {
  rsa: 'RS256',
  'rsa-pss': 'PS256',
  ed25519: 'EdDSA',
  prime256v1: 'ES256',
  secp384r1: 'ES384',
  secp521r1: 'ES512',
}

function algorithmOf(key: KeyObject): string {
  const kind = key.asymmetricKeyDetails?.namedCurve ?? key.asymmetricKeyType ?? ''
  const algorithm = algorithms[kind]
  if (algorithm === undefined) throw new Error('no client assertion can be signed with such a key')
  return algorithm
}
