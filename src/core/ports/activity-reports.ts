import type { ActivityFilter } from './activity-store.ts'

export const activityBuckets = ['1m', '1h', '1d'] as const
export type ActivityBucket = (typeof activityBuckets)[number]

/** By what counts can be told apart. Not by request: there are as many as records. */
export const activityGroupings = [
  'type',
  'user_id',
  'issuer',
  'actor_id',
  'upstream',
  'action',
  'method',
  'outcome',
  'reason',
] as const
export type ActivityGrouping = (typeof activityGroupings)[number]

export type ActivityCount = {
  /** Where the bucket begins: a whole minute, hour or day of UTC. */
  readonly bucket: Date
  /** In the order that was asked for. */
  readonly values: readonly (string | null)[]
  readonly count: number
}

export const activityExportFormats = ['ndjson', 'csv'] as const
export type ActivityExportFormat = (typeof activityExportFormats)[number]

/** Questions to the activity log that go over many records. Give them connections that no page waits for. */
export interface ActivityReports {
  /**
   * How many records fit, oldest bucket first; buckets without a record are left out. `too_many`: the answer would have more
   * than `mostCounts`. `too_long`: counting was given up after some seconds.
   * @throws BrokerError storage_unavailable
   */
  summarize(question: {
    readonly filter: ActivityFilter & { readonly since: Date }
    readonly bucket: ActivityBucket
    readonly groupBy: readonly ActivityGrouping[]
    readonly mostCounts: number
  }): Promise<readonly ActivityCount[] | 'too_many' | 'too_long'>

  /**
   * Every record that fits, newest first, as text: pieces of whole lines. Records that come in meanwhile are not in it. Nothing is
   * read ahead of the reader but one piece; leaving the loop, or `signal`, ends the statement that runs.
   * @throws BrokerError storage_unavailable
   */
  export(
    filter: ActivityFilter,
    format: ActivityExportFormat,
    signal: AbortSignal,
  ): AsyncIterable<string>
}
