import type { ActivitySignature } from './activity-signer.ts'

/** Where a writer's chain stood: after `seq` records, the last of which has this hash (32 bytes). */
export type ChainHead = { readonly writer: string; readonly seq: number; readonly hash: Buffer }

/** A row of the log as exact as the database has it, whoever wrote it there. */
export type ActivityRow = {
  readonly id: string
  /** RFC 3339 in UTC with six digits; empty for what is no time of this calendar. */
  readonly occurredAt: string
  readonly requestId: string
  readonly type: string
  readonly userId: string | null
  readonly issuer: string | null
  readonly actorKind: string
  readonly actorId: string
  readonly upstream: string | null
  readonly action: string
  readonly method: string
  readonly outcome: string
  readonly reason: string | null
  readonly durationMs: number
  readonly details: unknown
  /** All three are null in records from before there was a chain. */
  readonly writer: string | null
  readonly seq: number | null
  readonly hash: Buffer | null
}

/** Where a page of rows ended, in the order of time and id. Only the database knows what is in it. */
export type ActivityRowPosition = { readonly at: string; readonly id: string }

/** Records of one writer that the retention removed: `first` to `last` of its chain, and the hash of the last. */
export type ActivityRemoval = {
  /** The partition that they were in. */
  readonly partition: string
  readonly writer: string
  readonly first: number
  readonly last: number
  /** Hexadecimal. */
  readonly lastHash: string
}

export type SignedRemoval = ActivityRemoval & {
  readonly keyId: string
  readonly signature: string
}

/** What is signed: where chains stood at one moment. A long list comes in parts, each signed by itself. */
export type CheckpointContent = {
  /** RFC 3339, by the database's clock. */
  readonly at: string
  /** Every writer is in it, over all parts; otherwise those that moved since the last complete one of the same process. */
  readonly complete: boolean
  readonly part: number
  readonly parts: number
  readonly writers: readonly {
    readonly writer: string
    /** The first record that the retention has left. */
    readonly from: number
    readonly seq: number
    /** Of record `seq`, hexadecimal. */
    readonly hash: string
  }[]
}

/** A checkpoint as the table has it, unread. */
export type CheckpointRow = {
  readonly id: number
  readonly checkpoint: unknown
  readonly keyId: string
  readonly signature: string
}

/** What the database holds of the log and of its proof. All throw BrokerError storage_unavailable. */
export interface ActivityProofRecords {
  /** Where every chain stands, at one moment, and that moment by the database's clock. */
  heads(): Promise<{ readonly at: Date; readonly heads: readonly ChainHead[] }>

  /** Whether there were records before there was a chain, and until when one without a chain may be such. */
  beforeChain(): Promise<{ readonly existed: boolean; readonly chainedSince: Date }>

  /** The log, and what is about to be removed from it. */
  tables(): Promise<readonly string[]>

  /** At most `limit` rows of one of `tables` in the order of time and id, behind `after`; undefined when the table is gone. */
  rows(
    table: string,
    after: ActivityRowPosition | undefined,
    limit: number,
  ): Promise<
    | {
        readonly rows: readonly ActivityRow[]
        readonly next: ActivityRowPosition | undefined
      }
    | undefined
  >

  /** In the order of their ids, behind `after`. */
  removals(
    after: number,
    limit: number,
  ): Promise<readonly (SignedRemoval & { readonly id: number })[]>

  addRemovals(
    removals: readonly (ActivityRemoval & { readonly signed: ActivitySignature })[],
  ): Promise<void>

  /** In the order of their ids, behind `after`. */
  checkpoints(after: number, limit: number): Promise<readonly CheckpointRow[]>

  addCheckpoint(content: CheckpointContent, signed: ActivitySignature): Promise<void>
}

export const activityFindingKinds = [
  'edited',
  'removed',
  'inserted',
  'reordered',
  'tail_cut',
  'writer_missing',
] as const
export type ActivityFindingKind = (typeof activityFindingKinds)[number]

/** One thing that is wrong with the log. */
export type ActivityFinding = {
  readonly kind: ActivityFindingKind
  /** Null for a record that claims no writer; `activity_checkpoint` for checkpoints themselves. */
  readonly writer: string | null
  /** The first record concerned, and the last one. */
  readonly seq: number | null
  readonly through: number | null
}

export type ActivityVerdict = {
  readonly findings: readonly ActivityFinding[]
  /** How many records were looked at. */
  readonly records: number
  readonly writers: number
  /** Records from before there was a chain, which nothing is known of. */
  readonly unchained: number
  /** Records that the retention removed. */
  readonly removed: number
  /** Signed checkpoints that the log was compared with. */
  readonly checkpoints: number
}

/** Checks the whole log. */
export interface ActivityVerifier {
  /** @throws BrokerError storage_unavailable, and the signal's reason */
  verify(options: {
    readonly signal: AbortSignal
    /** Records looked at so far, and about how many there are. */
    readonly onProgress?: (done: number, total: number) => void
  }): Promise<ActivityVerdict>
}
