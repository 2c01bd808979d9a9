import { hash } from 'node:crypto'
import type { CredentialKey } from '../core/credential.ts'
import type { NoticeTopic } from '../core/ports/notices.ts'
import type { Sql } from './connections.ts'

/** The one channel; a notice is `<topic> <subject>`. */
export const noticeChannel = 'onbehalf'

/** A hash, because whoever may LISTEN hears everything: nobody's name belongs there. */
export function credentialSubject({ issuer, userId, upstream }: CredentialKey): string {
  return hash('sha256', JSON.stringify([issuer, userId, upstream]), 'base64url').slice(0, 22)
}

/**
 * A call of pg_notify to stand in a statement, so that the notice goes out with its commit or not at all:
 * `RETURNING …, ${notify(sql, 'credential', subject)}`.
 */
export function notify(sql: Sql, topic: NoticeTopic, subject: string) {
  return sql`pg_notify(${noticeChannel}, ${`${topic} ${subject}`})`
}

/** The same, for whoever waits for what becomes of a credential. */
export function tellWaiters(sql: Sql, key: CredentialKey) {
  return notify(sql, 'credential', credentialSubject(key))
}
