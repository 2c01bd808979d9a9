import { drizzle, type PostgresJsDatabase } from 'drizzle-orm/postgres-js'
import { isBrokerError } from '../core/errors.ts'
import { isOperatorError } from '../core/operator-error.ts'
import type { Secret } from '../core/secret.ts'
import { waitAtMost } from '../core/wait-at-most.ts'
import {
  type ConnectionSettings,
  connectPool,
  requireVersion,
  type Sql,
  unreachable,
} from './connections.ts'
import { readDatabaseAddress } from './database-address.ts'
import { callDeadlineMs, callTimedOut, withDeadline } from './deadline.ts'
import { startHeartbeat } from './heartbeat.ts'
import { useNativeTypes } from './native-types.ts'
import * as schema from './schema/index.ts'
import { sqlStates } from './sql-states.ts'
import { rootOf, StorageFault, storageUnavailable } from './storage-fault.ts'
import { trackSockets } from './tracked-sockets.ts'

/** A pool of connections to PostgreSQL. */
export type Database = {
  /** drizzle over the pool, for statements inside `run`. They read and write `Date`, `number` and `Buffer`. */
  readonly db: PostgresJsDatabase<typeof schema>
  /**
   * postgres.js over the same pool, inside `run` too, for what drizzle cannot say. timestamptz comes as Date, bigint as number, bytea as
   * Buffer. Bind an array with `${sql.array(values)}` and a cast, `::text[]`. Never call `sql.begin`: it does not
   * survive a connection that dies inside it.
   */
  readonly sql: Sql

  /**
   * Runs one statement: `database.run(() => db.select()…)`. The callback is called again when its statement was not sent.
   * @throws BrokerError storage_unavailable on every failure; its cause says what kind, never with a value. A
   * BrokerError of the callback passes.
   */
  readonly run: <T>(statement: () => PromiseLike<T>) => Promise<T>

  /** How many statements were sent, heartbeats excepted; 0 without `countStatements`. */
  readonly statementCount: () => number
  /** Waits up to 5 s for running statements, then ends every connection, also of the pools opened together with it. */
  readonly close: () => Promise<void>
}

const closeWithinMs = 5000
const farewellMs = 500
const beatDeadlineMs = 5000

/** What is asked again and again on a connection of its own, so that a pool that is busy does not look like a database that is gone. */
export type Beat = {
  readonly everyMs: number
  readonly ask: (sql: Sql) => Promise<'again' | 'later'>
  /** Gets what makes it ask at once. */
  readonly onStart: (askNow: () => void) => void
}

const plainBeat: Beat = {
  everyMs: 2000,
  async ask(sql) {
    await sql`select 1`.simple()
    return 'later'
  },
  onStart: () => {},
}

/**
 * Opens one pool. `countStatements` is for tests and the bench: it makes the driver's errors list their parameters.
 * @throws as openDatabases
 */
export async function openDatabase(options: {
  readonly url: Secret
  /** How many connections at most; one more is used for the heartbeat. */
  readonly pool: number
  readonly countStatements?: boolean
}): Promise<Database> {
  const { pool, ...others } = options
  const { database } = await openDatabases({ ...others, pools: { database: pool } })
  return database
}

/**
 * Opens pools on one database, so that what is slow in one keeps nobody waiting in another, and waits for its first
 * answer. They share the heartbeat.
 * @throws OperatorError within 15 s: database_unreachable, database_too_old, database_url_invalid
 */
export async function openDatabases<Name extends string>(options: {
  readonly url: Secret
  /** How many connections each has at most. */
  readonly pools: Readonly<Record<Name, number>>
  /** Of the connections of single pools. */
  readonly settings?: Readonly<Partial<Record<Name, ConnectionSettings>>>
  /** Default: whether it is there, every 2 s. */
  readonly beat?: Beat
  readonly countStatements?: boolean
}): Promise<Readonly<Record<Name, Database>>> {
  const sockets = trackSockets()
  const address = readDatabaseAddress(options.url, sockets.add)
  const beatSql = connectPool(address, 1)
  const beat = options.beat ?? plainBeat
  const heartbeat = startHeartbeat({
    everyMs: beat.everyMs,
    async beat() {
      sockets.mark()
      await sockets.settled()
      return withDeadline(() => beat.ask(beatSql), beatDeadlineMs)
    },
    onFailure(error) {
      // Half-open connections: nothing comes back, and nothing says so.
      if (error instanceof StorageFault && error.code === callTimedOut) sockets.destroySilent()
    },
  })
  try {
    await heartbeat.first
    await requireVersion(beatSql, address)
  } catch (error) {
    heartbeat.stop()
    await beatSql.end({ timeout: 1 })
    throw isOperatorError(error) ? error : unreachable(address, error)
  }
  beat.onStart(heartbeat.beatNow)

  const opened: Sql[] = [beatSql]
  const running = new Set<Promise<unknown>>()
  const close = async () => {
    heartbeat.stop()
    // The driver would wait for statements that it has long reported as failed, so the waiting is done here.
    await waitAtMost(Promise.allSettled(running), closeWithinMs)
    await Promise.all(opened.map((sql) => sql.end({ timeout: 0 })))
    // A server that does not answer the farewell would keep the process alive.
    setTimeout(sockets.destroyAll, farewellMs).unref()
  }

  const runStatement = async <T>(statement: () => PromiseLike<T>, slots: number): Promise<T> => {
    for (let attempt = 0; ; attempt += 1) {
      try {
        await sockets.settled()
        return withoutHoles(await withDeadline(statement, callDeadlineMs))
      } catch (error) {
        if (isBrokerError(error)) throw error
        if (attempt < slots && wasNeverSent(error)) continue
        throw storageUnavailable(error)
      }
    }
  }

  const openPool = (max: number, settings: ConnectionSettings | undefined): Database => {
    let statements = 0
    const count = () => {
      statements += 1
    }
    const onStatement = options.countStatements === true ? count : undefined
    const sql = connectPool(address, max, { onStatement, settings })
    opened.push(sql)
    const db = drizzle(sql, { schema })
    useNativeTypes(sql)
    return {
      db,
      sql,
      run(statement) {
        const call = runStatement(statement, max)
        running.add(call)
        const forget = () => running.delete(call)
        call.then(forget, forget)
        return call
      },
      statementCount: () => statements,
      close,
    }
  }

  const databases = Object.entries<number>(options.pools).map(([name, max]) => [
    name,
    openPool(max, options.settings?.[name as Name]),
  ])
  return Object.fromEntries(databases) as Record<Name, Database>
}

/**
 * postgres.js counts rows on from a statement that failed after it had sent some: the next answer on that connection begins with
 * as many holes, and its reader would find no row where there is one.
 */
function withoutHoles<T>(answer: T): T {
  if (!Array.isArray(answer) || answer.length === 0 || 0 in answer) return answer
  const first = answer.findIndex((_, index) => index in answer)
  answer.splice(0, first === -1 ? answer.length : first)
  return answer
}

/**
 * The server's farewell (`terminating connection due to administrator command`) reaches a caller only through a slip of
 * postgres.js: the statement that it cut off fails as CONNECTION_CLOSED, and the farewell stays and fails the one that
 * connects the slot anew, before it is sent. So that one may be sent again, and once a slot is often enough.
 */
function wasNeverSent(error: unknown): boolean {
  const { code, severity } = rootOf(error) as { code?: unknown; severity?: unknown }
  return (
    severity === 'FATAL' && (code === sqlStates.adminShutdown || code === sqlStates.crashShutdown)
  )
}
