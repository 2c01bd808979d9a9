import { index, jsonb, pgTable, text } from 'drizzle-orm/pg-core'
import { bytea, instant } from './columns.ts'

/** A session of an MCP client (revisions before 2026-07-28). The id that it has is not here, only its SHA-256. */
export const gatewaySession = pgTable(
  'gateway_session',
  {
    idHash: bytea('id_hash').primaryKey(),
    issuer: text().notNull(),
    userId: text('user_id').notNull(),
    upstream: text().notNull(),
    /** Parameters of the client's `initialize`. */
    initialize: jsonb().notNull(),
    revision: text().notNull(),
    /** The upstream's own session id, sealed; null where it is not open or keeps none. */
    upstreamSession: bytea('upstream_session'),
    upstreamRevision: text('upstream_revision'),
    /** When the connection began that it was opened with: another one needs another session. */
    openedFor: instant('opened_for'),
    openingUntil: instant('opening_until'),
    /** Prompts that the client was given and will be told the end of. */
    elicitations: text().array().notNull(),
    usedAt: instant('used_at').notNull(),
  },
  (table) => [
    index('gateway_session_person').on(table.issuer, table.userId, table.upstream),
    index('gateway_session_use').on(table.usedAt),
  ],
)

/** People who connected again to give an upstream more scopes; those of the last 10 minutes count. */
export const stepUp = pgTable(
  'step_up',
  {
    issuer: text().notNull(),
    userId: text('user_id').notNull(),
    upstream: text().notNull(),
    /** Sorted. */
    scopes: text().array().notNull(),
    completedAt: instant('completed_at').notNull(),
  },
  (table) => [
    index('step_up_person').on(table.issuer, table.userId, table.upstream),
    index('step_up_completed').on(table.completedAt),
  ],
)

/** What MCP upstreams said of themselves, for people who are not connected yet. */
export const upstreamServer = pgTable('upstream_server', {
  upstream: text().primaryKey(),
  revisions: text().array(),
  capabilities: jsonb(),
})
