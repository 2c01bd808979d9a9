import type { CredentialKey } from '../credential.ts'

/** A sealed value, and in clear only what it is bound to. */
export type JournalRecord = {
  readonly key: CredentialKey
  readonly generation: number
  readonly sealed: Uint8Array
}

/** Records on the local disk that outlive the process. */
export interface JournalRecords {
  /** In the hands of the system when it resolves, on the disk soon after. @throws what the file system does */
  append(record: JournalRecord): Promise<{ readonly id: number }>
  /** Never throws: one that stays is found again, and does no harm. */
  remove(id: number): void
  /** What an earlier process left, oldest first. */
  readonly left: ReadonlyMap<number, JournalRecord>
}

/** What a journal has to say, in closed words. */
export type JournalEvent =
  /** `code`: of the system, such as ENOSPC. */
  | { readonly event: 'refresh_journal_failed'; readonly code: string | null }
  | { readonly event: 'refresh_journal_unreadable'; readonly records: number }
