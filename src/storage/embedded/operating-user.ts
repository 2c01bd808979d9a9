import { type SpawnOptions, spawnSync } from 'node:child_process'
import { chmod, chown, readFile, stat } from 'node:fs/promises'
import os from 'node:os'
import { dirname } from 'node:path'
import { OperatorError } from '../../core/operator-error.ts'

/** How to run a program as the user that the database runs as. */
export type OperatingUser = {
  /** Undefined where it is our own. */
  readonly owner: { readonly uid: number; readonly gid: number } | undefined
  /** The one capability that it needs to reach its files, if any. */
  readonly capability: 'dac_read_search' | 'dac_override' | undefined
  readonly command: (program: string, args: readonly string[]) => readonly [string, string[]]
  readonly spawnOptions: Pick<SpawnOptions, 'uid' | 'gid'>
}

/** Nothing of ours: PG* and locale variables would change what the server does. */
export const databaseEnvironment = { PATH: '/usr/bin:/bin', LANG: 'C', LC_ALL: 'C', TZ: 'UTC' }

/**
 * Finds a user to run the database as. An ordinary user runs it itself. PostgreSQL refuses root, so root runs it as the
 * owner of the existing cluster, else as `postgres`, else as `nobody`. Where that user cannot reach the directory or the
 * programs, as below /root, it gets the one capability that lets it; which is tried out and not guessed.
 * @throws OperatorError embedded_no_user, embedded_no_access
 */
export async function findOperatingUser(needs: {
  readonly program: string
  readonly dataDir: string
  readonly clusterDir: string
}): Promise<OperatingUser> {
  const cluster = await stat(needs.clusterDir).catch(() => undefined)
  const ownUid = process.getuid?.()
  if (ownUid !== 0) {
    requireName()
    if (cluster !== undefined && cluster.uid !== ownUid) {
      throw new OperatorError(
        'embedded_no_access',
        `${needs.clusterDir} belongs to the user with the id ${cluster.uid}, so this user cannot run the database in it. Start onbehalf as before (as root, if it was), or give the data directory to this user.`,
      )
    }
    return userOf(undefined, undefined)
  }
  const owner = cluster !== undefined && cluster.uid !== 0 ? cluster : await unprivilegedUser()
  const { uid, gid } = owner
  const attempt = (capability: OperatingUser['capability']) => {
    const user = userOf({ uid, gid }, capability)
    return reaches(user, needs.program, needs.dataDir) ? user : undefined
  }
  const plain = userOf({ uid, gid }, undefined)
  if (!runs(plain, ':')) throw mayNotSwitch(uid)
  if (reaches(plain, needs.program, needs.dataDir)) return plain
  // A directory of our own is opened for that group to pass through, which is far less than a capability.
  if (reaches(plain, needs.program, dirname(needs.dataDir))) {
    await openForPassing(needs.dataDir, gid)
    if (reaches(plain, needs.program, needs.dataDir)) return plain
  }
  const capable = attempt('dac_read_search') ?? attempt('dac_override')
  if (capable !== undefined) return capable
  throw await noAccess(uid, gid, needs)
}

function userOf(
  owner: OperatingUser['owner'],
  capability: OperatingUser['capability'],
): OperatingUser {
  const setpriv: string[] = []
  if (hasSetpriv()) {
    // The system itself interrupts the database when we die, even if the watcher is gone.
    setpriv.push('--pdeathsig', 'INT')
    if (owner !== undefined) {
      setpriv.push('--reuid', `${owner.uid}`, '--regid', `${owner.gid}`, '--clear-groups')
    }
    if (capability !== undefined) {
      // PostgreSQL asks access(2) about its own program, which ignores capabilities unless no_setuid_fixup is set.
      setpriv.push('--securebits', '+no_setuid_fixup')
      setpriv.push('--inh-caps', `-all,+${capability}`, '--ambient-caps', `-all,+${capability}`)
    }
  }
  return {
    owner,
    capability,
    command: (program, args) =>
      setpriv.length === 0
        ? [program, [...args]]
        : ['setpriv', [...setpriv, '--', program, ...args]],
    spawnOptions: setpriv.length === 0 && owner !== undefined ? owner : {},
  }
}

let setprivWorks: boolean | undefined
/** util-linux; other implementations lack what is needed here. */
function hasSetpriv(): boolean {
  setprivWorks ??=
    process.platform === 'linux' &&
    spawnSync('setpriv', ['--pdeathsig', 'INT', '--', '/bin/sh', '-c', ':'], {
      env: databaseEnvironment,
    }).status === 0
  return setprivWorks
}

/** What PostgreSQL will do: run the program, ask whether it may, and enter the directory. */
function reaches(user: OperatingUser, program: string, directory: string): boolean {
  return runs(user, '"$1" -V >/dev/null 2>&1 && test -r "$1" && cd "$2"', program, directory)
}

function runs(user: OperatingUser, script: string, ...args: string[]): boolean {
  const [command, commandArgs] = user.command('/bin/sh', ['-c', script, 'sh', ...args])
  const options = { ...user.spawnOptions, env: databaseEnvironment, cwd: '/' }
  return spawnSync(command, commandArgs, options).status === 0
}

function mayNotSwitch(uid: number): OperatorError {
  return new OperatorError(
    'embedded_no_user',
    `PostgreSQL does not run as root, and this process may not run it as another user (id ${uid}): it lacks CAP_SETUID or CAP_SETGID, or that id is unknown in its user namespace. Run onbehalf as an ordinary user, or set database.url to a PostgreSQL 15 or newer.`,
  )
}

function requireName(): void {
  try {
    os.userInfo()
  } catch (error) {
    throw new OperatorError(
      'embedded_no_user',
      `The embedded database cannot run as the user id ${process.getuid?.()}, because it has no name on this system. Add it to /etc/passwd, run as a user that is there, or set database.url to a PostgreSQL 15 or newer.`,
      { cause: error },
    )
  }
}

async function unprivilegedUser(): Promise<{ uid: number; gid: number }> {
  const lines = (await readFile('/etc/passwd', 'utf8').catch(() => '')).split('\n')
  for (const name of ['postgres', 'nobody']) {
    const [, , uid, gid] = lines.find((line) => line.startsWith(`${name}:`))?.split(':') ?? []
    if (Number(uid) > 0 && gid !== undefined) return { uid: Number(uid), gid: Number(gid) }
  }
  throw new OperatorError(
    'embedded_no_user',
    'PostgreSQL does not run as root, and /etc/passwd has neither a user postgres nor a user nobody to run it as. Add one, run onbehalf as an ordinary user, or set database.url to a PostgreSQL 15 or newer.',
  )
}

async function openForPassing(dataDir: string, gid: number): Promise<void> {
  const { uid, mode } = await stat(dataDir)
  if (uid !== 0 || (mode & 0o777) !== 0o700) return
  await chown(dataDir, 0, gid)
  await chmod(dataDir, 0o710)
}

async function noAccess(
  uid: number,
  gid: number,
  needs: { readonly program: string; readonly dataDir: string },
): Promise<OperatorError> {
  const closed =
    (await firstClosed(needs.dataDir, uid, gid)) ??
    (await firstClosed(needs.program, uid, gid)) ??
    needs.program
  return new OperatorError(
    'embedded_no_access',
    `PostgreSQL does not run as root, and the user id ${uid}, which runs it instead, cannot enter ${closed}. Open that directory for passing through (chmod o+x), move the data directory or the installation, run onbehalf as an ordinary user, or set database.url to a PostgreSQL 15 or newer.`,
  )
}

async function firstClosed(path: string, uid: number, gid: number): Promise<string | undefined> {
  const parents: string[] = []
  for (let at = path; at !== dirname(at); at = dirname(at)) parents.unshift(at)
  for (const parent of parents) {
    const { mode, uid: owner, gid: group } = await stat(parent)
    const shift = owner === uid ? 6 : group === gid ? 3 : 0
    if (((mode >> shift) & 1) === 0) return parent
  }
  return undefined
}
