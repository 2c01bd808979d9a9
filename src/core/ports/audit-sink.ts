import type { AuditRecord } from '../audit-event.ts'

/** Where every operation is recorded. Recording never waits for the database. */
export interface AuditSink {
  /**
   * Asked before an operation that would leave a record starts.
   * @throws BrokerError audit_unavailable when no more can be taken and the configuration says `when_full: refuse`.
   */
  admit(): void

  /** Takes the record of an admitted operation; called before its result leaves. Never throws. */
  record(record: AuditRecord): void

  /**
   * To be awaited between the record and what it tells of, by whoever lets that out: a credential, an answer, a redirect.
   * Undefined where all that was recorded so far is as safe as `audit.durability` asks, else a promise of it. What is recorded in
   * one turn of the event loop is written at its end, and everybody who waits for that gets the same promise.
   * @throws BrokerError audit_unavailable, as a rejection: the record could not be kept and the configuration says `refuse`.
   */
  settled(): Promise<void> | undefined
}
