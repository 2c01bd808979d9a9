import { randomBytes } from 'node:crypto'
import {
  chmod,
  lstat,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  realpath,
  rename,
  rm,
  symlink,
  unlink,
  writeFile,
} from 'node:fs/promises'
import net from 'node:net'
import os from 'node:os'
import { dirname, join, resolve as absolute } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { isOperatorError, OperatorError } from '../core/operator-error.ts'

/** A directory that belongs to this process until it is released or the process ends, however it ends. */
export type DataDirectory = {
  /** Absolute, without links. */
  readonly path: string
  readonly release: () => Promise<void>
}

/** The longest path that the address of a unix socket holds: 108 bytes on Linux, 104 on macOS, one of them a NUL. */
export const socketPathBytes = 103

const lockPrefix = 'lock.'
const unfinishedPrefix = 'locking.'
const ownerFile = 'owner.json'
/** Two that start at the same moment both step back; they try again for this long. */
const contentionMs = 2000
const unfinishedForMs = 60_000

/**
 * Makes the directory where it is missing (mode 0700) and takes it for this process.
 *
 * The lock is a listening unix socket of a name that is never used twice. The system closes it with the process, so a
 * leftover cannot be mistaken for a running one, whatever its pid is now; containers that share a volume see each other.
 * Everyone shows a socket first and looks for others after: of two, the later one sees the earlier, so that never both
 * go on.
 * @throws OperatorError data_dir_in_use, data_dir_unusable
 */
export async function claimDataDirectory(path: string): Promise<DataDirectory> {
  const directory = await makeDirectory(absolute(path))
  const giveUpAt = Date.now() + contentionMs
  for (;;) {
    const lock = await showLock(directory)
    try {
      const others = await liveLocks(directory, lock.name)
      if (others.length === 0) {
        await writeOwner(directory, lock.name)
        return { path: directory, release: () => lock.withdraw() }
      }
      const owner = await readOwner(directory)
      if ((owner !== undefined && others.includes(owner.lock)) || Date.now() > giveUpAt) {
        throw inUse(directory, owner)
      }
    } catch (error) {
      await lock.withdraw()
      throw isOperatorError(error) ? error : unusable(directory, error)
    }
    await lock.withdraw()
    await sleep(20 + Math.random() * 80)
  }
}

type Owner = { readonly lock: string; readonly pid: number }

function inUse(directory: string, owner: Owner | undefined): OperatorError {
  const who = owner === undefined ? 'Another onbehalf' : `Another onbehalf (process ${owner.pid})`
  return new OperatorError(
    'data_dir_in_use',
    `${who} is using the data directory ${directory}. Stop it, or give this one another data_dir.`,
  )
}

/** For messages only: what counts is the lock itself. */
async function writeOwner(directory: string, lock: string): Promise<void> {
  const owner: Owner = { lock, pid: process.pid }
  await writeFile(join(directory, ownerFile), JSON.stringify(owner), { mode: 0o600 })
}

/** Whether a running process has taken the directory; false where there is none. */
export async function isDataDirectoryClaimed(path: string): Promise<boolean> {
  const directory = await realpath(path).catch(() => undefined)
  return directory !== undefined && (await liveLocks(directory, undefined)).length > 0
}

async function makeDirectory(path: string): Promise<string> {
  try {
    // What has to be made above it is not ours to close.
    await mkdir(dirname(path), { recursive: true })
    await mkdir(path, { mode: 0o700 }).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'EEXIST') throw error
    })
    return await realpath(path)
  } catch (error) {
    throw unusable(path, error)
  }
}

function unusable(path: string, error: unknown): OperatorError {
  const { code = 'error' } = error as NodeJS.ErrnoException
  return new OperatorError(
    'data_dir_unusable',
    `The data directory ${path} cannot be used (${code}). It must be a directory that this user may write to, on a file system with unix sockets.`,
    { cause: error },
  )
}

/** Listens under a name of our own. It gets its visible name only then, so that a lock that is seen always answers. */
async function showLock(directory: string) {
  const id = randomBytes(8).toString('hex')
  const name = `${lockPrefix}${id}`
  const server = net.createServer((socket) => socket.destroy())
  server.unref()
  try {
    await withShortPath(join(directory, `${unfinishedPrefix}${id}`), (short) =>
      listen(server, short),
    )
    await chmod(join(directory, `${unfinishedPrefix}${id}`), 0o600)
    await rename(join(directory, `${unfinishedPrefix}${id}`), join(directory, name))
  } catch (error) {
    server.close()
    throw unusable(directory, error)
  }
  return {
    name,
    async withdraw() {
      await rm(join(directory, name), { force: true })
      await new Promise<void>((resolve) => server.close(() => resolve()))
    },
  }
}

/** The names of locks that a process holds; removes those of processes that are gone. */
async function liveLocks(directory: string, own: string | undefined): Promise<string[]> {
  const live: string[] = []
  for (const name of await readdir(directory)) {
    const path = join(directory, name)
    if (name.startsWith(unfinishedPrefix)) {
      const made = await lstat(path).catch(() => undefined)
      if (made !== undefined && Date.now() - made.mtimeMs > unfinishedForMs)
        await rm(path, { force: true })
    } else if (name.startsWith(lockPrefix) && name !== own) {
      if (await withShortPath(path, answers)) live.push(name)
      // The name never returns, so this cannot remove a later one's lock.
      else await rm(path, { force: true })
    }
  }
  return live
}

async function readOwner(directory: string): Promise<Owner | undefined> {
  try {
    return JSON.parse(await readFile(join(directory, ownerFile), 'utf8')) as Owner
  } catch {
    return undefined
  }
}

function listen(server: net.Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(path, () => resolve())
  })
}

/** Only a refusal or nothing there is a dead socket: one that is full or not ours to connect to has an owner. */
function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = net.connect(path, () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', ({ code }: NodeJS.ErrnoException) => {
      resolve(code !== 'ECONNREFUSED' && code !== 'ENOENT')
    })
  })
}

/** Reaches a socket whose path is too long for an address through a link that lives only meanwhile. */
async function withShortPath<T>(path: string, use: (path: string) => Promise<T>): Promise<T> {
  if (Buffer.byteLength(path) <= socketPathBytes) return use(path)
  const short = await mkdtemp(join(os.tmpdir(), 'onbehalf-'))
  const link = join(short, 'd')
  try {
    await symlink(join(path, '..'), link)
    return await use(join(link, path.slice(path.lastIndexOf('/') + 1)))
  } finally {
    await unlink(link).catch(() => {})
    await rm(short, { recursive: true, force: true })
  }
}
