import { readFile, rename, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import { basename, dirname } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { isOperatorError, OperatorError } from '../../core/operator-error.ts'
import type { Secret } from '../../core/secret.ts'
import {
  claimDataDirectory,
  type DataDirectory,
  isDataDirectoryClaimed,
} from '../data-directory.ts'
import type { StorageLog } from '../storage-log.ts'
import { findBinaries } from './binaries.ts'
import { hasBorrowers, showBorrower } from './borrowers.ts'
import {
  type ClusterPaths,
  clusterPaths,
  makeSocketDirectory,
  prepareCluster,
  readPassword,
  socketUrl,
} from './cluster.ts'
import { findOperatingUser } from './operating-user.ts'
import { clearLeftovers, type ServerProcess, startServer } from './server-process.ts'

/** A PostgreSQL of our own. */
export type EmbeddedPostgres = {
  /** For openDatabase and for libpq; holds the password. The same for as long as it runs. */
  readonly url: Secret
  readonly stop: () => Promise<void>
}

const firstRetryMs = 50
const longestRetryMs = 5000
const startOfAnotherMs = 20_000
const showBorrowerMs = 2000
const borrowedPollMs = 100
const pollMs = 50

/**
 * Starts PostgreSQL in a data directory that this process has claimed, and keeps it running: when it dies it is started
 * anew, and calls fail with storage_unavailable meanwhile.
 * @throws OperatorError embedded_unsupported, embedded_incomplete, embedded_no_user, embedded_no_access, embedded_failed
 */
export async function startEmbedded(options: {
  readonly directory: DataDirectory
  readonly log: StorageLog
  /** Of postgresql.conf, over our own: tests run without fsync. */
  readonly settings?: Readonly<Record<string, string>>
}): Promise<EmbeddedPostgres> {
  const { directory, log } = options
  const startedAt = Date.now()
  const paths = clusterPaths(directory.path)
  try {
    const { start, url, socketDirectory } = await prepare(options, paths)
    const supervised = await supervise(start, log)
    await writeState(paths, { socketDirectory })
    log.info({ event: 'database_started', duration_ms: Date.now() - startedAt })
    return {
      url,
      async stop() {
        await supervised.stop()
        await forgetState(paths)
      },
    }
  } catch (error) {
    if (isOperatorError(error)) throw error
    const { code = 'error', path = paths.cluster } = error as NodeJS.ErrnoException
    throw new OperatorError(
      'embedded_failed',
      `The embedded database could not be started: ${path} cannot be used (${code}).`,
      { cause: error },
    )
  }
}

/** Everything up to the first start: programs, user, files. */
async function prepare(options: Parameters<typeof startEmbedded>[0], paths: ClusterPaths) {
  const binaries = await findBinaries()
  const user = await findOperatingUser({
    program: binaries.postgres,
    dataDir: options.directory.path,
    clusterDir: paths.cluster,
  })
  if (user.capability !== undefined) {
    options.log.warn({ event: 'database_has_capability', capability: user.capability })
  }
  await forgetState(paths)
  await clearLeftovers(paths)
  const password = await prepareCluster(paths, binaries, user)
  const socketDirectory = await makeSocketDirectory(paths, user)
  const overrides = options.settings ?? {}
  const start = async () => {
    await clearLeftovers(paths)
    return startServer({ paths, binaries, user, socketDirectory, overrides })
  }
  return { start, url: socketUrl(socketDirectory, password), socketDirectory }
}

/** Right after a crash the old server's last processes may still hold its memory, so the first start is tried again too. */
async function supervise(
  start: () => Promise<ServerProcess>,
  log: StorageLog,
): Promise<{ readonly stop: () => Promise<void> }> {
  const stopping = new AbortController()
  let server = await retrying(start, 3)

  async function keepRunning(): Promise<void> {
    for (;;) {
      await server.ended
      if (stopping.signal.aborted) return
      log.warn({ event: 'database_died' })
      const diedAt = Date.now()
      const next = await retrying(start, Number.POSITIVE_INFINITY, {
        signal: stopping.signal,
        onFailure: (retryMs) => log.warn({ event: 'database_restart_failed', retry_ms: retryMs }),
      }).catch(() => undefined)
      if (next === undefined) return
      server = next
      // It came up while we were told to stop.
      if (stopping.signal.aborted) return
      log.info({ event: 'database_restarted', duration_ms: Date.now() - diedAt })
    }
  }

  const running = keepRunning()
  return {
    async stop() {
      stopping.abort()
      await server.stop()
      await running
      await server.stop()
    },
  }
}

async function retrying(
  start: () => Promise<ServerProcess>,
  attempts: number,
  options: { readonly signal?: AbortSignal; readonly onFailure?: (retryMs: number) => void } = {},
): Promise<ServerProcess> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await start()
    } catch (error) {
      if (attempt >= attempts || options.signal?.aborted === true) throw error
      const retryMs = Math.min(firstRetryMs * 2 ** attempt, longestRetryMs)
      options.onFailure?.(retryMs)
      await sleep(retryMs)
      options.signal?.throwIfAborted()
    }
  }
}

/**
 * The address of the embedded database of a running broker or command; undefined when none runs on this directory, or it
 * is not ready yet, or about to stop.
 */
export async function findRunningEmbedded(dataDir: string): Promise<Secret | undefined> {
  if (!(await isDataDirectoryClaimed(dataDir))) return undefined
  const paths = clusterPaths(dataDir)
  const state = await readState(paths)
  const password = await readPassword(paths)
  if (state === undefined || state.isStopping === true || password === undefined) return undefined
  return socketUrl(state.socketDirectory, password)
}

/**
 * The embedded database for a command: that of the broker that runs on this directory, else one started for this command
 * and stopped after it.
 * @throws OperatorError as startEmbedded and claimDataDirectory
 */
export async function borrowEmbedded(options: {
  readonly dataDir: string
  readonly log: StorageLog
}): Promise<EmbeddedPostgres & { readonly borrowed: boolean }> {
  const { dataDir } = options
  let giveUpAt = Date.now() + startOfAnotherMs
  let silentSince: number | undefined
  for (;;) {
    const url = await findRunningEmbedded(dataDir)
    if (url !== undefined) {
      const stop = await showBorrower(url)
      // Asked again: who is about to stop it notes that first and looks for borrowers then, so that one of us sees the other.
      if (stop !== undefined && (await findRunningEmbedded(dataDir)) !== undefined) {
        return { url, stop, borrowed: true }
      }
      await stop?.()
      silentSince = stop === undefined ? (silentSince ?? Date.now()) : undefined
      // Of a broker whose database has died: what is asked of it says so.
      if (silentSince !== undefined && Date.now() > silentSince + showBorrowerMs) {
        return { url, stop: async () => {}, borrowed: true }
      }
      // However long the others before us took: it is the next one's start that is waited for.
      giveUpAt = Date.now() + startOfAnotherMs
      await sleep(pollMs)
      continue
    }
    silentSince = undefined
    try {
      return { ...(await startForOneself(options)), borrowed: false }
    } catch (error) {
      // Somebody has just taken the directory and is starting the database.
      if (!isOperatorError(error, 'data_dir_in_use') || Date.now() > giveUpAt) throw error
      await sleep(pollMs)
    }
  }
}

async function startForOneself(options: {
  readonly dataDir: string
  readonly log: StorageLog
}): Promise<EmbeddedPostgres> {
  const directory = await claimDataDirectory(options.dataDir)
  try {
    const embedded = await startEmbedded({ directory, log: options.log })
    return {
      url: embedded.url,
      async stop() {
        await untilNobodyBorrows(clusterPaths(directory.path), embedded.url)
        await embedded.stop()
        await directory.release()
      },
    }
  } catch (error) {
    await directory.release()
    throw error
  }
}

/** Notes that the database is about to stop once no other command uses it. */
async function untilNobodyBorrows(paths: ClusterPaths, url: Secret): Promise<void> {
  const state = await readState(paths)
  if (state === undefined) return
  for (;;) {
    while (await hasBorrowers(url)) await sleep(borrowedPollMs)
    await writeState(paths, { ...state, isStopping: true })
    if (!(await hasBorrowers(url))) return
    await writeState(paths, state)
  }
}

type State = { readonly socketDirectory: string; readonly isStopping?: boolean }

async function writeState(paths: ClusterPaths, state: State): Promise<void> {
  await writeFile(`${paths.state}.new`, JSON.stringify(state), { mode: 0o600 })
  await rename(`${paths.state}.new`, paths.state)
}

async function readState(paths: ClusterPaths): Promise<State | undefined> {
  try {
    return JSON.parse(await readFile(paths.state, 'utf8')) as State
  } catch {
    return undefined
  }
}

/** Removes the note of where the server listens, and the directory of its socket where that lay outside. */
async function forgetState(paths: ClusterPaths): Promise<void> {
  const state = await readState(paths)
  if (state !== undefined && isTemporary(state.socketDirectory)) {
    await rm(state.socketDirectory, { recursive: true, force: true })
  }
  await rm(paths.state, { force: true })
}

/** Whether makeSocketDirectory made it: nothing else is ever removed on the word of a file. */
function isTemporary(directory: string): boolean {
  return dirname(directory) === os.tmpdir() && /^onbehalf-[A-Za-z0-9]{6}$/.test(basename(directory))
}
