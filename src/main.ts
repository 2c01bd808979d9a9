#!/usr/bin/env node
import { readFile } from 'node:fs/promises'
import { runCli } from './cli/run-cli.ts'
import { openBrowser } from './cli/open-browser.ts'
import type { CliOutput, CliServices, Configuration, ConfigurationProblem } from './cli/services.ts'
import type { BrokerConfig } from './config/broker-config.ts'
import { configJsonSchema } from './config/json-schema.ts'
import { loadConfigFile } from './config/loader.ts'
import { isOperatorError } from './core/operator-error.ts'
import { setGarbageCollection } from './garbage-collection.ts'
import { createLog, silentLog } from './log.ts'
import { bareUpstream } from './oauth/bare-upstream.ts'
import { checkEndpoint } from './oauth/endpoint-check.ts'
import { createPersonSignIns } from './oauth/person-sign-in.ts'
import { probeUpstream } from './oauth/upstream-probe.ts'
import { createHttpClient } from './outbound/http-client.ts'
import { generateKey } from './sealing/keyring.ts'
import { readDatabaseAddress } from './storage/database-address.ts'
import { migrateStorage, withStorage } from './storage/open-storage.ts'
import { version } from './version.ts'
import { activityVerifierFor } from './wiring/activity-proof.ts'
import { commandKeyCheck, rewrapKeys } from './wiring/keys.ts'
import { systemClock } from './wiring/system-clock.ts'

/** The process edge: arguments, environment, signals and exit codes. Nothing else reads them. */
const services: CliServices = {
  version,
  generateKey,
  configSchema: configJsonSchema,
  fetch: (url, init) => fetch(url, init),
  // Where the broker will be is not known; but it will be somewhere on https.
  probe: (url, allowPrivateNetwork) =>
    probeUpstream(
      createHttpClient(),
      bareUpstream(url, allowPrivateNetwork),
      'https://broker.invalid',
    ),
  checkEndpoint: (url, allowPrivateNetwork) =>
    checkEndpoint(createHttpClient(), url, allowPrivateNetwork),
  signIns: createPersonSignIns({ http: createHttpClient(), clock: systemClock }),
  openBrowser: (url) => openBrowser(url, { platform: process.platform, env: process.env }),

  async configure({ path, env }) {
    const loaded = await loadConfigFile({
      path,
      env,
      readFile: (file) => readFile(file, 'utf8'),
    })
    if ('problems' in loaded) return { problems: loaded.problems }
    const problems = databaseProblems(loaded.config)
    if (problems.length > 0) return { problems }
    return { configuration: configurationOf(loaded.config, loaded.warnings) }
  },

  async demo(options, output) {
    // Only here: the sandbox's servers are half of what the program would load.
    const { runDemo } = await import('./demo/demo.ts')
    const { createBroker } = await import('./index.ts')
    return untilSignal((signal) =>
      runDemo({
        ...options,
        out: (line) => output.out(`${line}\n`),
        signal,
        async startBroker(config) {
          const broker = await createBroker(config as object)
          try {
            return { url: await broker.listen(), stop: () => broker.stop() }
          } catch (error) {
            await broker.stop()
            throw error
          }
        },
      }),
    )
  },
}

function configurationOf(config: BrokerConfig, warnings: Configuration['warnings']): Configuration {
  const { dataDir, database, identity, upstreams } = config
  const place = { dataDir, url: database.url }
  return {
    warnings,
    summary: {
      issuers: identity.issuers.length,
      services: identity.services.length,
      upstreams: upstreams.size,
      database: database.url === undefined ? 'embedded' : 'postgresql',
    },
    serve: (output) => untilSignal((signal) => serve(config, warnings, output, signal)),
    migrate: () => migrateStorage(place, silentLog),
    async probe(name) {
      const upstream = upstreams.get(name)
      if (upstream === undefined) return undefined
      return probeUpstream(createHttpClient(), upstream, config.publicUrl)
    },
    keyStatus: () =>
      withStorage(place, silentLog, async (opened) => {
        const check = commandKeyCheck(config, opened)
        return { keys: await check.status(), problems: await check.problems() }
      }),
    verifyActivity: ({ onProgress, ...more }) =>
      untilSignal((signal) =>
        withStorage(place, silentLog, async (opened) => {
          const verifier = activityVerifierFor(config, opened, more)
          return verifier.verify({ signal, onProgress })
        }),
      ),
    rewrapKeys: (onProgress) =>
      untilSignal((signal) =>
        withStorage(place, silentLog, (opened) =>
          rewrapKeys({ config, database: opened, signal, onProgress }),
        ),
      ),
  }
}

const leftoversMs = 2000

/** What only the storage room can tell of a database URL; opens nothing. */
function databaseProblems({ database }: BrokerConfig): readonly ConfigurationProblem[] {
  if (database.url === undefined) return []
  try {
    readDatabaseAddress(database.url, () => {})
    return []
  } catch (error) {
    if (!isOperatorError(error)) throw error
    return [{ path: 'database.url', message: error.message }]
  }
}

async function serve(
  config: BrokerConfig,
  warnings: Configuration['warnings'],
  output: CliOutput,
  signal: AbortSignal,
): Promise<number> {
  setGarbageCollection()
  // Only here: a command that asks a broker over REST starts in half the time without one of its own.
  const { openBroker } = await import('./broker.ts')
  const log = createLog(output.out)
  for (const { path, message } of warnings) log.warn({ event: 'configuration', path, message })
  const broker = await openBroker(config, {}, log)
  try {
    const url = await broker.listen()
    log.info({ event: 'ready', url, public_url: config.publicUrl, version })
    await aborted(signal)
    log.info({ event: 'stopping' })
  } finally {
    await broker.stop()
  }
  log.info({ event: 'stopped' })
  // What nobody waits for, such as a revocation, may still end well; a server that does not answer must not hold the process.
  setTimeout(() => process.exit(), leftoversMs).unref()
  return 0
}

/**
 * Runs until done, telling it of the first SIGTERM or SIGINT. A second SIGINT ends the process at once, because a person is
 * waiting; supervisors repeat SIGTERM, and what is being stored is stored.
 */
async function untilSignal<T>(run: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const abort = new AbortController()
  const stop = () => abort.abort()
  process.on('SIGTERM', stop)
  process.once('SIGINT', stop)
  try {
    return await run(abort.signal)
  } finally {
    // That of SIGTERM stays: what is left to do when this is over is done as well, however often it is repeated.
    process.off('SIGINT', stop)
  }
}

function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve()
  return new Promise((resolve) => {
    signal.addEventListener('abort', () => resolve(), { once: true })
  })
}

// Whoever reads the output may leave (`| head`, a log shipper that restarts), or its disk be full: no reason to end anything.
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {})

process.exitCode = await runCli({
  argv: process.argv.slice(2),
  env: process.env,
  cwd: process.cwd(),
  stdout: process.stdout,
  stderr: process.stderr,
  services,
})
