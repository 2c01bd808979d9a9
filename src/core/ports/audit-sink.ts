import type { AuditRecord } from '../audit-event.ts'

/** Where every operation is recorded. Recording never waits and never fails the call. */
export interface AuditSink {
  /**
   * Asked before an operation that would leave a record starts.
   * @throws BrokerError audit_unavailable when no more can be taken and the configuration says `when_full: refuse`.
   */
  admit(): void

  /** Takes the record of an admitted operation; called before its result leaves. */
  record(record: AuditRecord): void
}
