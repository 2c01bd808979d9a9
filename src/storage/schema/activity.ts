import { sql } from 'drizzle-orm'
import {
  bigint,
  bigserial,
  doublePrecision,
  index,
  jsonb,
  pgTable,
  primaryKey,
  text,
  uuid,
} from 'drizzle-orm/pg-core'
import { bytea, instant, transactionId } from './columns.ts'

/** Every field with few values, as one number; `activity_shape` says what it stands for. The function is made in the migration. */
const shape = sql`activity_shape_of(type, issuer, upstream, action, method, outcome, reason)`

/** The same without issuer and upstream, of which there are only dozens. */
const kind = sql`activity_shape_of(type, null, null, action, method, outcome, reason)`

/** All but the successful uses of stored credentials, which are nearly all of the log: indexes over the rest cost next to nothing. */
const uncommon = sql`not (type = 'credential_broker' and action = 'inject' and outcome = 'success')`

/**
 * The activity log, partitioned by week in the migration (drizzle cannot say so). `DESC NULLS FIRST` is what
 * `ORDER BY … DESC` means; drizzle's plain `.desc()` would make an index that no page can use.
 */
export const activity = pgTable(
  'activity',
  {
    id: uuid().notNull(),
    occurredAt: instant('occurred_at').notNull(),
    requestId: uuid('request_id').notNull(),
    type: text().notNull(),
    userId: text('user_id'),
    issuer: text(),
    actorKind: text('actor_kind').notNull(),
    actorId: text('actor_id').notNull(),
    upstream: text(),
    action: text().notNull(),
    method: text().notNull(),
    outcome: text().notNull(),
    reason: text(),
    durationMs: doublePrecision('duration_ms').notNull(),
    details: jsonb().notNull().default(sql`'{}'`),
    /** The proof: which process wrote it, as its how manieth, and the hash over this record and the one before. Null in records of before. */
    writer: uuid(),
    seq: bigint({ mode: 'number' }),
    hash: bytea(),
  },
  (table) => [
    primaryKey({ columns: [table.occurredAt, table.id] }),
    index('activity_user').on(
      table.userId,
      table.occurredAt.desc().nullsFirst(),
      table.id.desc().nullsFirst(),
    ),
    index('activity_actor').on(
      table.actorId,
      table.occurredAt.desc().nullsFirst(),
      table.id.desc().nullsFirst(),
    ),
    index('activity_request').on(table.requestId),
    index('activity_of_shape').on(
      shape,
      table.occurredAt.desc().nullsFirst(),
      table.id.desc().nullsFirst(),
    ),
    index('activity_uncommon')
      .on(table.occurredAt.desc().nullsFirst(), table.id.desc().nullsFirst())
      .where(uncommon),
    index('activity_uncommon_kind')
      .on(kind, table.occurredAt.desc().nullsFirst(), table.id.desc().nullsFirst())
      .where(uncommon),
    index('activity_user_uncommon_kind')
      .on(table.userId, kind, table.occurredAt.desc().nullsFirst(), table.id.desc().nullsFirst())
      .where(uncommon),
  ],
)

/**
 * Which shapes there are: some hundreds, whatever the size of the log. Triggers of `activity` (in the migration) add a new one in
 * the statement that stores its first record; none is ever removed. So a filter that nothing fits is answered from here, and
 * one that few records fit leads to them.
 */
export const activityShape = pgTable('activity_shape', {
  shape: bigint({ mode: 'bigint' }).primaryKey(),
  type: text().notNull(),
  issuer: text(),
  upstream: text(),
  action: text().notNull(),
  method: text().notNull(),
  outcome: text().notNull(),
  reason: text(),
})

/** Where the chain of each process that records stands. Changed in the statement that stores a batch, and nowhere else. */
export const activityWriter = pgTable('activity_writer', {
  id: uuid().primaryKey(),
  startedAt: instant('started_at').notNull(),
  lastSeq: bigint('last_seq', { mode: 'number' }).notNull(),
  /** 32 zero bytes before the first record. */
  lastHash: bytea('last_hash').notNull(),
  /** How many records of its spool are done with, so that a second delivery of one is known. Not below `last_seq`: records may be refused. */
  spoolPosition: bigint('spool_position', { mode: 'number' }).notNull(),
})

/**
 * One row for each batch that came in, for whoever goes by arrival. Ids are given before commits, so a reader stops at the first
 * batch whose `xid` is not below `pg_snapshot_xmin(pg_current_snapshot())`. Kept for hours, not for the retention.
 */
export const activityBatch = pgTable(
  'activity_batch',
  {
    id: bigserial({ mode: 'number' }).primaryKey(),
    xid: transactionId().notNull().default(sql`pg_current_xact_id()`),
    arrivedAt: instant('arrived_at').notNull().default(sql`now()`),
    writer: uuid().notNull(),
    firstSeq: bigint('first_seq', { mode: 'number' }).notNull(),
    lastSeq: bigint('last_seq', { mode: 'number' }).notNull(),
    /** The earliest and the latest `occurred_at` of its records: a clock may have been set back meanwhile. */
    minOccurredAt: instant('min_occurred_at').notNull(),
    maxOccurredAt: instant('max_occurred_at').notNull(),
  },
  (table) => [
    index('activity_batch_writer').on(table.writer, table.lastSeq),
    index('activity_batch_transaction').on(table.xid),
  ],
)

/** When a person's credential for an upstream was last handed out. A few seconds may pass until a use shows here. */
export const lastUse = pgTable(
  'last_use',
  {
    issuer: text().notNull(),
    userId: text('user_id').notNull(),
    upstream: text().notNull(),
    lastUsedAt: instant('last_used_at').notNull(),
  },
  (table) => [primaryKey({ columns: [table.issuer, table.userId, table.upstream] })],
)
