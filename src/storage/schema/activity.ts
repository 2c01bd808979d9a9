import { sql } from 'drizzle-orm'
import { doublePrecision, index, jsonb, pgTable, primaryKey, text, uuid } from 'drizzle-orm/pg-core'
import { instant } from './columns.ts'

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
  },
  (table) => [
    primaryKey({ columns: [table.occurredAt, table.id] }),
    index('activity_user').on(
      table.userId,
      table.occurredAt.desc().nullsFirst(),
      table.id.desc().nullsFirst(),
    ),
    index('activity_upstream_outcome').on(
      table.upstream,
      table.outcome,
      table.occurredAt.desc().nullsFirst(),
      table.id.desc().nullsFirst(),
    ),
  ],
)
