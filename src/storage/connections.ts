import postgres from 'postgres'
import { isOperatorError, OperatorError } from '../core/operator-error.ts'
import type { Secret } from '../core/secret.ts'
import { type DatabaseAddress, readDatabaseAddress } from './database-address.ts'
import { callDeadlineMs, withDeadline } from './deadline.ts'
import { toStorageFault } from './storage-fault.ts'

export type Sql = postgres.Sql<{ bigint: number }>

const connectTimeoutSeconds = 5
const reconnectPauseSeconds = 0.05
const oldestMajorVersion = 15

/** What a server's refusal to let us in means for the operator, by SQLSTATE. */
const refusals: Readonly<Record<string, string>> = {
  '28000': 'it refuses this user or this way of connecting (SQLSTATE 28000). See its pg_hba.conf.',
  '28P01': 'it refuses the user or the password in database.url (SQLSTATE 28P01).',
  '3D000': 'the database that database.url names does not exist (SQLSTATE 3D000). Create it first.',
  '53300':
    'it has no connection left (SQLSTATE 53300). Raise its max_connections or lower database.pool.',
}

const connectionSettings = {
  application_name: 'onbehalf',
  statement_timeout: 5000,
  lock_timeout: 2000,
  idle_in_transaction_session_timeout: 5000,
  TimeZone: 'UTC',
  DateStyle: 'ISO, YMD',
}

/** @throws OperatorError database_too_old, and what the driver throws */
export async function requireVersion(sql: Sql, address: DatabaseAddress) {
  const [row] = await withDeadline(
    () => sql<{ version: number }[]>`select current_setting('server_version_num')::int as version`,
    callDeadlineMs / 2,
  )
  const major = Math.floor((row?.version ?? 0) / 10_000)
  if (major < oldestMajorVersion) {
    throw new OperatorError(
      'database_too_old',
      `The database at ${address.label} is PostgreSQL ${major}; onbehalf needs ${oldestMajorVersion} or newer.`,
    )
  }
}

/** Why nobody gets in, for the operator. */
export function unreachable(address: DatabaseAddress, error: unknown): OperatorError {
  const fault = toStorageFault(error)
  const advice =
    refusals[fault.code ?? ''] ??
    `it does not answer (${fault.code ?? fault.name}). Is it running, and is database.url right?`
  return new OperatorError(
    'database_unreachable',
    `Cannot use the database at ${address.label}: ${advice}`,
    { cause: fault },
  )
}

/**
 * One connection without the time limits of calls; whoever uses it wraps its errors. PostgreSQL shows it as `onbehalf <purpose>`.
 * @throws OperatorError database_unreachable, database_too_old, database_url_invalid
 */
export async function connectOnce(url: Secret, purpose: string): Promise<Sql> {
  const address = readDatabaseAddress(url, () => {})
  const sql = postgres(address.url, {
    ...connectOptions(address, 1),
    max_lifetime: null,
    connection: { application_name: `onbehalf ${purpose}`, TimeZone: 'UTC' },
  })
  try {
    await requireVersion(sql, address)
    return sql
  } catch (error) {
    await sql.end({ timeout: 1 })
    throw isOperatorError(error) ? error : unreachable(address, error)
  }
}

/** Parameters of the server for a connection, such as `{ jit: 'off' }`. */
export type ConnectionSettings = Readonly<Record<string, string>>

type MoreOptions = {
  /** Called for every statement. */
  readonly onStatement?: (() => void) | undefined
  readonly settings?: ConnectionSettings | undefined
}

/** A pool of at most `max` connections; none is opened yet. */
export function connectPool(address: DatabaseAddress, max: number, more?: MoreOptions): Sql {
  return postgres(address.url, connectOptions(address, max, more))
}

/** One connection that stays, for LISTEN: `onNotice` gets the payload of every notification. It never comes back after `onClose`. */
export function connectListener(
  address: DatabaseAddress,
  on: { readonly onNotice: (payload: string) => void; readonly onClose: () => void },
): Sql {
  // The driver's own `sql.listen` reconnects by itself and forgets what failed; `onnotify` is what it is made of, and is not in the types.
  const listening = { onnotify: (_channel: string, payload: string) => on.onNotice(payload) }
  return postgres(address.url, {
    ...connectOptions(address, 1),
    ...listening,
    idle_timeout: 0,
    max_lifetime: null,
    connection: { ...connectionSettings, application_name: 'onbehalf notices' },
    onclose: on.onClose,
  })
}

function connectOptions(
  address: DatabaseAddress,
  max: number,
  { onStatement, settings }: MoreOptions = {},
) {
  return {
    socket: address.socket,
    max,
    connect_timeout: connectTimeoutSeconds,
    // How long a slot rests after its end. The default grows to 20 s, which the first call after an outage would wait for.
    backoff: () => reconnectPauseSeconds,
    // Asked for on every new connection otherwise, and a connection that dies meanwhile would end the process with an
    // unhandled rejection. Array types are built in and known (arrayTypes).
    fetch_types: false,
    onnotice: () => {},
    ...(onStatement === undefined ? {} : { debug: onStatement }),
    connection: { ...connectionSettings, ...settings },
    types: { bigint: { to: 20, from: [20], parse: Number, serialize: String } },
  }
}
