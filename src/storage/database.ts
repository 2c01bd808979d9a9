import { drizzle, type PostgresJsDatabase } from 'drizzle-orm/postgres-js'
import postgres from 'postgres'
import { isBrokerError } from '../core/errors.ts'
import { isOperatorError, OperatorError } from '../core/operator-error.ts'
import type { Secret } from '../core/secret.ts'
import { ARRAY_TYPES, parseArray, serializeArray } from './array-codec.ts'
import { type DatabaseAddress, readDatabaseAddress } from './database-address.ts'
import { startHeartbeat } from './heartbeat.ts'
import * as schema from './schema/index.ts'
import { StorageFault, storageUnavailable, toStorageFault } from './storage-fault.ts'
import { trackSockets } from './tracked-sockets.ts'

/** A pool of connections to PostgreSQL, and how lately it was heard from. */
export type Database = {
  /** drizzle over the pool. Builder queries read and write `Date`, `number` and `Buffer`. */
  readonly db: PostgresJsDatabase<typeof schema>
  /**
   * postgres.js over the same pool, for what drizzle cannot say. timestamptz comes as Date, bigint as number, bytea as
   * Buffer. Bind an array with `${sql.array(values)}` and a cast, `::text[]`. Never call `sql.begin`: it does not
   * survive a connection that dies inside it.
   */
  readonly sql: postgres.Sql<{ bigint: number }>

  /**
   * Runs one statement: `database.run(() => db.select()…)`.
   * @throws BrokerError storage_unavailable on every failure; its cause says what kind, never with a value. A
   * BrokerError of the callback passes.
   */
  readonly run: <T>(statement: () => PromiseLike<T>) => Promise<T>

  /** When the last probe that was answered was sent, in ms of `performance.now()`. */
  readonly lastHeardAt: () => number
  /** False when the database was not heard from for 10 s: nothing may be served from memory then. One comparison. */
  readonly isFresh: () => boolean
  /** How many statements were sent, probes excepted; 0 without `countStatements`. */
  readonly statementCount: () => number
  /** Waits up to 5 s for running statements, then ends every connection. */
  readonly close: () => Promise<void>
}

export type DatabaseOptions = {
  readonly url: Secret
  /** How many connections at most; one more is used to probe. */
  readonly pool: number
  /** For tests and the bench. It makes the driver's errors list their parameters, so never in service. */
  readonly countStatements?: boolean
}

/** Longer than statement_timeout, so it ends a call only when the server or the network does not answer at all. */
const CALL_DEADLINE_MS = 10_000
const CONNECT_TIMEOUT_SECONDS = 5
const CLOSE_TIMEOUT_SECONDS = 5
const OLDEST_MAJOR_VERSION = 15

/** What a server's refusal to let us in means for the operator, by SQLSTATE. */
const REFUSALS: Readonly<Record<string, string>> = {
  '28000': 'it refuses this user or this way of connecting (SQLSTATE 28000). See its pg_hba.conf.',
  '28P01': 'it refuses the user or the password in database.url (SQLSTATE 28P01).',
  '3D000': 'the database that database.url names does not exist (SQLSTATE 3D000). Create it first.',
  '53300':
    'it has no connection left (SQLSTATE 53300). Raise its max_connections or lower database.pool.',
}

const CONNECTION_SETTINGS = {
  application_name: 'onbehalf',
  statement_timeout: 5000,
  lock_timeout: 2000,
  idle_in_transaction_session_timeout: 5000,
  TimeZone: 'UTC',
  DateStyle: 'ISO, YMD',
}

/**
 * Opens the pool and waits for the first answer.
 * @throws OperatorError within 15 s: database_unreachable, database_too_old, database_url_invalid.
 */
export async function openDatabase(options: DatabaseOptions): Promise<Database> {
  const sockets = trackSockets()
  const address = readDatabaseAddress(options.url, sockets.add)
  let statements = 0
  const count = () => {
    statements += 1
  }
  const sql = connect(address, options.pool, options.countStatements === true ? count : undefined)
  const db = drizzle(sql, { schema })
  useNativeTypes(sql)
  const probeSql = connect(address, 1, undefined)

  const heartbeat = startHeartbeat({
    probe: () => withDeadline(() => probeSql`select 1`.simple(), CALL_DEADLINE_MS / 2),
    beforeProbe: sockets.mark,
    onFailure: sockets.destroySilent,
  })

  const close = async () => {
    heartbeat.stop()
    await Promise.all([sql.end({ timeout: CLOSE_TIMEOUT_SECONDS }), probeSql.end({ timeout: 1 })])
  }

  try {
    await heartbeat.first
    await requireVersion(probeSql, address)
  } catch (error) {
    await close()
    throw isOperatorError(error) ? error : unreachable(address, error)
  }

  return {
    db,
    sql,
    async run(statement) {
      try {
        await sockets.settled()
        return await withDeadline(statement, CALL_DEADLINE_MS)
      } catch (error) {
        if (isBrokerError(error)) throw error
        throw storageUnavailable(error)
      }
    },
    lastHeardAt: heartbeat.lastHeardAt,
    isFresh: heartbeat.isFresh,
    statementCount: () => statements,
    close,
  }
}

async function requireVersion(sql: postgres.Sql<{ bigint: number }>, address: DatabaseAddress) {
  const [row] = await withDeadline(
    () => sql<{ version: number }[]>`select current_setting('server_version_num')::int as version`,
    CALL_DEADLINE_MS / 2,
  )
  const major = Math.floor((row?.version ?? 0) / 10_000)
  if (major < OLDEST_MAJOR_VERSION) {
    throw new OperatorError(
      'database_too_old',
      `The database at ${address.label} is PostgreSQL ${major}; onbehalf needs ${OLDEST_MAJOR_VERSION} or newer.`,
    )
  }
}

function unreachable(address: DatabaseAddress, error: unknown): OperatorError {
  const fault = toStorageFault(error)
  const advice =
    REFUSALS[fault.code ?? ''] ??
    `it does not answer (${fault.code ?? fault.name}). Is it running, and is database.url right?`
  return new OperatorError(
    'database_unreachable',
    `Cannot use the database at ${address.label}: ${advice}`,
    { cause: fault },
  )
}

/**
 * One connection without the time limits of calls, for migrations; whoever uses it wraps its errors.
 * @throws OperatorError database_unreachable, database_too_old, database_url_invalid
 */
export async function connectOnce(url: Secret): Promise<postgres.Sql<{ bigint: number }>> {
  const address = readDatabaseAddress(url, () => {})
  const sql = postgres(address.url, {
    ...connectOptions(address, 1, undefined),
    max_lifetime: null,
    connection: { application_name: 'onbehalf migrate', TimeZone: 'UTC' },
  })
  try {
    await requireVersion(sql, address)
    return sql
  } catch (error) {
    await sql.end({ timeout: 1 })
    throw isOperatorError(error) ? error : unreachable(address, error)
  }
}

function connect(address: DatabaseAddress, max: number, onStatement: (() => void) | undefined) {
  return postgres(address.url, connectOptions(address, max, onStatement))
}

function connectOptions(
  address: DatabaseAddress,
  max: number,
  onStatement: (() => void) | undefined,
) {
  return {
    socket: address.socket,
    max,
    connect_timeout: CONNECT_TIMEOUT_SECONDS,
    // The default grows to 20 s, which the first call after an outage would wait for.
    backoff: (attempt: number) => Math.min(0.02 * 2 ** attempt, 0.5),
    // Asked for on every new connection otherwise, and a connection that dies meanwhile would end the process with an
    // unhandled rejection. Array types are built in and known (ARRAY_TYPES).
    fetch_types: false,
    onnotice: () => {},
    ...(onStatement === undefined ? {} : { debug: onStatement }),
    connection: CONNECTION_SETTINGS,
    types: { bigint: { to: 20, from: [20], parse: Number, serialize: String } },
  }
}

/** drizzle switches off the codecs of dates and JSON for the whole client; raw statements need them. */
function useNativeTypes(sql: postgres.Sql<{ bigint: number }>) {
  const { parsers, serializers } = sql.options
  const serializeInstant = (value: unknown) =>
    value instanceof Date ? value.toISOString() : String(value)
  // drizzle hands in JSON as text already.
  const serializeJson = (value: unknown) =>
    typeof value === 'string' ? value : JSON.stringify(value)
  parsers[1184] = (value: string) => new Date(value)
  serializers[1184] = serializeInstant
  serializers[114] = serializeJson
  serializers[3802] = serializeJson

  // Not in the types, and what sql.array() looks its element type up in.
  const { typeArrayMap } = (
    sql.options as unknown as { shared: { typeArrayMap: Record<number, number> } }
  ).shared
  for (const { element, array } of ARRAY_TYPES) {
    const parse = parsers[element] ?? String
    const serialize = serializers[element] ?? String
    parsers[array] = (text: string) => parseArray(text, parse)
    serializers[array] = (value) => serializeArray(value, (item) => String(serialize(item)))
    typeArrayMap[element] = array
  }
}

async function withDeadline<T>(statement: () => PromiseLike<T>, ms: number): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const deadline = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new StorageFault('CALL_TIMEOUT', 'no answer in time')), ms)
  })
  try {
    return await Promise.race([statement(), deadline])
  } finally {
    clearTimeout(timer)
  }
}
