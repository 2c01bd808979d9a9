import type { ActivityRecord } from './activity-store.ts'

/** Records that came to the database together. */
export type ArrivedBatch = {
  readonly id: number
  readonly writer: string
  readonly firstSeq: number
  readonly lastSeq: number
  /** The earliest and the latest `occurredAt` of them, in RFC 3339. */
  readonly occurred: { readonly min: string; readonly max: string }
  /** When its statement began; it is there some seconds later at most. */
  readonly arrivedAt: Date
}

/** The activity log in the order in which records come to the database. All throw BrokerError storage_unavailable. */
export interface ActivityFeedRecords {
  /** What `since` goes on from: everything that is there now is before it. */
  now(): Promise<FeedMark>

  /**
   * The batches that came to be seen behind a mark, and some from before it: whoever asks knows which ones it has had. None is left
   * out, however late its transaction ended. `again`: those that the new mark gives once more.
   */
  since(mark: FeedMark): Promise<{
    readonly batches: readonly ArrivedBatch[]
    readonly again: readonly number[]
    readonly mark: FeedMark
  }>

  /**
   * When the batch of a record came in, and what the time is now, by the database's clock. Undefined for a record that is not
   * there, and for one that came in more than an hour ago.
   */
  arrivalOf(id: string): Promise<{ readonly arrivedAt: Date; readonly now: Date } | undefined>

  /** At most `limit` batches that came in then or later, in order, behind the batch with the id `after`. */
  from(arrivedAt: Date, after: number, limit: number): Promise<readonly ArrivedBatch[]>

  /** Its records in order; fewer where the retention has removed some. */
  records(batch: ArrivedBatch): Promise<readonly ActivityRecord[]>
}

/** The lowest transaction that may still bring something; only the database compares it. */
export type FeedMark = { readonly transaction: string }
