import { sql } from 'drizzle-orm'
import {
  bigint,
  bigserial,
  boolean,
  check,
  index,
  integer,
  jsonb,
  pgTable,
  text,
  uniqueIndex,
  uuid,
} from 'drizzle-orm/pg-core'
import { bytea, instant } from './columns.ts'

/** Our own Ed25519 keys. None is ever removed: what an old one signed must stay verifiable. */
export const activitySigningKey = pgTable('activity_signing_key', {
  /** RFC 7638 thumbprint of the public key. */
  keyId: text('key_id').primaryKey(),
  /** 1, 2, …: processes that start together make one key. The latest signs. */
  number: integer().notNull().unique(),
  /** The 32 bytes, base64url. Whoever verifies trusts the sealed half, which a writer of this table cannot forge. */
  publicKey: text('public_key').notNull(),
  privateKey: bytea('private_key').notNull(),
  createdAt: instant('created_at').notNull().default(sql`now()`),
})

/** Where the chains stood at one moment, signed. */
export const activityCheckpoint = pgTable(
  'activity_checkpoint',
  {
    id: bigserial({ mode: 'number' }).primaryKey(),
    madeAt: instant('made_at').notNull().default(sql`now()`),
    /** Names every writer; the others name those that moved since the last such one of the same process. */
    complete: boolean().notNull(),
    checkpoint: jsonb().notNull(),
    keyId: text('key_id').notNull(),
    signature: text().notNull(),
  },
  (table) => [index('activity_checkpoint_made').on(table.madeAt)],
)

/** What is left of records that the retention removed: a run of one writer's, and the hash of its last one, signed. */
export const activityRemoval = pgTable(
  'activity_removal',
  {
    id: bigserial({ mode: 'number' }).primaryKey(),
    removedAt: instant('removed_at').notNull().default(sql`now()`),
    /** The partition that they were in. */
    partition: text().notNull(),
    writer: uuid().notNull(),
    firstSeq: bigint('first_seq', { mode: 'number' }).notNull(),
    lastSeq: bigint('last_seq', { mode: 'number' }).notNull(),
    /** Hexadecimal. */
    lastHash: text('last_hash').notNull(),
    keyId: text('key_id').notNull(),
    signature: text().notNull(),
  },
  (table) => [
    // A run that stopped half-way and is done again leaves one of each.
    uniqueIndex('activity_removal_run').on(table.writer, table.firstSeq, table.lastSeq),
  ],
)

/** Whether there were records before there was a chain: without any, one that is in no chain is a forged one. */
export const activityBeforeChain = pgTable(
  'activity_before_chain',
  {
    only: boolean().primaryKey().default(true),
    existed: boolean().notNull(),
    chainedSince: instant('chained_since').notNull().default(sql`now()`),
  },
  (table) => [check('activity_before_chain_one_row', sql`${table.only}`)],
)

/** How far each place that gets the records too has been told, in the order of arrival. */
export const activityDestination = pgTable('activity_destination', {
  /** Hash of its kind and URL. */
  id: text().primaryKey(),
  /** The last batch that it has. */
  batchId: bigint('batch_id', { mode: 'number' }).notNull(),
  deliveredAt: instant('delivered_at'),
  /** Configured somewhere at this time; one that nobody configures any more keeps nothing from being removed. */
  seenAt: instant('seen_at').notNull(),
})

/** Work that one process at a time does. */
export const taskLease = pgTable('task_lease', {
  name: text().primaryKey(),
  owner: uuid().notNull(),
  leasedUntil: instant('leased_until').notNull(),
})
