import { pgTable, primaryKey, text } from 'drizzle-orm/pg-core'
import { bytea, instant } from './columns.ts'

/** What discovery found of an upstream. Sealed, because it says where people's tokens go. */
export const upstreamDiscovery = pgTable('upstream_discovery', {
  upstream: text().primaryKey(),
  /** The url and the written issuer that it was found for; other ones make it void. */
  source: text().notNull(),
  found: bytea().notNull(),
  foundAt: instant('found_at').notNull(),
})

/** A client that we registered at an authorization server, or that one replica is registering right now. */
export const clientRegistration = pgTable(
  'client_registration',
  {
    authorizationServer: text('authorization_server').notNull(),
    redirectUri: text('redirect_uri').notNull(),
    clientId: text('client_id'),
    /** Its id once more, how it authenticates, and its secret; sealed. */
    client: bytea(),
    /** When its secret ends. */
    expiresAt: instant('expires_at'),
    registeringUntil: instant('registering_until'),
    /** When the one before it was dropped. */
    droppedAt: instant('dropped_at'),
  },
  (table) => [primaryKey({ columns: [table.authorizationServer, table.redirectUri] })],
)
