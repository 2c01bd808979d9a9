import { sql } from 'drizzle-orm'
import {
  bigint,
  boolean,
  index,
  integer,
  pgSequence,
  pgTable,
  primaryKey,
  text,
  timestamp,
  uuid,
} from 'drizzle-orm/pg-core'
import { bytea, instant } from './columns.ts'

/**
 * Generations of all credentials come from one sequence and never return, so that neither a late refresh nor an old
 * ciphertext fits a row that was removed and made again.
 */
export const credentialGeneration = pgSequence('credential_generation')

/** One person's connection to one upstream. Tokens are sealed before they come here. */
export const credential = pgTable(
  'credential',
  {
    issuer: text().notNull(),
    userId: text('user_id').notNull(),
    upstream: text().notNull(),
    generation: bigint({ mode: 'number' }).notNull(),
    status: text().$type<'connected' | 'reconnect_required'>().notNull(),
    reason: text(),
    method: text().notNull(),
    scopes: text().array().notNull(),
    audience: text(),
    account: text(),
    /** What the grant is bound to; a difference to the configuration is `configuration_changed`. */
    authorizationServer: text('authorization_server').notNull(),
    clientId: text('client_id').notNull(),
    resource: text(),
    accessToken: bytea('access_token'),
    refreshToken: bytea('refresh_token'),
    renewed: boolean().notNull(),
    connectedAt: instant('connected_at').notNull(),
    obtainedAt: instant('obtained_at').notNull(),
    expiresAt: instant('expires_at'),
    /** The renewal under way: who may send, until when, and whether the refresh token may have left. */
    leaseOwner: uuid('lease_owner'),
    leaseEpoch: bigint('lease_epoch', { mode: 'number' }).notNull().default(0),
    leaseUntil: instant('lease_until'),
    attemptStartedAt: instant('attempt_started_at'),
    failCount: integer('fail_count').notNull().default(0),
    nextTryAt: instant('next_try_at'),
    /** Nobody renews it ahead of its end before this: one replica has taken it on, or it is of no use. */
    aheadAfter: instant('ahead_after'),
    /** How the last try failed, for those who waited for it on another replica; null after a success. */
    failure: text(),
    /** When callers who named this credential as rejected had it renewed; those of the last minute count. */
    forcedAt: timestamp('forced_at', { withTimezone: true }).array().notNull().default(sql`'{}'`),
  },
  (table) => [
    primaryKey({ columns: [table.issuer, table.userId, table.upstream] }),
    index('credential_ahead').on(table.upstream, table.expiresAt).where(sql`status = 'connected'`),
  ],
)

/**
 * A first exchange, a repeated one, or a code being redeemed: what is there before there is a credential. What arrives is
 * stored only while its row is still here, so that removing the row refuses it wherever it arrives.
 */
export const acquisitionAttempt = pgTable(
  'acquisition_attempt',
  {
    issuer: text().notNull(),
    userId: text('user_id').notNull(),
    upstream: text().notNull(),
    /** `exchange`, of which there is one at a time, or the id of a code's redemption. */
    name: text().notNull(),
    /** Of the credential that will come of it; drawn anew by every claim, so that it is the fence too. */
    generation: bigint({ mode: 'number' }).notNull(),
    /** Nobody else asks until then; null when nobody asks. */
    leaseUntil: instant('lease_until'),
    failCount: integer('fail_count').notNull().default(0),
    nextTryAt: instant('next_try_at'),
    failure: text(),
    /** When it is of no use any more. */
    expiresAt: instant('expires_at').notNull(),
  },
  (table) => [
    primaryKey({ columns: [table.issuer, table.userId, table.upstream, table.name] }),
    index('acquisition_attempt_expiry').on(table.expiresAt),
  ],
)

/** A server that said when it may be asked again, for everybody on every replica. */
export const tokenEndpointPause = pgTable('token_endpoint_pause', {
  /** The issuer, or the token endpoint where no issuer is written. */
  authorizationServer: text('authorization_server').primaryKey(),
  pausedUntil: instant('paused_until').notNull(),
})

/** What a sign-in left for exchanges while the person is away (`store_subject_token`). */
export const signInToken = pgTable(
  'sign_in_token',
  {
    issuer: text().notNull(),
    userId: text('user_id').notNull(),
    generation: bigint({ mode: 'number' }).notNull(),
    accessToken: bytea('access_token').notNull(),
    accessTokenExpiresAt: instant('access_token_expires_at'),
    idToken: bytea('id_token'),
    idTokenExpiresAt: instant('id_token_expires_at'),
    refreshToken: bytea('refresh_token'),
    /** The refresh under way: who may send, and until when nobody else does. */
    leaseOwner: uuid('lease_owner'),
    leaseUntil: instant('lease_until'),
    /** When the sign-in that it comes from was begun: one that was begun before its person was cut off counts for nothing. */
    signedInAt: instant('signed_in_at').notNull().default(sql`now()`),
  },
  (table) => [primaryKey({ columns: [table.issuer, table.userId] })],
)

/** A known text sealed under each key id, so that a wrong secret is noticed before anything is served. */
export const encryptionKey = pgTable('encryption_key', {
  id: text().primaryKey(),
  check: bytea().notNull(),
})

export const connectTicket = pgTable(
  'connect_ticket',
  {
    ticketHash: bytea('ticket_hash').primaryKey(),
    /** Present where the same link is given out again (resolve); null where a person asked for it. */
    sealedTicket: bytea('sealed_ticket'),
    issuer: text().notNull(),
    userId: text('user_id').notNull(),
    upstream: text().notNull(),
    returnTo: text('return_to'),
    scopes: text().array().notNull(),
    claims: bytea(),
    /** SHA-256 of the claims, so that equal challenges can share a link. */
    claimsHash: bytea('claims_hash'),
    createdAt: timestamp('created_at', { withTimezone: true }).notNull().default(sql`now()`),
    expiresAt: instant('expires_at').notNull(),
    usedAt: instant('used_at'),
  },
  (table) => [
    index('connect_ticket_person').on(table.issuer, table.userId, table.upstream),
    index('connect_ticket_expiry').on(table.expiresAt),
  ],
)

export const connectFlow = pgTable(
  'connect_flow',
  {
    stateHash: bytea('state_hash').primaryKey(),
    browserHash: bytea('browser_hash').notNull(),
    issuer: text().notNull(),
    userId: text('user_id').notNull(),
    upstream: text().notNull(),
    returnTo: text('return_to'),
    scopes: text().array().notNull(),
    codeVerifier: bytea('code_verifier').notNull(),
    expectedIssuer: text('expected_issuer'),
    issuerRequired: boolean('issuer_required').notNull(),
    authorizationServer: text('authorization_server').notNull(),
    clientId: text('client_id').notNull(),
    resource: text(),
    expiresAt: instant('expires_at').notNull(),
  },
  (table) => [index('connect_flow_expiry').on(table.expiresAt)],
)
