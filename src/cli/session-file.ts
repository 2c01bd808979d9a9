import { randomBytes } from 'node:crypto'
import { chmod, mkdir, open, readFile, rename, rm, stat, unlink, writeFile } from 'node:fs/promises'
import { dirname, isAbsolute, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import * as z from 'zod'
import { Secret } from '../core/secret.ts'
import type { PersonSession } from '../oauth/person-sign-in.ts'
import { CommandFailure } from './cli-error.ts'
import { parseJson } from './parse-json.ts'
import type { CliEnvironment } from './services.ts'
import { printable } from './terminal-text.ts'

/** Where sign-ins are kept between commands: one a broker, in a file that nobody but its owner can read. */
export interface SessionFile {
  readonly path: string
  /** Of this broker; without one, of the broker that was signed in at last. @throws CommandFailure where others may read the file */
  find(url: string | undefined): Promise<PersonSession | undefined>
  /** Puts a session into the place of its broker's, which is the last from then on. */
  keep(session: PersonSession): Promise<void>
  /**
   * Renews a session while no other command can: a refresh token is good for one use (RFC 9700 §4.14.2). `renew` gets what is kept
   * by then, which may be another's renewal.
   */
  renew(
    url: string,
    renew: (kept: PersonSession | undefined) => Promise<PersonSession>,
  ): Promise<PersonSession>
}

const secret = z.string().transform((value) => new Secret(value))
const authentication = z.union([
  z.object({ method: z.enum(['client_secret_basic', 'client_secret_post']), secret }),
  z.object({ method: z.literal('none') }),
])
const keptSession = z.object({
  url: z.string(),
  issuer: z.string(),
  tokenEndpoint: z.string(),
  client: z.object({ clientId: z.string(), authentication }),
  resource: z.string().optional(),
  allowPrivateNetwork: z.boolean(),
  accessToken: secret,
  expiresAt: z.iso.datetime().optional(),
  refreshToken: secret.optional(),
})
const keptSessions = z.object({ last: z.string(), sessions: z.array(keptSession) })

type Kept = { readonly last: string; readonly sessions: readonly PersonSession[] }

const none: Kept = { last: '', sessions: [] }

/** Longer than a renewal may take. A lock that is older was left behind. */
const lockEndsMs = 30_000
const lockWaitMs = 40_000
const lookAtLockMs = 50

/** The person's own file; undefined where the environment names no home. Reads nothing yet. */
export function sessionFileOf(env: CliEnvironment): SessionFile | undefined {
  const home = configHome(env)
  return home === undefined ? undefined : createSessionFile(join(home, 'onbehalf', 'sessions.json'))
}

/** XDG Base Directory, which has relative paths ignored; on Windows the folder that it has for such files. */
function configHome(env: CliEnvironment): string | undefined {
  const under = (name: string, ...more: readonly string[]) => {
    const folder = env[name]
    return folder !== undefined && isAbsolute(folder) ? join(folder, ...more) : undefined
  }
  return under('XDG_CONFIG_HOME') ?? under('APPDATA') ?? under('HOME', '.config')
}

function createSessionFile(path: string): SessionFile {
  const lockPath = `${path}.lock`

  async function read(): Promise<Kept> {
    let text: string
    try {
      text = await readFile(path, 'utf8')
    } catch (error) {
      if (isCode(error, 'ENOENT')) return none
      throw new CommandFailure(`${printable(path)} cannot be read.`)
    }
    const parsed = keptSessions.safeParse(parseJson(text))
    // A file that somebody else wrote holds no sessions of ours.
    if (!parsed.success) return none
    return { last: parsed.data.last, sessions: parsed.data.sessions.map(sessionOf) }
  }

  async function find(url: string | undefined): Promise<PersonSession | undefined> {
    const { last, sessions } = await read()
    const found = sessions.find((session) => session.url === (url ?? last))
    if (found !== undefined) await refuseIfOpen(path)
    return found
  }

  /** Whole or not at all: a command that is stopped while it writes must not lose what was there. */
  async function write(kept: Kept): Promise<void> {
    const folder = dirname(path)
    const beside = `${path}.${randomBytes(6).toString('hex')}`
    try {
      await mkdir(folder, { recursive: true, mode: 0o700 })
      await chmod(folder, 0o700)
      await writeFile(beside, fileText(kept), { mode: 0o600, flag: 'wx', flush: true })
      await rename(beside, path)
    } catch {
      await rm(beside, { force: true }).catch(() => {})
      throw new CommandFailure(`${printable(path)} cannot be written: nothing is kept.`)
    }
  }

  async function put(session: PersonSession, isLast: boolean): Promise<void> {
    const { last, sessions } = await read()
    const others = sessions.filter(({ url }) => url !== session.url)
    await write({ last: isLast ? session.url : last, sessions: [...others, session] })
  }

  async function locked<Result>(work: () => Promise<Result>): Promise<Result> {
    await mkdir(dirname(path), { recursive: true, mode: 0o700 }).catch(() => {})
    const giveUpAt = performance.now() + lockWaitMs
    while (!(await tookLock())) {
      if (performance.now() > giveUpAt) {
        throw new CommandFailure(`Another command holds ${printable(lockPath)}. Try again.`)
      }
      await sleep(lookAtLockMs)
    }
    try {
      return await work()
    } finally {
      await unlink(lockPath).catch(() => {})
    }
  }

  async function tookLock(): Promise<boolean> {
    try {
      await (await open(lockPath, 'wx', 0o600)).close()
      return true
    } catch (error) {
      if (!isCode(error, 'EEXIST')) {
        throw new CommandFailure(`${printable(lockPath)} cannot be written.`)
      }
      const taken = await stat(lockPath).catch(() => undefined)
      if (taken !== undefined && Date.now() - taken.mtimeMs > lockEndsMs) {
        await unlink(lockPath).catch(() => {})
      }
      return false
    }
  }

  return {
    path,
    find,
    keep: (session) => locked(() => put(session, true)),
    renew: (url, renew) =>
      locked(async () => {
        const kept = await find(url)
        const renewed = await renew(kept)
        if (renewed !== kept) await put(renewed, false)
        return renewed
      }),
  }
}

/** Windows keeps a person's folders from others by itself, and its modes say nothing. */
async function refuseIfOpen(path: string): Promise<void> {
  if (process.platform === 'win32') return
  const { mode } = await stat(path)
  if ((mode & 0o077) === 0) return
  throw new CommandFailure(
    `${printable(path)} may be read or written by others, so it is not used. Make it yours (chmod 600), and sign in anew: \`onbehalf login\`.`,
  )
}

function sessionOf({
  expiresAt,
  refreshToken,
  resource,
  ...session
}: z.output<typeof keptSession>): PersonSession {
  return {
    ...session,
    resource,
    refreshToken,
    expiresAt: expiresAt === undefined ? undefined : new Date(expiresAt),
  }
}

function fileText({ last, sessions }: Kept): string {
  return `${JSON.stringify({ last, sessions: sessions.map(plainOf) }, undefined, 2)}\n`
}

/** In clear: this file is what keeps them. */
function plainOf({ accessToken, refreshToken, client, expiresAt, ...session }: PersonSession) {
  const { authentication: proof } = client
  return {
    ...session,
    client: {
      clientId: client.clientId,
      authentication:
        proof.method === 'none' ? proof : { method: proof.method, secret: proof.secret.reveal() },
    },
    accessToken: accessToken.reveal(),
    expiresAt: expiresAt?.toISOString(),
    refreshToken: refreshToken?.reveal(),
  }
}

function isCode(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code
}
