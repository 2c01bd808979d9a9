import type { PersonId } from '../caller.ts'
import type { CredentialKey } from '../credential.ts'
import type { Secret } from '../secret.ts'

/**
 * Where a sealed value stands. All of it is bound into the value, so that one moved to another person, upstream, column or
 * row, or back from an earlier generation of the same row, does not open.
 */
export type SealingContext =
  | (CredentialKey & {
      readonly table: 'credential'
      readonly field: 'access_token' | 'refresh_token'
      readonly generation: number
    })
  | (CredentialKey & {
      readonly table: 'connect_ticket'
      readonly field: 'sealed_ticket' | 'claims'
      readonly ticketHash: Uint8Array
    })
  | (CredentialKey & {
      readonly table: 'connect_flow'
      readonly field: 'code_verifier'
      readonly stateHash: Uint8Array
    })
  | {
      readonly table: 'sign_in_flow'
      readonly field: 'code_verifier' | 'nonce' | 'return_to'
      readonly stateHash: Uint8Array
    }
  | (PersonId & {
      readonly table: 'sign_in_token'
      readonly field: 'access_token' | 'id_token' | 'refresh_token'
      readonly generation: number
    })
  | {
      readonly table: 'activity_signing_key'
      readonly field: 'private_key'
      readonly keyId: string
    }
  | {
      readonly table: 'upstream_discovery'
      readonly field: 'found'
      readonly upstream: string
      readonly source: string
    }
  | {
      readonly table: 'client_registration'
      readonly field: 'client'
      readonly authorizationServer: string
      readonly redirectUri: string
    }
  /** A file of this machine, not a table: `refresh.journal` under the data directory. */
  | (CredentialKey & {
      readonly table: 'refresh_journal'
      readonly field: 'answer'
      readonly generation: number
    })
  | (CredentialKey & {
      readonly table: 'gateway_session'
      readonly field: 'upstream_session'
      readonly idHash: Uint8Array
    })
  /** No table: it goes through the client and comes back. */
  | (CredentialKey & { readonly table: 'mcp_request_state'; readonly field: 'state' })
  | { readonly table: 'encryption_key'; readonly field: 'check' }

/** Turns secrets into bytes that may be stored, and back. Both answer at once, without I/O. */
export interface Sealer {
  /** Seals under the first configured key. The same text gives other bytes every time. */
  seal(text: Secret, context: SealingContext): Buffer

  /** @throws BrokerError credential_corrupt for anything that was not sealed in exactly this context by a configured key. */
  open(sealed: Uint8Array, context: SealingContext): Secret
}
