import { sql } from 'drizzle-orm'
import { bigint, boolean, check, pgTable, primaryKey, text, uuid } from 'drizzle-orm/pg-core'
import { instant } from './columns.ts'

/** A running process that keeps things in memory. Whoever finds its row gone was given up by the others, and forgets everything. */
export const replica = pgTable('replica', {
  id: uuid().primaryKey(),
  startedAt: instant('started_at').notNull(),
  heardAt: instant('heard_at').notNull(),
  /** It has forgotten what every invalidation up to this one names. */
  seen: bigint({ mode: 'number' }).notNull(),
})

/**
 * The last id of `invalidation`. One row, updated in the statement that inserts, so that its lock is held until the commit: ids
 * appear in their order, and whoever has seen one has seen all before it.
 */
export const invalidationCounter = pgTable(
  'invalidation_counter',
  {
    only: boolean().primaryKey().default(true),
    last: bigint({ mode: 'number' }).notNull(),
  },
  (table) => [check('invalidation_counter_one_row', sql`${table.only}`)],
)

/** What every replica must forget: a person's connection, or without `upstream` all that is remembered of the person. */
export const invalidation = pgTable('invalidation', {
  id: bigint({ mode: 'number' }).primaryKey(),
  issuer: text().notNull(),
  userId: text('user_id').notNull(),
  upstream: text(),
  /** What was granted is gone, so that calls which are open with it are cut; otherwise something newer is there to be read. */
  ended: boolean().notNull().default(true),
  createdAt: instant('created_at').notNull().default(sql`now()`),
})

/** Bearers issued to this person up to that second are refused, and assertions of them until `returned_at` is there. */
export const cutOff = pgTable(
  'cut_off',
  {
    issuer: text().notNull(),
    userId: text('user_id').notNull(),
    cutAt: instant('cut_at').notNull(),
    /** When a later bearer or sign-in was seen. */
    returnedAt: instant('returned_at'),
  },
  (table) => [primaryKey({ columns: [table.issuer, table.userId] })],
)
