import { randomUUID } from 'node:crypto'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type PostgresWire, startPostgresWire } from '../../../bench/postgres-wire.ts'
import { Secret } from '../../../src/core/secret.ts'
import { readDatabaseAddress } from '../../../src/storage/database-address.ts'
import { type Program, type ProgramEnd, startProgram } from '../../support/program.ts'

/** What one caller saw. `status` 0: the connection ended without an answer. */
export type Outcome = {
  readonly person: string
  readonly requestId: string
  readonly status: number
  readonly code: string | undefined
  readonly reason: string | undefined
  readonly retryAfterSeconds: number | undefined
  readonly accessToken: string | undefined
  readonly fingerprint: string | undefined
  readonly expiresAt: Date | undefined
  readonly ms: number
  /** Why there was no answer: `ECONNREFUSED` where the request cannot have reached anybody. */
  readonly transportError: string | undefined
}

/** One broker process, with a wire of its own to the database. */
export type Replica = {
  readonly wire: PostgresWire
  readonly dataDir: string
  readonly pid: () => number
  readonly url: () => string
  readonly isRunning: () => boolean
  /** It is ready and was not told to end. */
  readonly isServing: () => boolean
  readonly resolve: (
    person: string,
    upstream: string,
    more?: Record<string, unknown>,
    /** The caller goes away. */
    signal?: AbortSignal,
  ) => Promise<Outcome>
  /** Resolves when the process is gone: not one instruction of it runs any more. */
  readonly kill: (signal?: 'SIGKILL' | 'SIGTERM') => Promise<void>
  readonly signal: (signal: NodeJS.Signals) => void
  /** How a process ended that was told to end. */
  readonly ended: () => Promise<ProgramEnd>
  /** Resolves when the process stands still. */
  readonly pause: () => Promise<void>
  readonly resume: () => void
  /** The same replica again: same data directory, same wire. `change` edits its configuration for good. */
  readonly start: (change?: (config: Record<string, unknown>) => void) => Promise<void>
  readonly log: () => string
  readonly errors: () => string
  /** What ended it, where that was not asked for. */
  readonly diedOfItself: () => string | undefined
  readonly stop: () => Promise<void>
}

export async function startReplica(options: {
  readonly config: Record<string, unknown>
  readonly databaseUrl: string
  readonly directory: string
  readonly dataDir?: string
  readonly serviceKey: string
  readonly issuer: string
  /** How far its clock is ahead. */
  readonly clockAheadMs?: number
  readonly onOutcome: (outcome: Outcome) => void
}): Promise<Replica> {
  const { directory, serviceKey, issuer } = options
  const { databaseUrl } = options
  const connect = readDatabaseAddress(new Secret(databaseUrl), () => {}).socket
  const wire = await startPostgresWire({ databaseUrl, connect })
  const dataDir = options.dataDir ?? join(directory, 'data')
  const file = join(directory, 'onbehalf.json')
  const config = {
    ...structuredClone(options.config),
    data_dir: dataDir,
    database: { pool: 10, ...(options.config['database'] as object | undefined), url: wire.url },
  }
  const logs: string[] = []
  const errors: string[] = []
  let program: Program
  let url = ''
  let isRunning = false
  let isReady = false
  let wasAsked = false
  let died: string | undefined

  async function start(change?: (values: Record<string, unknown>) => void): Promise<void> {
    change?.(config)
    await writeFile(file, JSON.stringify(config))
    wasAsked = false
    isReady = false
    program = startProgram(['serve', '--config', file], {
      cwd: directory,
      env: clockEnvironment(options.clockAheadMs),
    })
    isRunning = true
    void program.ended.then(({ code, signal, stdout, stderr }) => {
      isRunning = false
      logs.push(stdout)
      errors.push(stderr)
      if (!wasAsked) died = `it ended by itself: ${code ?? signal}\n${stdout}${stderr}`
    })
    url = await program.ready()
    isReady = true
  }

  async function kill(signal: 'SIGKILL' | 'SIGTERM' = 'SIGKILL'): Promise<void> {
    wasAsked = true
    if (!isRunning) return
    program.kill(signal)
    await program.ended
  }

  async function resolve(
    person: string,
    upstream: string,
    more: Record<string, unknown> = {},
    gone?: AbortSignal,
  ): Promise<Outcome> {
    const requestId = randomUUID()
    const startMs = performance.now()
    const body = { upstream, user: { issuer, id: person }, ...more }
    const outcome = await ask(url, serviceKey, requestId, body, gone)
    const seen = { person, requestId, ms: performance.now() - startMs, ...outcome }
    options.onOutcome(seen)
    return seen
  }

  await start()
  return {
    wire,
    dataDir,
    pid: () => program.pid,
    url: () => url,
    isRunning: () => isRunning,
    isServing: () => isReady && !wasAsked && isRunning,
    resolve,
    kill,
    signal(signal) {
      wasAsked ||= signal === 'SIGTERM' || signal === 'SIGKILL'
      program.kill(signal)
    },
    ended: () => program.ended,
    async pause() {
      program.kill('SIGSTOP')
      while ((await stateOf(program.pid)) !== 'T') await sleep(1)
    },
    resume: () => program.kill('SIGCONT'),
    start,
    log: () => [...logs, isRunning ? program.stdout() : ''].join(''),
    errors: () => [...errors, isRunning ? program.stderr() : ''].join(''),
    diedOfItself: () => died,
    async stop() {
      wire.open()
      await kill('SIGKILL')
      await wire.stop()
    },
  }
}

async function ask(
  url: string,
  serviceKey: string,
  requestId: string,
  body: Record<string, unknown>,
  gone: AbortSignal | undefined,
): Promise<Omit<Outcome, 'person' | 'requestId' | 'ms'>> {
  const none = {
    code: undefined,
    reason: undefined,
    retryAfterSeconds: undefined,
    accessToken: undefined,
    fingerprint: undefined,
    expiresAt: undefined,
    transportError: undefined,
  }
  try {
    const answer = await fetch(`${url}/api/v1/resolve`, {
      method: 'POST',
      signal: gone ?? null,
      headers: {
        authorization: `Bearer ${serviceKey}`,
        'content-type': 'application/json',
        'x-request-id': requestId,
      },
      body: JSON.stringify(body),
    })
    const given = (await answer.json()) as Record<string, string | null | undefined>
    const retryAfter = answer.headers.get('retry-after')
    return {
      ...none,
      status: answer.status,
      code: given['code'] ?? undefined,
      reason: given['reason'] ?? undefined,
      retryAfterSeconds: retryAfter === null ? undefined : Number(retryAfter),
      accessToken: given['value']?.replace(/^Bearer /, ''),
      fingerprint: given['fingerprint'] ?? undefined,
      expiresAt: given['expires_at'] == null ? undefined : new Date(given['expires_at']),
    }
  } catch (error) {
    const { cause } = error as { cause?: { code?: string } }
    return { ...none, status: 0, transportError: cause?.code ?? 'closed' }
  }
}

/**
 * There is no faketime here, so the process loads a module that moves what JavaScript sees as the time of day. Timers and `performance.now()` stay as
 * they are, as they do where a machine's clock is wrong.
 */
function clockEnvironment(aheadMs: number | undefined): Record<string, string> {
  if (aheadMs === undefined) return {}
  const module = `
    const Real = Date
    globalThis.Date = class Date extends Real {
      constructor(...given) { given.length === 0 ? super(Real.now() + ${aheadMs}) : super(...given) }
      static now() { return Real.now() + ${aheadMs} }
    }`
  return { NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(module)}` }
}

async function stateOf(pid: number): Promise<string | undefined> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined)
  return stat?.slice(stat.lastIndexOf(')') + 2)[0]
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}
