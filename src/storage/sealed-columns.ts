import type { SealingContext } from '../core/ports/sealer.ts'

/**
 * Tables with sealed values. The check values of the keys themselves are not counted as use of a key, and the journal, which is a
 * file, holds its values for moments only; what goes through an MCP client ends with its ten minutes.
 */
type SealedTable = Exclude<
  SealingContext['table'],
  'encryption_key' | 'refresh_journal' | 'mcp_request_state'
>

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
