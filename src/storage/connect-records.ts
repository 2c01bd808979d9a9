import type { ConnectRecords } from '../core/ports/connect-records.ts'
import { toBinding } from './credential-rows.ts'
import type { Database } from './database.ts'
import { isOwn } from './own-row.ts'
import { textArray } from './text-array.ts'

/** Ended links are kept so long that their person is told what became of them. */
const keptAfterEnd = '1 day'
const lifetime = '10 minutes'
const openTicketsPerPerson = 10
/** Of those that ended, so many still explain themselves: asking for links again and again fills no table. */
const endedTicketsPerPerson = 100
/** Of a person's that answers of an upstream led to; a minute after it was made. */
const offeredTicketsPerUpstream = 100

type TicketRow = {
  issuer: string
  user_id: string
  upstream: string
  return_to: string | null
  scopes: string[]
  claims: Buffer | null
  is_over: boolean
}

type OfferRow = { ticket_hash: Buffer; sealed_ticket: Buffer; expires_at: Date }

type FlowRow = {
  issuer: string
  user_id: string
  upstream: string
  return_to: string | null
  scopes: string[]
  code_verifier: Buffer
  expected_issuer: string | null
  issuer_required: boolean
  authorization_server: string
  client_id: string
  resource: string | null
}

export function createConnectRecords(database: Database): ConnectRecords {
  const { run, sql } = database

  /** A few with each new one, so that flows which nobody finished do not pile up between two runs of the maintenance. */
  const sweptFlows = sql`
    DELETE FROM connect_flow WHERE state_hash IN (
      SELECT state_hash FROM connect_flow WHERE expires_at < now()
      ORDER BY expires_at LIMIT 20 FOR UPDATE SKIP LOCKED)`

  return {
    async insertTicket(ticket) {
      const [row] = await run(
        () => sql<[{ expires_at: Date }]>`
          INSERT INTO connect_ticket (
            ticket_hash, issuer, user_id, upstream, return_to, scopes, claims, claims_hash, expires_at
          ) VALUES (
            ${ticket.ticketHash}, ${ticket.issuer}, ${ticket.userId}, ${ticket.upstream},
            ${ticket.returnTo ?? null}, ${textArray(sql, ticket.scopes)},
            ${ticket.sealedClaims ?? null}, ${ticket.claimsHash ?? null},
            now() + ${lifetime}::interval
          )
          RETURNING expires_at`,
      )
      // After the insert, not in its statement: that one cannot see the links that are issued beside it, this one sees
      // all that were. The oldest end, but stay, so that their person is told. Locked in the order of the hash, because
      // two of these at once would wait for each other otherwise.
      await run(
        () => sql`
          UPDATE connect_ticket SET expires_at = now() WHERE ticket_hash IN (
            SELECT ticket_hash FROM connect_ticket WHERE ticket_hash IN (
              SELECT ticket_hash FROM connect_ticket
              WHERE issuer = ${ticket.issuer} AND user_id = ${ticket.userId}
                AND sealed_ticket IS NULL AND used_at IS NULL AND expires_at > now()
              ORDER BY created_at DESC, ticket_hash OFFSET ${openTicketsPerPerson}
            ) ORDER BY ticket_hash FOR UPDATE SKIP LOCKED
          )`,
      )
      await run(
        () => sql`
          DELETE FROM connect_ticket WHERE ticket_hash IN (
            SELECT ticket_hash FROM connect_ticket WHERE ticket_hash IN (
              SELECT ticket_hash FROM connect_ticket
              WHERE issuer = ${ticket.issuer} AND user_id = ${ticket.userId}
                AND sealed_ticket IS NULL AND (used_at IS NOT NULL OR expires_at <= now())
              ORDER BY created_at DESC, ticket_hash OFFSET ${endedTicketsPerPerson}
            ) ORDER BY ticket_hash FOR UPDATE SKIP LOCKED
          )`,
      )
      return { expiresAt: row.expires_at }
    },

    async offerTicket(candidate, { reuse }) {
      const [row] = await run(
        () => sql<[OfferRow]>`
          WITH open AS (
            SELECT ticket_hash, sealed_ticket, expires_at FROM connect_ticket
            WHERE ${reuse} AND ${isOwn(sql, 'connect_ticket', candidate)}
              AND scopes @> ${textArray(sql, candidate.scopes)} AND scopes <@ ${textArray(sql, candidate.scopes)}
              AND claims_hash IS NOT DISTINCT FROM ${candidate.claimsHash ?? null}
              AND sealed_ticket IS NOT NULL AND used_at IS NULL
              AND expires_at > now() + interval '1 minute'
            ORDER BY expires_at DESC LIMIT 1
          ),
          made AS (
            INSERT INTO connect_ticket (
              ticket_hash, sealed_ticket, issuer, user_id, upstream, scopes, claims, claims_hash, expires_at
            )
            SELECT
              ${candidate.ticketHash}::bytea, ${candidate.sealedTicket}::bytea,
              ${candidate.issuer}::text, ${candidate.userId}::text, ${candidate.upstream}::text,
              ${textArray(sql, candidate.scopes)},
              ${candidate.sealedClaims ?? null}::bytea, ${candidate.claimsHash ?? null}::bytea,
              now() + ${lifetime}::interval
            WHERE NOT EXISTS (SELECT 1 FROM open)
            RETURNING ticket_hash, sealed_ticket, expires_at
          ),
          -- An upstream that asks for other scopes with each call would have one made each time.
          swept AS (
            DELETE FROM connect_ticket WHERE ticket_hash IN (
              SELECT ticket_hash FROM connect_ticket WHERE ticket_hash IN (
                SELECT ticket_hash FROM connect_ticket
                WHERE EXISTS (SELECT 1 FROM made) AND ${isOwn(sql, 'connect_ticket', candidate)}
                  AND sealed_ticket IS NOT NULL AND created_at < now() - interval '1 minute'
                ORDER BY created_at DESC, ticket_hash OFFSET ${offeredTicketsPerUpstream}
              ) ORDER BY ticket_hash FOR UPDATE SKIP LOCKED)
          )
          SELECT ticket_hash, sealed_ticket, expires_at FROM open
          UNION ALL SELECT ticket_hash, sealed_ticket, expires_at FROM made`,
      )
      return {
        ticketHash: row.ticket_hash,
        sealedTicket: row.sealed_ticket,
        expiresAt: row.expires_at,
      }
    },

    async findTicket(ticketHash) {
      const [row] = await run(
        () => sql<TicketRow[]>`
          SELECT issuer, user_id, upstream, return_to, scopes, claims,
            used_at IS NOT NULL OR expires_at <= now() AS is_over
          FROM connect_ticket
          WHERE ticket_hash = ${ticketHash} AND expires_at > now() - ${keptAfterEnd}::interval`,
      )
      if (row === undefined) return undefined
      return {
        issuer: row.issuer,
        userId: row.user_id,
        upstream: row.upstream,
        returnTo: row.return_to ?? undefined,
        scopes: row.scopes,
        sealedClaims: row.claims ?? undefined,
        isOver: row.is_over,
      }
    },

    async beginFlow(ticketHash, flow) {
      const rows = await run(
        () => sql`
          WITH used AS (
            UPDATE connect_ticket SET used_at = now()
            WHERE ticket_hash = ${ticketHash} AND ${isOwn(sql, 'connect_ticket', flow)}
              AND used_at IS NULL AND expires_at > now()
            RETURNING ticket_hash
          ),
          swept AS (${sweptFlows})
          INSERT INTO connect_flow (
            state_hash, browser_hash, issuer, user_id, upstream, return_to, scopes, code_verifier,
            expected_issuer, issuer_required, authorization_server, client_id, resource, expires_at
          )
          SELECT
            ${flow.stateHash}::bytea, ${flow.browserHash}::bytea,
            ${flow.issuer}::text, ${flow.userId}::text, ${flow.upstream}::text,
            ${flow.returnTo ?? null}::text, ${textArray(sql, flow.scopes)}, ${flow.sealedCodeVerifier}::bytea,
            ${flow.expectedIssuer ?? null}::text, ${flow.issuerRequired}::boolean,
            ${flow.binding.authorizationServer}::text, ${flow.binding.clientId}::text,
            ${flow.binding.resource ?? null}::text, now() + ${lifetime}::interval
          FROM used
          RETURNING state_hash`,
      )
      return rows.length === 1
    },

    async useTicket(ticketHash, key) {
      const rows = await run(
        () => sql`
          UPDATE connect_ticket SET used_at = now()
          WHERE ticket_hash = ${ticketHash} AND ${isOwn(sql, 'connect_ticket', key)}
            AND used_at IS NULL AND expires_at > now()
          RETURNING ticket_hash`,
      )
      return rows.length === 1
    },

    async takeFlow(by) {
      const [row] = await run(
        () => sql<FlowRow[]>`
          DELETE FROM connect_flow
          WHERE state_hash = ${by.stateHash} AND browser_hash = ${by.browserHash} AND ${isOwn(sql, 'connect_flow', by)}
            AND expires_at > now()
          RETURNING issuer, user_id, upstream, return_to, scopes, code_verifier, expected_issuer,
            issuer_required, authorization_server, client_id, resource`,
      )
      if (row === undefined) return undefined
      return {
        issuer: row.issuer,
        userId: row.user_id,
        upstream: row.upstream,
        returnTo: row.return_to ?? undefined,
        scopes: row.scopes,
        sealedCodeVerifier: row.code_verifier,
        expectedIssuer: row.expected_issuer ?? undefined,
        issuerRequired: row.issuer_required,
        binding: toBinding(row),
      }
    },
  }
}
