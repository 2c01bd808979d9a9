import type { CredentialKey } from '../core/credential.ts'
import type { Sql } from './connections.ts'

/** The condition that a row of this table is of one person and upstream. Whoever asks for a row of somebody's asks so. */
export function isOwn(sql: Sql, table: string, { issuer, userId, upstream }: CredentialKey) {
  return sql`${sql(`${table}.issuer`)} = ${issuer} AND ${sql(`${table}.user_id`)} = ${userId}
    AND ${sql(`${table}.upstream`)} = ${upstream}`
}
