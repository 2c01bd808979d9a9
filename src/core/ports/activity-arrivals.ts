import type { ActivityRow } from './activity-proof.ts'

/** Records in the order in which they came to the database, for one that goes on where it was. All throw BrokerError storage_unavailable. */
export interface ActivityArrivals {
  /**
   * Says that this destination is configured. A new one begins with what comes from now on. Gives the last batch that it has.
   */
  register(destination: string): Promise<number>

  /**
   * Whole batches behind `after`, up to about `limit` records; undefined when there is none. Nothing comes later that would
   * belong before them.
   */
  next(
    after: number,
    limit: number,
  ): Promise<{ readonly upTo: number; readonly rows: readonly ActivityRow[] } | undefined>

  /** Says that it has everything up to a batch. */
  delivered(destination: string, upTo: number): Promise<void>
}
