import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { readdir, readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

const root = fileURLToPath(new URL('../..', import.meta.url))
/** Where another build is to be tried, it is named. */
const main = process.env['ONBEHALF_MAIN'] ?? join(root, 'dist', 'main.js')
const run = promisify(execFile)

/** Builds the program where `src` is newer than what was built. `npm ci` has built it, so that is seldom. */
export async function ensureBuilt(): Promise<void> {
  if (process.env['ONBEHALF_MAIN'] !== undefined) return
  const built = await stat(main).catch(() => undefined)
  const entries = await readdir(join(root, 'src'), { recursive: true, withFileTypes: true })
  const sources = await Promise.all(
    entries
      .filter((entry) => entry.isFile())
      .map((entry) => stat(join(entry.parentPath, entry.name))),
  )
  const newest = Math.max(...sources.map(({ mtimeMs }) => mtimeMs))
  if (built === undefined || built.mtimeMs < newest)
    await run('npm', ['run', 'build'], { cwd: root })
}

/** How a process of the program ended. */
export type ProgramEnd = {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
}

/** One line of the log. */
export type LogLine = { readonly event: string } & Readonly<Record<string, unknown>>

/** The program as an operator runs it, in a process of its own. */
export type Program = {
  readonly pid: number
  /** What it wrote so far. */
  readonly stdout: () => string
  readonly stderr: () => string
  /** stdout so far, parsed: throws where a line is not one JSON object. */
  readonly log: () => readonly LogLine[]
  /** Waits for a line of that event; rejects when the program ends without one. */
  readonly logged: (event: string) => Promise<LogLine>
  /** Where it listens, once it is ready. */
  readonly ready: () => Promise<string>
  readonly kill: (signal: NodeJS.Signals) => void
  /** Nobody reads its output any more. */
  readonly stopReading: () => void
  readonly ended: Promise<ProgramEnd>
}

export function startProgram(
  argv: readonly string[],
  options: { readonly cwd: string; readonly env?: Readonly<Record<string, string>> },
): Program {
  const child: ChildProcess = spawn(process.execPath, [main, ...argv], {
    cwd: options.cwd,
    env: { PATH: process.env['PATH'] ?? '', ...options.env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let stdout = ''
  let stderr = ''
  let isOver = false
  const listeners = new Set<() => void>()
  const changed = () => {
    for (const listener of listeners) listener()
  }
  child.stdout?.on('data', (chunk: Buffer) => {
    stdout += chunk.toString()
    changed()
  })
  child.stderr?.on('data', (chunk: Buffer) => {
    stderr += chunk.toString()
  })
  const ended = new Promise<ProgramEnd>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (code, signal) => {
      isOver = true
      changed()
      resolve({ code, signal, stdout, stderr })
    })
  })

  const log = () =>
    stdout
      .slice(0, stdout.lastIndexOf('\n') + 1)
      .split('\n')
      .slice(0, -1)
      .map((line) => JSON.parse(line) as LogLine)

  function logged(event: string): Promise<LogLine> {
    return new Promise((resolve, reject) => {
      const look = () => {
        const line = log().find((one) => one.event === event)
        if (line === undefined && !isOver) return
        listeners.delete(look)
        if (line === undefined) reject(new Error(`it ended without ${event}: ${stdout}${stderr}`))
        else resolve(line)
      }
      listeners.add(look)
      look()
    })
  }

  return {
    pid: child.pid ?? 0,
    stdout: () => stdout,
    stderr: () => stderr,
    log,
    logged,
    ready: async () => String((await logged('ready'))['url']),
    kill: (signal) => void child.kill(signal),
    stopReading() {
      child.stdout?.destroy()
      child.stderr?.destroy()
    },
    ended,
  }
}

export type SystemProcess = { readonly pid: number; readonly command: string }

/** The running processes whose command line names a text, such as a data directory. */
export async function processesNaming(text: string): Promise<readonly SystemProcess[]> {
  const all = existsSync('/proc/self/cmdline') ? await fromProc() : await fromPs()
  return all.filter(({ command }) => command.includes(text))
}

async function fromProc(): Promise<readonly SystemProcess[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name))
  return Promise.all(
    pids.map(async (pid) => {
      const command = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')
      return { pid: Number(pid), command: command.replaceAll('\0', ' ') }
    }),
  )
}

async function fromPs(): Promise<readonly SystemProcess[]> {
  const { stdout } = await run('ps', ['-axo', 'pid=,command='])
  return stdout
    .split('\n')
    .map((line) => /^\s*(\d+)\s+(.*)$/.exec(line))
    .flatMap((match) =>
      match === null ? [] : [{ pid: Number(match[1]), command: match[2] ?? '' }],
    )
}
