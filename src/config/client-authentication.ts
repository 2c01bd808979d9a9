import { createPrivateKey } from 'node:crypto'
import type { Secret } from '../core/secret.ts'
import type { ClientAuthentication } from '../core/upstream.ts'
import type { Path, Report } from './problem.ts'
import type { clientAuthMethods } from './schema-identity.ts'

type ClientFields = {
  readonly client_secret?: Secret | undefined
  readonly client_auth?: (typeof clientAuthMethods)[number] | undefined
  readonly private_key?: Secret | undefined
  readonly private_key_id?: string | undefined
}

/** Reads how our client authenticates. Left out, `client_auth` follows from what is written: a secret, a key, or nothing. */
export function readClientAuthentication(
  fields: ClientFields,
  path: Path,
  report: Report,
): ClientAuthentication {
  const { client_secret: secret, private_key: privateKey } = fields
  const method = fields.client_auth ?? inferMethod(fields)
  if (secret !== undefined && (method === 'none' || method === 'private_key_jwt')) {
    report.warning([...path, 'client_secret'], `is not used with client_auth: ${method}`)
  }
  if (privateKey !== undefined && method !== 'private_key_jwt') {
    report.warning([...path, 'private_key'], `is not used with client_auth: ${method}`)
  }
  switch (method) {
    case 'none':
      return { method }
    case 'private_key_jwt':
      if (privateKey === undefined) {
        report.problem([...path, 'private_key'], 'is required with client_auth: private_key_jwt', [
          [...path, 'client_auth'],
          [...path, 'private_key'],
        ])
        return { method: 'none' }
      }
      if (!isPrivateKey(privateKey)) {
        report.problem(
          [...path, 'private_key'],
          'must be an unencrypted private key in PEM form, with its line breaks',
        )
      }
      return { method, privateKeyPem: privateKey, keyId: fields.private_key_id }
    case 'client_secret_basic':
    case 'client_secret_post':
      if (secret === undefined) {
        report.problem([...path, 'client_secret'], `is required with client_auth: ${method}`, [
          [...path, 'client_auth'],
          [...path, 'client_secret'],
        ])
        return { method: 'none' }
      }
      return { method, secret }
  }
}

function inferMethod(fields: ClientFields): ClientAuthentication['method'] {
  if (fields.client_secret !== undefined) return 'client_secret_basic'
  return fields.private_key === undefined ? 'none' : 'private_key_jwt'
}

function isPrivateKey(pem: Secret): boolean {
  try {
    return createPrivateKey(pem.reveal()).type === 'private'
  } catch {
    return false
  }
}
