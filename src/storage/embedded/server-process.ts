import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { open, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { OperatorError } from '../../core/operator-error.ts'
import type { Binaries } from './binaries.ts'
import { type ClusterPaths, socketPort } from './cluster.ts'
import { databaseEnvironment, type OperatingUser } from './operating-user.ts'

/** One run of the server. */
export type ServerProcess = {
  /** Resolves when it is gone, whatever ended it. */
  readonly ended: Promise<void>
  /** Ends open connections and waits until it is gone. */
  readonly stop: () => Promise<void>
}

const readyWithinMs = 60_000
const pollMs = 10
const fastShutdownMs = 10_000
const immediateShutdownMs = 5000

const settings: Readonly<Record<string, string>> = {
  listen_addresses: '',
  port: `${socketPort}`,
  unix_socket_permissions: '0700',
  max_connections: '60',
  shared_buffers: '32MB',
  max_wal_size: '128MB',
  min_wal_size: '8MB',
  jit: 'off',
  io_method: 'sync',
  max_worker_processes: '2',
  max_parallel_workers_per_gather: '0',
  // Rows and parameters are nobody's business: what goes into the log is that something failed, not with what.
  log_min_messages: 'fatal',
  log_min_error_statement: 'panic',
  log_error_verbosity: 'terse',
  log_parameter_max_length: '0',
  log_parameter_max_length_on_error: '0',
}

/**
 * Starts the server over a unix socket only, and waits until it accepts. It is in a session of its own: Ctrl-C ends us,
 * who store what is on its way before ending it. When we die otherwise, a watcher ends it, and on Linux the system too.
 * @throws OperatorError embedded_failed
 */
export async function startServer(options: {
  readonly paths: ClusterPaths
  readonly binaries: Binaries
  readonly user: OperatingUser
  readonly socketDirectory: string
  readonly overrides: Readonly<Record<string, string>>
}): Promise<ServerProcess> {
  const { paths, binaries, user, socketDirectory } = options
  const all = { ...settings, unix_socket_directories: socketDirectory, ...options.overrides }
  const args = ['-D', paths.cluster]
  for (const [name, value] of Object.entries(all)) args.push('-c', `${name}=${value}`)
  const [command, commandArgs] = user.command(binaries.postgres, args)

  const log = await open(paths.log, 'w', 0o600)
  const child = spawn(command, commandArgs, {
    ...user.spawnOptions,
    env: databaseEnvironment,
    cwd: '/',
    detached: true,
    stdio: ['ignore', log.fd, log.fd],
  })
  child.unref()
  const ended = new Promise<void>((resolve) => {
    child.once('exit', () => resolve())
    child.once('error', () => resolve())
  })
  const isGone = () =>
    child.pid === undefined || child.exitCode !== null || child.signalCode !== null
  await log.close()
  if (child.pid === undefined) throw failed(paths)
  const watcher = watch(child.pid, () => !isGone())
  void ended.then(watcher.stop)

  const signal = (name: NodeJS.Signals) => {
    if (!isGone()) child.kill(name)
  }
  const stop = async () => {
    const escalation = [
      setTimeout(signal, fastShutdownMs, 'SIGQUIT'),
      setTimeout(signal, fastShutdownMs + immediateShutdownMs, 'SIGKILL'),
    ]
    child.ref()
    signal('SIGINT')
    await ended
    for (const timer of escalation) clearTimeout(timer)
  }

  const giveUpAt = Date.now() + readyWithinMs
  while (!isGone() && !(await isReady(paths, child.pid))) {
    if (Date.now() > giveUpAt) {
      await stop()
      throw failed(paths)
    }
    await sleep(pollMs)
  }
  if (isGone()) throw failed(paths)
  return { ended, stop }
}

function failed(paths: ClusterPaths): OperatorError {
  return new OperatorError(
    'embedded_failed',
    `The embedded database in ${paths.cluster} did not start. PostgreSQL says why in ${paths.log}.`,
  )
}

/**
 * Ends the database when the pipe that only we hold is closed, which is when we are gone. It ignores what is sent to
 * the whole group, outlives us on purpose, and is started anew if somebody ends it.
 */
function watch(pid: number, isNeeded: () => boolean): { readonly stop: () => void } {
  const script = `trap '' INT TERM HUP
cat >/dev/null
kill -INT "$1" 2>/dev/null || exit 0
n=0
while kill -0 "$1" 2>/dev/null && [ $n -lt 100 ]; do sleep 0.1; n=$((n+1)); done
kill -QUIT "$1" 2>/dev/null`
  let watcher: ChildProcess
  const start = () => {
    watcher = spawn('/bin/sh', ['-c', script, 'onbehalf-watcher', `${pid}`], {
      env: databaseEnvironment,
      cwd: '/',
      detached: true,
      stdio: ['pipe', 'ignore', 'ignore'],
    })
    watcher.unref()
    // The pipe must not keep us alive, and its end is no error of ours.
    const pipe = watcher.stdin as (NodeJS.WritableStream & { unref?: () => void }) | null
    pipe?.unref?.()
    pipe?.on('error', () => {})
    watcher.on('error', () => {})
    watcher.once('exit', () => {
      if (isNeeded()) setTimeout(() => isNeeded() && start(), 100).unref()
    })
  }
  start()
  return { stop: () => watcher.kill('SIGKILL') }
}

type PidFile = { readonly pid: number; readonly status: string }

/** What PostgreSQL notes about itself: the process on the first line, how far it is on the eighth. */
async function readPidFile(paths: ClusterPaths): Promise<PidFile | undefined> {
  const text = await readFile(join(paths.cluster, 'postmaster.pid'), 'utf8').catch(() => undefined)
  const lines = text?.split('\n')
  return lines && { pid: Number(lines[0]), status: lines[7]?.trim() ?? '' }
}

async function isReady(paths: ClusterPaths, pid: number): Promise<boolean> {
  const file = await readPidFile(paths)
  return file?.pid === pid && file.status === 'ready'
}

/**
 * Ends the server that an earlier process of ours left behind. Forgets one that is gone only where its process id now
 * belongs to something else, as happens after a restart of a container: PostgreSQL would refuse to start then. In all
 * other cases the note stays, because PostgreSQL finds out from it whether old processes still use the memory.
 */
export async function clearLeftovers(paths: ClusterPaths): Promise<void> {
  const left = await readPidFile(paths)
  if (left === undefined || !Number.isSafeInteger(left.pid) || left.pid < 1) return
  const signals: [NodeJS.Signals, number][] = [
    ['SIGINT', fastShutdownMs],
    ['SIGQUIT', immediateShutdownMs],
    ['SIGKILL', immediateShutdownMs],
  ]
  for (const [signal, patience] of signals) {
    if (!(await runsIn(paths.cluster, left.pid))) break
    send(left.pid, signal)
    const until = Date.now() + patience
    while (Date.now() < until && (await runsIn(paths.cluster, left.pid))) await sleep(pollMs)
  }
  if (isAlive(left.pid) && !(await runsIn(paths.cluster, left.pid))) {
    await rm(join(paths.cluster, 'postmaster.pid'), { force: true })
  }
}

function send(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal)
  } catch {
    // It is gone, or not ours: what follows looks again.
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

/** Whether the process is a PostgreSQL that was started on this directory. */
async function runsIn(cluster: string, pid: number): Promise<boolean> {
  if (process.platform === 'linux') {
    const args = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')
    return args.split('\0').includes(cluster)
  }
  try {
    return execFileSync('ps', ['-o', 'command=', '-p', `${pid}`], { encoding: 'utf8' }).includes(
      cluster,
    )
  } catch {
    return false
  }
}
