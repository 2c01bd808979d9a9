import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { chown, mkdir, mkdtemp, open, readFile, rename, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import { join } from 'node:path'
import { OperatorError } from '../../core/operator-error.ts'
import { Secret } from '../../core/secret.ts'
import { socketPathBytes } from '../data-directory.ts'
import type { Binaries } from './binaries.ts'
import { databaseEnvironment, type OperatingUser } from './operating-user.ts'

/** Where things are under `data_dir`. */
export type ClusterPaths = {
  /** PostgreSQL's own directory. */
  readonly cluster: string
  readonly password: string
  readonly log: string
  /** Holds the socket, unless its path is too long for an address. */
  readonly run: string
  /** Where the running server listens, for commands beside it. */
  readonly state: string
}

const databaseUser = 'onbehalf'
export const socketPort = 5432

export function clusterPaths(dataDir: string): ClusterPaths {
  return {
    cluster: join(dataDir, 'postgres'),
    password: join(dataDir, 'postgres-password'),
    log: join(dataDir, 'postgres.log'),
    run: join(dataDir, 'run'),
    state: join(dataDir, 'postgres.json'),
  }
}

export function socketUrl(socketDirectory: string, password: Secret): Secret {
  const query = new URLSearchParams({ host: socketDirectory, port: `${socketPort}` })
  return new Secret(
    `postgres://${databaseUser}:${password.reveal()}@localhost/postgres?${query.toString()}`,
  )
}

/** Makes the cluster where there is none yet; gives its password. @throws OperatorError */
export async function prepareCluster(
  paths: ClusterPaths,
  binaries: Binaries,
  user: OperatingUser,
): Promise<Secret> {
  const version = await readFile(join(paths.cluster, 'PG_VERSION'), 'utf8').catch(() => undefined)
  if (version === undefined) {
    const password = (await readPassword(paths)) ?? (await writePassword(paths))
    await createCluster(paths, binaries, user, password)
    return password
  }
  await requireSameVersion(version.trim(), binaries, user, paths)
  const password = await readPassword(paths)
  if (password === undefined) {
    throw new OperatorError(
      'embedded_failed',
      `${paths.password} is missing, and without it nobody gets into the database in ${paths.cluster}. Restore it from your backup.`,
    )
  }
  return password
}

export async function readPassword(paths: ClusterPaths): Promise<Secret | undefined> {
  const text = await readFile(paths.password, 'utf8').catch(() => '')
  return text === '' ? undefined : new Secret(text)
}

async function writePassword(paths: ClusterPaths): Promise<Secret> {
  const password = randomBytes(24).toString('base64url')
  await writeDurably(paths.password, password)
  return new Secret(password)
}

/** Whole or not at all, also after a power cut. */
async function writeDurably(path: string, text: string): Promise<void> {
  const file = await open(`${path}.new`, 'w', 0o600)
  try {
    await file.writeFile(text)
    await file.sync()
  } finally {
    await file.close()
  }
  await rename(`${path}.new`, path)
}

/** initdb writes beside the final place, so that an interrupted one leaves nothing that looks like a cluster. */
async function createCluster(
  paths: ClusterPaths,
  binaries: Binaries,
  user: OperatingUser,
  password: Secret,
): Promise<void> {
  const unfinished = `${paths.cluster}.new`
  await rm(unfinished, { recursive: true, force: true })
  await makeOwned(unfinished, user)
  const passwordFile = join(unfinished, 'password')
  const data = join(unfinished, 'data')
  await writeFile(passwordFile, password.reveal(), { mode: 0o600 })
  if (user.owner !== undefined) await chown(passwordFile, user.owner.uid, user.owner.gid)
  const args = ['-D', data, '-U', databaseUser, '--pwfile', passwordFile]
  args.push('--auth-local=scram-sha-256', '--auth-host=reject', '--encoding=UTF8', '--no-locale')
  // 1 MiB files of the write-ahead log instead of 16: a new directory takes 31 MB.
  args.push('--wal-segsize=1', '--no-instructions')
  const { succeeded, output } = await runToEnd(user, binaries.initdb, args)
  if (!succeeded) {
    const said = output.split('\n').slice(-3).join(' ')
    throw new OperatorError(
      'embedded_failed',
      `The embedded database could not be made in ${paths.cluster}. initdb says: ${said}`,
    )
  }
  await rm(paths.cluster, { recursive: true, force: true })
  await rename(data, paths.cluster)
  await rm(unfinished, { recursive: true, force: true })
}

async function requireSameVersion(
  version: string,
  binaries: Binaries,
  user: OperatingUser,
  paths: ClusterPaths,
): Promise<void> {
  const major = await majorVersion(binaries, user)
  if (version === major) return
  throw new OperatorError(
    'embedded_failed',
    `${paths.cluster} was written by PostgreSQL ${version}, and this version of onbehalf brings ${major}. Dump it with the version that wrote it, and restore it into a new data directory.`,
  )
}

async function majorVersion(binaries: Binaries, user: OperatingUser): Promise<string> {
  const { output } = await runToEnd(user, binaries.postgres, ['-V'])
  return /(\d+)/.exec(output)?.[1] ?? 'unknown'
}

/** What the programs say holds no secret: all that they know of one is the name of its file. */
function runToEnd(
  user: OperatingUser,
  program: string,
  args: readonly string[],
): Promise<{ readonly succeeded: boolean; readonly output: string }> {
  const [command, commandArgs] = user.command(program, args)
  const options = { ...user.spawnOptions, env: databaseEnvironment, cwd: '/' }
  return new Promise((resolve, reject) => {
    execFile(command, commandArgs, options, (error, stdout, stderr) => {
      // The file is there, so what is not there is its loader.
      if (error?.code === 'ENOENT') reject(needsGlibc(program, error))
      else resolve({ succeeded: error === null, output: `${stdout}${stderr}`.trim() })
    })
  })
}

function needsGlibc(program: string, cause: unknown): OperatorError {
  return new OperatorError(
    'embedded_unsupported',
    `${program} cannot run on this system: it needs glibc, which Alpine Linux does not have. Use an image with glibc, or set database.url to a PostgreSQL 15 or newer.`,
    { cause },
  )
}

/** A private directory for the socket, emptied: whoever left something there is gone. */
export async function makeSocketDirectory(
  paths: ClusterPaths,
  user: OperatingUser,
): Promise<string> {
  await rm(paths.run, { recursive: true, force: true })
  const socket = join(paths.run, `.s.PGSQL.${socketPort}`)
  if (Buffer.byteLength(socket) <= socketPathBytes) {
    await makeOwned(paths.run, user)
    return paths.run
  }
  const directory = await mkdtemp(join(os.tmpdir(), 'onbehalf-'))
  if (user.owner !== undefined) await chown(directory, user.owner.uid, user.owner.gid)
  return directory
}

async function makeOwned(path: string, user: OperatingUser): Promise<void> {
  await mkdir(path, { mode: 0o700 })
  if (user.owner !== undefined) await chown(path, user.owner.uid, user.owner.gid)
}
