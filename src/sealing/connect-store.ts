import { hash, randomBytes } from 'node:crypto'
import type { CredentialKey } from '../core/credential.ts'
import { isBrokerError } from '../core/errors.ts'
import type { ConnectRecords } from '../core/ports/connect-records.ts'
import type { ConnectStore, NewTicket } from '../core/ports/connect-store.ts'
import type { Sealer, SealingContext } from '../core/ports/sealer.ts'
import { Secret } from '../core/secret.ts'
import { createSingleFlight } from '../core/single-flight.ts'

type IssuedTicket = { readonly ticket: Secret; readonly expiresAt: Date }

const ticketBytes = 32
const ticketPattern = /^[A-Za-z0-9_-]{43}$/

/** The ConnectStore over rows that hold hashes and sealed bytes only. */
export function createConnectStore(ports: {
  readonly records: ConnectRecords
  readonly sealer: Sealer
}): ConnectStore {
  const { records, sealer } = ports
  const offers = createSingleFlight<IssuedTicket>()

  return {
    async issueTicket(wanted) {
      const { ticket, record } = newTicket(wanted)
      const { expiresAt } = await records.insertTicket({ ...record, returnTo: wanted.returnTo })
      return { ticket, expiresAt }
    },

    offerTicket(wanted) {
      // Refused calls of one person come in crowds; they share one statement and one row.
      return offers.join(offerKey(wanted), () => offer(wanted)).result
    },

    async findTicket(ticket) {
      if (!ticketPattern.test(ticket)) return undefined
      const ticketHash = sha256(ticket)
      const record = await records.findTicket(ticketHash)
      if (record === undefined) return undefined
      const { sealedClaims, ...rest } = record
      const claims =
        sealedClaims && sealer.open(sealedClaims, ticketContext(record, 'claims', ticketHash))
      return { ...rest, claims }
    },

    async beginFlow(ticket, flow) {
      if (!ticketPattern.test(ticket)) return false
      const { state, browser, codeVerifier, ...rest } = flow
      const stateHash = sha256(state)
      return records.beginFlow(sha256(ticket), {
        ...rest,
        stateHash,
        browserHash: sha256(browser),
        sealedCodeVerifier: sealer.seal(codeVerifier, flowContext(flow, stateHash)),
      })
    },

    async useTicket(ticket, key) {
      return ticketPattern.test(ticket) && records.useTicket(sha256(ticket), key)
    },

    async takeFlow(by) {
      const { issuer, userId, upstream } = by
      const stateHash = sha256(by.state)
      const record = await records.takeFlow({
        issuer,
        userId,
        upstream,
        stateHash,
        browserHash: sha256(by.browser),
      })
      if (record === undefined) return undefined
      const { sealedCodeVerifier, ...rest } = record
      return { ...rest, codeVerifier: sealer.open(sealedCodeVerifier, flowContext(by, stateHash)) }
    },
  }

  async function offer(wanted: Omit<NewTicket, 'returnTo'>): Promise<IssuedTicket> {
    const { ticket, record } = newTicket(wanted)
    const sealedTicket = sealer.seal(
      ticket,
      ticketContext(record, 'sealed_ticket', record.ticketHash),
    )
    const candidate = { ...record, sealedTicket }
    const offered = await records.offerTicket(candidate, { reuse: true })
    try {
      const context = ticketContext(record, 'sealed_ticket', offered.ticketHash)
      return {
        ticket: sealer.open(offered.sealedTicket, context),
        expiresAt: offered.expiresAt,
      }
    } catch (error) {
      if (!isBrokerError(error, 'credential_corrupt')) throw error
      // A link that does not open must not stand in the way of connecting.
      const { expiresAt } = await records.offerTicket(candidate, { reuse: false })
      return { ticket, expiresAt }
    }
  }

  /** 256 random bits, of which the database gets the hash. */
  function newTicket(wanted: Omit<NewTicket, 'returnTo'>) {
    const { issuer, userId, upstream, scopes, claims } = wanted
    const ticket = new Secret(randomBytes(ticketBytes).toString('base64url'))
    const ticketHash = sha256(ticket.reveal())
    const sealedClaims = claims && sealer.seal(claims, ticketContext(wanted, 'claims', ticketHash))
    const claimsHash = claims && sha256(claims.reveal())
    return {
      ticket,
      record: { issuer, userId, upstream, scopes, ticketHash, sealedClaims, claimsHash },
    }
  }
}

function offerKey(wanted: Omit<NewTicket, 'returnTo'>): string {
  const { issuer, userId, upstream, scopes, claims } = wanted
  const claimsHash = claims && sha256(claims.reveal()).toString('base64url')
  return JSON.stringify([issuer, userId, upstream, scopes.toSorted(), claimsHash])
}

function ticketContext(
  key: CredentialKey,
  field: 'sealed_ticket' | 'claims',
  ticketHash: Uint8Array,
): SealingContext {
  const { issuer, userId, upstream } = key
  return { table: 'connect_ticket', field, issuer, userId, upstream, ticketHash }
}

function flowContext(key: CredentialKey, stateHash: Uint8Array): SealingContext {
  const { issuer, userId, upstream } = key
  return { table: 'connect_flow', field: 'code_verifier', issuer, userId, upstream, stateHash }
}

function sha256(text: string): Buffer {
  return hash('sha256', text, 'buffer')
}
