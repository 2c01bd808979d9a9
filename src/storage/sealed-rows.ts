import type { CredentialKey } from '../core/credential.ts'
import type {
  ResealedRow,
  SealedRowKey,
  SealedRows,
  SealedTable,
  SealedValue,
} from '../core/ports/sealed-rows.ts'
import type { SealingContext } from '../core/ports/sealer.ts'
import type { Database } from './database.ts'
import { sealedColumns } from './sealed-columns.ts'

/** How many rows are looked at in one statement, and changed in one: that holds their locks for some 20 ms. */
const windowRows = 200

/** The columns that say where a value stands; only those of its table are there. */
type PlaceRow = {
  readonly issuer: string
  readonly user_id: string
  readonly upstream: string
  readonly generation: number
  readonly ticket_hash: Buffer
  readonly state_hash: Buffer
  readonly id_hash: Buffer
  readonly key_id: string
  readonly source: string
  readonly authorization_server: string
  readonly redirect_uri: string
}

type PlaceColumn = keyof PlaceRow

type WindowRow = PlaceRow & Readonly<Record<string, unknown>>

type FieldOf<Table extends SealedTable> = Extract<SealingContext, { table: Table }>['field']

/** A table as the statements below need it. */
type Shape = {
  readonly table: SealedTable
  readonly fields: readonly string[]
  /** The primary key, in its order. */
  readonly key: readonly PlaceColumn[]
  /** What else is bound into its values. */
  readonly bound: readonly PlaceColumn[]
  readonly valuesOf: (row: WindowRow) => readonly SealedValue[]
}

const fieldsOf: { readonly [Table in SealedTable]: readonly FieldOf<Table>[] } = sealedColumns

const shapes: Readonly<Record<SealedTable, Shape>> = {
  credential: shape('credential', {
    key: ['issuer', 'user_id', 'upstream'],
    bound: ['generation'],
    contextOf: (row, field) => {
      const { generation } = row
      return { table: 'credential', field, ...connectionOf(row), generation }
    },
  }),
  connect_ticket: shape('connect_ticket', {
    key: ['ticket_hash'],
    bound: ['issuer', 'user_id', 'upstream'],
    contextOf: (row, field) => {
      const ticketHash = row.ticket_hash
      return { table: 'connect_ticket', field, ...connectionOf(row), ticketHash }
    },
  }),
  connect_flow: shape('connect_flow', {
    key: ['state_hash'],
    bound: ['issuer', 'user_id', 'upstream'],
    contextOf: (row, field) => {
      const stateHash = row.state_hash
      return { table: 'connect_flow', field, ...connectionOf(row), stateHash }
    },
  }),
  gateway_session: shape('gateway_session', {
    key: ['id_hash'],
    bound: ['issuer', 'user_id', 'upstream'],
    contextOf: (row, field) => {
      return { table: 'gateway_session', field, ...connectionOf(row), idHash: row.id_hash }
    },
  }),
  sign_in_flow: shape('sign_in_flow', {
    key: ['state_hash'],
    bound: [],
    contextOf: (row, field) => ({ table: 'sign_in_flow', field, stateHash: row.state_hash }),
  }),
  sign_in_token: shape('sign_in_token', {
    key: ['issuer', 'user_id'],
    bound: ['generation'],
    contextOf: (row, field) => {
      const { issuer, user_id: userId, generation } = row
      return { table: 'sign_in_token', field, issuer, userId, generation }
    },
  }),
  activity_signing_key: shape('activity_signing_key', {
    key: ['key_id'],
    bound: [],
    contextOf: (row, field) => ({ table: 'activity_signing_key', field, keyId: row.key_id }),
  }),
  upstream_discovery: shape('upstream_discovery', {
    key: ['upstream'],
    bound: ['source'],
    contextOf: ({ upstream, source }, field) => {
      return { table: 'upstream_discovery', field, upstream, source }
    },
  }),
  client_registration: shape('client_registration', {
    key: ['authorization_server', 'redirect_uri'],
    bound: [],
    contextOf: (row, field) => ({
      table: 'client_registration',
      field,
      authorizationServer: row.authorization_server,
      redirectUri: row.redirect_uri,
    }),
  }),
}

const oidOf = { bytea: 17, text: 25 } as const

export function createSealedRows(database: Database): SealedRows {
  const { run, sql } = database
  return {
    tables: Object.values(shapes).map(({ table }) => table),

    async window(table, { head, after }) {
      const { key, valuesOf } = shapes[table]
      const statement = windowStatement(shapes[table], after !== undefined)
      const rows = await run(() =>
        sql.unsafe<WindowRow[]>(statement, [head, ...(after ?? [])], { prepare: true }),
      )
      const found = rows.map((row) => ({
        key: key.map((column) => row[column]) as SealedRowKey,
        values: valuesOf(row),
      }))
      return {
        rows: found.filter(({ values }) => values.length > 0),
        next: found.length < windowRows ? undefined : found.at(-1)?.key,
      }
    },

    async replace(table, rows) {
      if (rows.length === 0) return 0
      const { fields, key } = shapes[table]
      const valueOf = (row: ResealedRow, field: string) =>
        row.values.find(({ context }) => context.field === field)
      const columns = [
        ...key.map((column, at) => {
          const oid = oidOf[typeOf(column)]
          return sql.array(
            rows.map((row) => row.key[at] ?? null),
            oid,
          )
        }),
        ...fields.flatMap((field) => [
          sql.array(
            rows.map((row) => valueOf(row, field)?.sealed ?? null),
            oidOf.bytea,
          ),
          sql.array(
            rows.map((row) => valueOf(row, field)?.resealed ?? null),
            oidOf.bytea,
          ),
        ]),
      ]
      const changed = await run(() =>
        sql.unsafe(replaceStatement(shapes[table]), columns, { prepare: true }),
      )
      return changed.count
    },
  }
}

/** Only so many rows are looked at, whether or not they are due: a table that is done stays quick to go through. */
function windowStatement({ table, key, bound, fields }: Shape, continued: boolean): string {
  const keyColumns = key.join(', ')
  const after = key.map((column, at) => `$${at + 2}::${typeOf(column)}`).join(', ')
  const due = fields.map(
    (field) =>
      `CASE WHEN substring(${field} FROM 1 FOR length($1::bytea)) <> $1 THEN ${field} END AS ${field}`,
  )
  return `
    SELECT ${[...key, ...bound, ...due].join(', ')} FROM ${table}
    ${continued ? `WHERE (${keyColumns}) > (${after})` : ''}
    ORDER BY ${keyColumns} LIMIT ${windowRows}`
}

/**
 * The rows are locked first and those that are not to be had passed over: a refresh never waits for another row of the batch,
 * and two of these at once never for each other. What is compared is the old bytes. No two sealed values are alike, so a
 * renewal that came in between, with its new generation, is never overwritten.
 */
function replaceStatement({ table, key, fields }: Shape): string {
  const names = [
    ...key.map((_, at) => `key${at}`),
    ...fields.flatMap((f) => [`old_${f}`, `new_${f}`]),
  ]
  const types = [...key.map(typeOf), ...fields.flatMap(() => ['bytea', 'bytea'] as const)]
  const isSame = [
    ...key.map((column, at) => `${table}.${column} = due.key${at}`),
    ...fields.map((f) => `(due.old_${f} IS NULL OR ${table}.${f} = due.old_${f})`),
  ].join(' AND ')
  return `
    WITH resealed AS (
      SELECT * FROM unnest(${types.map((type, at) => `$${at + 1}::${type}[]`).join(', ')})
        AS due (${names.join(', ')})
    ), due AS (
      SELECT due.* FROM ${table} JOIN resealed AS due ON ${isSame} FOR UPDATE OF ${table} SKIP LOCKED
    )
    UPDATE ${table} SET ${fields.map((f) => `${f} = coalesce(due.new_${f}, ${table}.${f})`).join(', ')}
    FROM due WHERE ${isSame}`
}

function shape<Table extends SealedTable>(
  table: Table,
  parts: Pick<Shape, 'key' | 'bound'> & {
    readonly contextOf: (row: PlaceRow, field: FieldOf<Table>) => SealingContext
  },
): Shape {
  const fields = fieldsOf[table]
  return {
    table,
    fields,
    key: parts.key,
    bound: parts.bound,
    valuesOf: (row) =>
      fields.flatMap((field) => {
        const sealed = row[field]
        if (!(sealed instanceof Uint8Array)) return []
        return [{ context: parts.contextOf(row, field), sealed }]
      }),
  }
}

function typeOf(column: PlaceColumn): 'bytea' | 'text' {
  return column.endsWith('_hash') ? 'bytea' : 'text'
}

function connectionOf({ issuer, user_id: userId, upstream }: PlaceRow): CredentialKey {
  return { issuer, userId, upstream }
}
