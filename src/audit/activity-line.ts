import { createHash } from 'node:crypto'
import {
  type AuditDetails,
  type AuditRecord,
  auditActions,
  auditMethods,
  auditOutcomes,
  auditReasons,
  auditTypes,
} from '../core/audit-event.ts'
import type { ActivityLine } from '../core/ports/activity-batches.ts'
import { createIdSequence } from './uuid-v7.ts'

/** An index entry holds 2,704 bytes, and a row that does not fit would be a record lost. */
const longestId = 500
const prefixLength = 400
const otherThanAscii = /[^\x20-\x7e]/
/** Control characters, of which a tab or a line feed would end the value and a NUL the batch, and halves of surrogate pairs. */
const unwritable = /[\p{Cc}\p{Cs}\u2028\u2029]/gu

const types: ReadonlySet<string> = new Set(auditTypes)
const actions: ReadonlySet<string> = new Set(auditActions)
const methods: ReadonlySet<string> = new Set(auditMethods)
const outcomes: ReadonlySet<string> = new Set(auditOutcomes)
const reasons: ReadonlySet<string> = new Set(auditReasons)
const actorKinds: ReadonlySet<string> = new Set(['user', 'service', 'admin', 'system'])
const identities: ReadonlySet<string> = new Set(['token', 'asserted'])

/**
 * Gives each record its id and time and turns it into text. Its own function an instance, because ids of one process count up
 * within a millisecond.
 * @throws TypeError where a value is not of its closed set: the message names the field, never the value.
 */
export function createActivityLineEncoder(): (record: AuditRecord, nowMs: number) => ActivityLine {
  const nextId = createIdSequence()
  let lastMs = Number.NaN
  let occurredAt = ''

  return (record, nowMs) => {
    if (nowMs !== lastMs) {
      lastMs = nowMs
      occurredAt = new Date(nowMs).toISOString()
    }
    const id = nextId(nowMs)
    const elapsedMs = nowMs - record.startedAt.getTime()
    // Negative when the clock was set back meanwhile.
    const durationMs = elapsedMs > 0 ? elapsedMs : 0
    const who = `${idText(record.userId)}\t${idText(record.issuer)}\t${closed(actorKinds, record.actor.kind, 'actor.kind')}\t${idText(record.actor.id)}`
    const what = `${closed(actions, record.action, 'action')}\t${closed(methods, record.method, 'method')}`
    const end = `${closed(outcomes, record.outcome, 'outcome')}\t${record.reason === undefined ? '' : closed(reasons, record.reason, 'reason')}`
    return `${id}\t${occurredAt}\t${idText(record.requestId)}\t${closed(types, record.type ?? 'credential_broker', 'type')}\t${who}\t${idText(record.upstream)}\t${what}\t${end}\t${durationMs}\t${detailsText(record.details)}`
  }
}

/** The id of the record in a line. */
export function idOfLine(line: ActivityLine): string {
  return line.slice(0, line.indexOf('\t'))
}

/** When the record was made, as RFC 3339 with milliseconds. */
export function occurredAtOfLine(line: ActivityLine): string {
  const start = line.indexOf('\t') + 1
  return line.slice(start, line.indexOf('\t', start))
}

function idText(id: string | undefined): string {
  if (id === undefined) return ''
  if (id.length === 0 || id.length > longestId) return standIn(id)
  // Nearly every id is plain, and telling so is quick.
  if (!otherThanAscii.test(id)) return id
  return id.search(unwritable) === -1 ? id : standIn(id)
}

/** For an id that cannot stand as it is. Its hash keeps two people apart whose ids differ only in what was taken away. */
function standIn(id: string): string {
  const readable = id.slice(0, prefixLength).replace(unwritable, '\ufffd')
  return `${readable}\u2026${createHash('sha256').update(id, 'utf16le').digest('hex')}`
}

/** The type has said this already; here it is checked because a foreign text in a closed column might be a secret. */
function closed(set: ReadonlySet<string>, word: string, field: string): string {
  if (!set.has(word)) throw new TypeError(`not a word of ours: ${field}`)
  return word
}

function detailsText(details: AuditDetails | undefined): string {
  if (details?.identity === undefined) return '{}'
  return `{"identity":"${closed(identities, details.identity, 'details.identity')}"}`
}
