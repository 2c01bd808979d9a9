/** What this room tells the operator. Closed on purpose: nothing of a record fits but its id. */
export type AuditLog = {
  error(entry: AuditLoss | AuditRefusal | StoreOutage | SpoolTrouble | WriterTrouble): void
  info(entry: StoreRecovery | SpoolRecovery | SpoolReplay | SpoolLeft): void
}

/** What the thread that writes to the database says. */
export type WriterLog = {
  error(entry: WriterError): void
  info(entry: WriterInfo): void
}
export type WriterError = AuditRefusal | StoreOutage | SpoolTrouble
export type WriterInfo = StoreRecovery | SpoolReplay

/** Why records are not in the activity log although their operations took place. */
export type AuditLossCause =
  | 'spool_full'
  | 'spool_failing'
  | 'invalid_record'
  | 'refused_record'
  | 'stopped'

export type AuditLoss = {
  readonly event: 'activity_records_dropped'
  readonly cause: AuditLossCause
  readonly count: number
}

/** The database will never take this record. It is set aside below `data_dir`. */
type AuditRefusal = { readonly event: 'activity_record_refused'; readonly id: string }

/** Said once an outage. `code`: SQLSTATE or the driver's, where there is one. */
type StoreOutage = {
  readonly event: 'activity_store_failing'
  readonly code: string | undefined
  readonly waiting: number
}
type StoreRecovery = { readonly event: 'activity_store_recovered'; readonly waiting: number }

/** `code`: the system's. */
type SpoolTrouble =
  /** Records cannot be written; said once an outage. */
  | { readonly event: 'activity_spool_failing'; readonly code: string }
  /** What an earlier process left; it stays where it is. */
  | {
      readonly event: 'activity_spool_unreadable'
      readonly writer: string
      readonly code: string | undefined
    }
  /** Set aside below `data_dir`. `lost`: records that were in it; null where nobody can tell. */
  | {
      readonly event: 'activity_spool_damaged'
      readonly segment: string
      readonly bytes: number
      readonly lost: number | null
    }
type SpoolRecovery = { readonly event: 'activity_spool_recovered' }
/** `records`: of that writer, in the database. */
type SpoolReplay = {
  readonly event: 'activity_spool_replayed'
  readonly writer: string
  readonly records: number
}

/** The process ends and could not store these; the next one on this `data_dir` does. */
type SpoolLeft = { readonly event: 'activity_spool_left'; readonly waiting: number }

/** The thread ended by itself; another one goes on where it was. */
type WriterTrouble = {
  readonly event: 'activity_writer_restarted'
  readonly code: string | undefined
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
