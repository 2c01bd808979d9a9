import type { SealedTable } from '../core/ports/sealed-rows.ts'
import type { SealingContext } from '../core/ports/sealer.ts'

/**
 * Every column that holds sealed values. What is missing here is left out when a key's use is counted, and its key can be
 * removed too early; a test demands that every bytea column is here or is a hash.
 */
export const sealedColumns = {
  credential: ['access_token', 'refresh_token'],
  connect_ticket: ['sealed_ticket', 'claims'],
  connect_flow: ['code_verifier'],
  gateway_session: ['upstream_session'],
  sign_in_flow: ['code_verifier', 'nonce', 'return_to'],
  sign_in_token: ['access_token', 'id_token', 'refresh_token'],
  activity_signing_key: ['private_key'],
  upstream_discovery: ['found'],
  client_registration: ['client'],
} as const satisfies {
  readonly [Table in SealedTable]: readonly Extract<SealingContext, { table: Table }>['field'][]
}
