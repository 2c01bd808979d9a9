import { index, pgTable, text } from 'drizzle-orm/pg-core'
import { bytea, instant } from './columns.ts'

/** A signed-in browser. The cookie's value is not here, only its SHA-256. */
export const session = pgTable(
  'session',
  {
    sessionHash: bytea('session_hash').primaryKey(),
    issuer: text().notNull(),
    userId: text('user_id').notNull(),
    email: text(),
    roles: text().array().notNull(),
    createdAt: instant('created_at').notNull(),
    expiresAt: instant('expires_at').notNull(),
  },
  (table) => [
    index('session_person').on(table.issuer, table.userId),
    index('session_expiry').on(table.expiresAt),
  ],
)

/** A sign-in on its way through the identity provider. */
export const signInFlow = pgTable(
  'sign_in_flow',
  {
    stateHash: bytea('state_hash').primaryKey(),
    browserHash: bytea('browser_hash').notNull(),
    codeVerifier: bytea('code_verifier').notNull(),
    nonce: bytea().notNull(),
    /** Sealed as well: it may be a connect link, or whatever stood in the address of a page that was opened. */
    returnTo: bytea('return_to').notNull(),
    expiresAt: instant('expires_at').notNull(),
  },
  (table) => [index('sign_in_flow_expiry').on(table.expiresAt)],
)
