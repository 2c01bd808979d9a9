import { performance } from 'node:perf_hooks'
import type { BrokerConfig } from './config/broker-config.ts'
import type { EmbeddedResolver } from './core/embedded-resolver.ts'
import { OperatorError } from './core/operator-error.ts'
import { type HttpServer, startServer } from './http/server.ts'
import { type BrokerLog, silentLog } from './log.ts'
import { openStorage } from './storage/open-storage.ts'
import { version } from './version.ts'
import { type BrokerHooks, type ComposedBroker, compose } from './wiring/compose.ts'

/** A broker with its storage open: to be embedded, or to listen by itself. */
export type Broker = {
  /** The whole HTTP surface, for another server to mount. Its routes are absolute; `public_url` says where they are reached. */
  readonly app: { fetch(request: Request): Response | Promise<Response> }
  /** What `POST /api/v1/resolve` does, without HTTP and without a service key. */
  readonly resolver: EmbeddedResolver
  /** Listens as `listen` says; gives the address with the real port. @throws OperatorError cannot_listen */
  listen(): Promise<string>
  /** Stops accepting, finishes what is in flight (10 s at most), stores every accepted record, closes the database. */
  stop(): Promise<void>
}

const longestGraceMs = 10_000

/** What is promised and no setting, and shorter in tests. */
export type BrokerTimings = { readonly freshForMs?: number; readonly graceMs?: number }

/**
 * Opens the storage, checks the keys and joins the rooms. Takes `data_dir` for itself.
 * @throws OperatorError what the operator has to change, BrokerError storage_unavailable
 */
export async function openBroker(
  config: BrokerConfig,
  hooks: BrokerHooks = {},
  log: BrokerLog = silentLog,
  { graceMs = longestGraceMs, ...timings }: BrokerTimings = {},
): Promise<Broker> {
  const storage = await openStorage({
    dataDir: config.dataDir,
    url: config.database.url,
    pool: config.database.pool,
    retentionDays: config.audit.retentionDays,
    ...timings,
    log,
  })
  let made: ComposedBroker | undefined
  try {
    made = compose({ config, databases: storage, hooks, log, version })
    await made.keyCheck.verify()
    await made.recover()
    made.start()
    await storage.replica.join(storage)
    await made.proof.start()
  } catch (error) {
    // The thread that brings records to the database would keep a refused start from ending.
    await made?.stop(0)
    await storage.close()
    throw error
  }
  const composed = made
  const servers: HttpServer[] = []
  let stopping: Promise<void> | undefined

  async function listen(): Promise<string> {
    const { host, port, metrics } = config.listen
    const { app, gatewayDoors, metricsApp } = composed
    const server = await listenAt({ fetch: app.fetch, gatewayDoors, host, port })
    servers.push(server)
    if (metrics !== undefined && metricsApp !== undefined) {
      const fetch = (request: Request) => metricsApp.fetch(request)
      servers.push(await listenAt({ fetch, ...metrics }))
    }
    void composed.warmUp()
    return `http://${server.host.includes(':') ? `[${server.host}]` : server.host}:${server.port}`
  }

  async function stop(): Promise<void> {
    const graceEndsAt = performance.now() + graceMs
    composed.endStreams()
    await Promise.all(servers.map((server) => server.close(graceMs)))
    await composed.stop(Math.max(0, graceEndsAt - performance.now()))
    await storage.close()
  }

  return {
    app: composed.app,
    resolver: composed.resolver,
    listen,
    stop() {
      stopping ??= stop()
      return stopping
    },
  }
}

const listenFaults: Readonly<Record<string, string>> = {
  EADDRINUSE: 'another process is using that port',
  EADDRNOTAVAIL: 'this machine does not have that address',
  EACCES: 'this user may not use that port',
  ENOTFOUND: 'that name is unknown',
}

async function listenAt(options: Parameters<typeof startServer>[0]): Promise<HttpServer> {
  try {
    return await startServer(options)
  } catch (error) {
    const { code = 'error' } = error as NodeJS.ErrnoException
    const why = listenFaults[code] ?? 'the system refuses it'
    throw new OperatorError(
      'cannot_listen',
      `Cannot listen on ${options.host} port ${options.port}: ${why} (${code}). Change listen.host, listen.port or listen.metrics, and public_url where it names the port.`,
      { cause: error },
    )
  }
}
