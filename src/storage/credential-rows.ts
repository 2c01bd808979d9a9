import type { ConnectionReason } from '../core/credential.ts'
import type { CredentialRecord } from '../core/ports/credential-records.ts'
import type { StoredConnection } from '../core/ports/credential-store.ts'
import type { CredentialBinding, MethodName } from '../core/upstream.ts'
import type { Sql } from './connections.ts'

/** A stored connection without its secrets, as the database gives it. */
export type ConnectionRow = {
  issuer: string
  user_id: string
  upstream: string
  generation: number
  status: StoredConnection['status']
  reason: ConnectionReason | null
  method: MethodName
  scopes: string[]
  audience: string | null
  account: string | null
  authorization_server: string
  client_id: string
  resource: string | null
  renewable: boolean
  connected_at: Date
  obtained_at: Date
  expires_at: Date | null
  next_try_at: Date | null
}

/** With what may be served. */
export type CredentialRow = ConnectionRow & { renewed: boolean; access_token: Buffer | null }

/** The columns of a ConnectionRow. */
export const connectionColumnsOf = (sql: Sql) => sql`
  credential.issuer, credential.user_id, credential.upstream, credential.generation, credential.status,
  credential.reason, credential.method, credential.scopes, credential.audience, credential.account,
  credential.authorization_server, credential.client_id, credential.resource,
  credential.refresh_token IS NOT NULL AS renewable,
  credential.connected_at, credential.obtained_at, credential.expires_at, credential.next_try_at`

/** The columns of a CredentialRow. */
export const credentialColumnsOf = (sql: Sql) =>
  sql`${connectionColumnsOf(sql)}, credential.renewed, credential.access_token`

export function toConnection(row: ConnectionRow): StoredConnection {
  return {
    issuer: row.issuer,
    userId: row.user_id,
    upstream: row.upstream,
    generation: row.generation,
    status: row.status,
    reason: row.reason ?? undefined,
    method: row.method,
    scopes: row.scopes,
    audience: row.audience ?? undefined,
    account: row.account ?? undefined,
    binding: toBinding(row),
    renewable: row.renewable,
    connectedAt: row.connected_at,
    obtainedAt: row.obtained_at,
    expiresAt: row.expires_at ?? undefined,
    nextTryAt: row.next_try_at ?? undefined,
  }
}

export function toBinding(
  row: Pick<ConnectionRow, 'authorization_server' | 'client_id' | 'resource'>,
): CredentialBinding {
  return {
    authorizationServer: row.authorization_server,
    clientId: row.client_id,
    resource: row.resource ?? undefined,
  }
}

export function toRecord(row: CredentialRow): CredentialRecord {
  return {
    ...toConnection(row),
    renewed: row.renewed,
    sealedAccessToken: row.access_token ?? undefined,
  }
}
