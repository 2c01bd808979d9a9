/** What this room tells the operator. Closed on purpose: nothing of a record fits but its id. */
export type AuditLog = {
  error(entry: AuditLoss | AuditRefusal | AuditOutage): void
  info(entry: { readonly event: 'activity_store_recovered'; readonly waiting: number }): void
}

/** Why records are not in the activity log although their operations took place. */
export type AuditLossCause = 'queue_full' | 'invalid_record' | 'refused_record' | 'stopped'

export type AuditLoss = {
  readonly event: 'activity_records_dropped'
  readonly cause: AuditLossCause
  readonly count: number
}

/** The database will never take this record. */
export type AuditRefusal = { readonly event: 'activity_record_refused'; readonly id: string }

/** Said once an outage. */
export type AuditOutage = {
  readonly event: 'activity_store_failing'
  /** SQLSTATE or the driver's code, where there is one. */
  readonly code: string | undefined
  readonly waiting: number
}

/** A log that fails must fail neither the call whose record this is nor the writer behind it. */
export function tolerant(log: AuditLog): AuditLog {
  return {
    error(entry) {
      try {
        log.error(entry)
      } catch {
        // Nowhere is left to say it.
      }
    },
    info(entry) {
      try {
        log.info(entry)
      } catch {
        // As above.
      }
    },
  }
}
