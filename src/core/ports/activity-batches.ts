/** Columns of a record in the order in which it is shown; `actor` is two of them. */
export const activityColumns = [
  'id',
  'occurred_at',
  'request_id',
  'type',
  'user_id',
  'issuer',
  'actor_kind',
  'actor_id',
  'upstream',
  'action',
  'method',
  'outcome',
  'reason',
  'duration_ms',
  'details',
] as const
export type ActivityColumn = (typeof activityColumns)[number]

/**
 * One record as text: its values in the order of `activityColumns`, with a tab between them, an absent one empty, `details` as
 * JSON. No value holds a tab or a line feed, so a batch is its lines.
 */
export type ActivityLine = string

/** Stores finished records. */
export interface ActivityBatches {
  /**
   * Stores each record once, however often it is handed in: a record keeps its id. All of them or none. `refused`: the
   * database will never take these lines together as they are, so that trying again is useless.
   * @throws BrokerError storage_unavailable when a later try may succeed, and when the outcome is unknown.
   */
  insert(lines: readonly ActivityLine[]): Promise<'stored' | 'refused'>
}
