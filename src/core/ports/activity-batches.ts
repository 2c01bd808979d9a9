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

/** Where a writer's chain stands in the database. */
export type WriterHead = {
  /** Of its last record; 0 before the first. */
  readonly seq: number
  readonly hash: Buffer
  /** How many records of its spool are done with. */
  readonly position: number
}

/** When the credential of a person was handed out for an upstream. */
export type CredentialUse = {
  readonly issuer: string
  readonly userId: string
  readonly upstream: string
  /** RFC 3339. */
  readonly usedAt: string
}

/** Records of one writer that follow one another, with what changes together with them. */
export type ActivityBatch = {
  readonly writer: string
  readonly before: WriterHead
  readonly after: WriterHead
  /** The records, each with its hash in hexadecimal as one more value. They are number `before.seq + 1` and so on. */
  readonly lines: readonly string[]
  /** The earliest and the latest `occurred_at` of them. */
  readonly occurred: { readonly min: string; readonly max: string }
  /** At most one a person and upstream. */
  readonly uses: readonly CredentialUse[]
}

/** Stores finished records. */
export interface ActivityBatches {
  /** Where this writer stands; it is registered where it is new. @throws BrokerError storage_unavailable */
  open(writer: string, startedAt: Date): Promise<WriterHead>

  /**
   * Stores a batch and moves the head, both or neither. `moved`: the head is not where the batch begins, perhaps because an
   * earlier try went through whose answer was lost; nothing was done. `known`: a record of it is in the log already.
   * `refused`: the database will never take these lines together as they are, so that trying again is useless.
   * @throws BrokerError storage_unavailable when a later try may succeed, and when the outcome is unknown.
   */
  append(batch: ActivityBatch): Promise<'stored' | 'moved' | 'known' | 'refused'>
}
