import { createHash } from 'node:crypto'
import type { ActivityPosition } from '../core/ports/activity-store.ts'

const position =
  /^(?<occurredAt>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)(?<id>[\da-f]{8}(?:-[\da-f]{4}){3}-[\da-f]{12})$/

/** A place in the activity log as clients carry it: opaque, and bound to nothing, because it opens nothing. */
export function encodeActivityCursor({ occurredAt, id }: ActivityPosition): string {
  const text = `${occurredAt}${id}`
  return Buffer.from(`${text}${checksumOf(text)}`).toString('base64url')
}

/** Undefined for everything that this program did not give out. */
export function decodeActivityCursor(cursor: string): ActivityPosition | undefined {
  const text = Buffer.from(cursor, 'base64url').toString('latin1')
  const found = position.exec(text.slice(0, -CHECKSUM_LENGTH))?.groups
  const occurredAt = found?.['occurredAt']
  const id = found?.['id']
  if (occurredAt === undefined || id === undefined) return undefined
  // The whole has one spelling; this also judges the checksum.
  if (encodeActivityCursor({ occurredAt, id }) !== cursor) return undefined
  return isInstant(occurredAt) ? { occurredAt, id } : undefined
}

const CHECKSUM_LENGTH = 8

/** Not against forgery, which would gain nothing: a cursor that lost or changed a character must not quietly lead elsewhere. */
function checksumOf(text: string): string {
  return createHash('sha256').update(text).digest('hex').slice(0, CHECKSUM_LENGTH)
}

/** A date of the calendar, as the database reads it too. */
function isInstant(occurredAt: string): boolean {
  const date = new Date(occurredAt)
  return (
    !Number.isNaN(date.getTime()) && date.toISOString().slice(0, 19) === occurredAt.slice(0, 19)
  )
}
