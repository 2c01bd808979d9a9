import { randomBytes } from 'node:crypto'
import type { SealingContext } from '../../src/core/ports/sealer.ts'
import type { Database } from '../../src/storage/database.ts'
import { sealedColumns } from '../../src/storage/sealed-columns.ts'

type Table = keyof typeof sealedColumns
type Place = { readonly issuer: string; readonly userId: string; readonly upstream: string }

/** Every table with sealed values, and which columns they are. */
export const sealedFields: Readonly<Record<Table, readonly string[]>> = sealedColumns

const issuer = 'https://login.example.com'

/**
 * Inserts a row with a value in each of its sealed columns, which `seal` makes for the place where it will stand; gives the
 * places.
 */
export async function insertSealedRow(
  { sql }: Database,
  table: string,
  seal: (context: SealingContext) => Uint8Array,
  place: Place = { issuer, userId: 'sealed-person', upstream: 'files' },
): Promise<readonly SealingContext[]> {
  const [next] = await sql<[{ generation: number }]>`
    SELECT nextval('credential_generation') AS generation`
  const { row, contexts } = rows[table as Table](place, next.generation)
  const values = Object.fromEntries(contexts.map((context) => [context.field, seal(context)]))
  await sql`INSERT INTO ${sql(table)} ${sql({ ...row, ...values })}`
  return contexts
}

type NewRow = {
  readonly row: Record<string, unknown>
  readonly contexts: readonly SealingContext[]
}

const now = new Date()
let keyNumber = 1_000_000
const grant = { authorization_server: 'https://as.example.com', client_id: 'onbehalf' }

const rows: { readonly [Each in Table]: (place: Place, generation: number) => NewRow } = {
  credential: (place, generation) => {
    return {
      row: {
        ...columnsOf(place),
        ...grant,
        generation,
        status: 'connected',
        method: 'connect',
        scopes: '{}',
        renewed: false,
        connected_at: now,
        obtained_at: now,
      },
      contexts: sealedColumns.credential.map((field) => ({
        table: 'credential',
        field,
        ...place,
        generation,
      })),
    }
  },
  connect_ticket: (place) => {
    const ticketHash = randomBytes(32)
    return {
      row: { ...columnsOf(place), ticket_hash: ticketHash, scopes: '{}', expires_at: now },
      contexts: sealedColumns.connect_ticket.map((field) => ({
        table: 'connect_ticket',
        field,
        ...place,
        ticketHash,
      })),
    }
  },
  connect_flow: (place) => {
    const stateHash = randomBytes(32)
    return {
      row: {
        ...columnsOf(place),
        ...grant,
        state_hash: stateHash,
        browser_hash: randomBytes(32),
        scopes: '{}',
        issuer_required: false,
        expires_at: now,
      },
      contexts: sealedColumns.connect_flow.map((field) => ({
        table: 'connect_flow',
        field,
        ...place,
        stateHash,
      })),
    }
  },
  gateway_session: (place) => {
    const idHash = randomBytes(32)
    return {
      row: {
        ...columnsOf(place),
        id_hash: idHash,
        initialize: {},
        revision: '2025-11-25',
        elicitations: '{}',
        used_at: now,
      },
      contexts: sealedColumns.gateway_session.map((field) => ({
        table: 'gateway_session',
        field,
        ...place,
        idHash,
      })),
    }
  },
  sign_in_flow: () => {
    const stateHash = randomBytes(32)
    return {
      row: { state_hash: stateHash, browser_hash: randomBytes(32), expires_at: now },
      contexts: sealedColumns.sign_in_flow.map((field) => ({
        table: 'sign_in_flow',
        field,
        stateHash,
      })),
    }
  },
  sign_in_token: ({ issuer: own, userId }, generation) => {
    return {
      row: { issuer: own, user_id: userId, generation },
      contexts: sealedColumns.sign_in_token.map((field) => ({
        table: 'sign_in_token',
        field,
        issuer: own,
        userId,
        generation,
      })),
    }
  },
  activity_signing_key: () => {
    const keyId = randomBytes(8).toString('hex')
    keyNumber += 1
    return {
      row: { key_id: keyId, number: keyNumber, public_key: 'x' },
      contexts: [{ table: 'activity_signing_key', field: 'private_key', keyId }],
    }
  },
  upstream_discovery: ({ userId }) => {
    const upstream = `of-${userId}-${randomBytes(4).toString('hex')}`
    const source = 'https://files.example.com/mcp'
    return {
      row: { upstream, source, found_at: now },
      contexts: [{ table: 'upstream_discovery', field: 'found', upstream, source }],
    }
  },
  client_registration: () => {
    const authorizationServer = `https://as-${randomBytes(4).toString('hex')}.example.com`
    const redirectUri = 'https://broker.example.com/callback/files'
    return {
      row: {
        authorization_server: authorizationServer,
        redirect_uri: redirectUri,
        client_id: 'x',
      },
      contexts: [
        { table: 'client_registration', field: 'client', authorizationServer, redirectUri },
      ],
    }
  },
}

function columnsOf({ issuer: own, userId, upstream }: Place) {
  return { issuer: own, user_id: userId, upstream }
}
