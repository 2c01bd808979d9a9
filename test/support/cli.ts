import { readFile } from 'node:fs/promises'
import { runCli } from '../../src/cli/run-cli.ts'
import type { CliServices, Configuration } from '../../src/cli/services.ts'
import { configJsonSchema } from '../../src/config/json-schema.ts'
import { loadConfigFile } from '../../src/config/loader.ts'
import { bareUpstream } from '../../src/oauth/bare-upstream.ts'
import { checkEndpoint } from '../../src/oauth/endpoint-check.ts'
import { createPersonSignIns } from '../../src/oauth/person-sign-in.ts'
import { probeUpstream } from '../../src/oauth/upstream-probe.ts'
import { createHttpClient } from '../../src/outbound/http-client.ts'
import { generateKey } from '../../src/sealing/keyring.ts'

/** What one call of the program did. */
export type CliRun = { readonly code: number; readonly stdout: string; readonly stderr: string }

/** What the commands do with a good configuration, as far as a test needs it. */
export type ConfiguredActions = Partial<
  Pick<Configuration, 'serve' | 'migrate' | 'keyStatus' | 'rewrapKeys' | 'verifyActivity'>
>

/** Runs the command line in this process: the real configuration, and for the rest what the test gives. */
export async function onbehalf(
  argv: readonly string[],
  options: {
    readonly env?: Readonly<Record<string, string>>
    readonly cwd?: string
    readonly actions?: ConfiguredActions
    readonly services?: Partial<CliServices>
    /** A person looks at stderr. */
    readonly isWatched?: boolean
    /** Of the terminal that shows stdout. */
    readonly columns?: number
  } = {},
): Promise<CliRun> {
  let stdout = ''
  let stderr = ''
  const code = await runCli({
    argv,
    env: options.env ?? {},
    cwd: options.cwd ?? '/nowhere',
    stdout: {
      ...(options.columns === undefined ? {} : { columns: options.columns }),
      write: (text) => (stdout += text),
    },
    stderr: { isTTY: options.isWatched === true, write: (text) => (stderr += text) },
    services: {
      version: '1.2.3',
      configure: async ({ path, env }) => {
        const loaded = await loadConfigFile({
          path,
          env,
          readFile: (file) => readFile(file, 'utf8'),
        })
        if ('problems' in loaded) return loaded
        const { config, warnings } = loaded
        return {
          configuration: {
            warnings,
            summary: {
              issuers: config.identity.issuers.length,
              services: config.identity.services.length,
              upstreams: config.upstreams.size,
              database: config.database.url === undefined ? 'embedded' : 'postgresql',
            },
            serve: notCalled,
            migrate: notCalled,
            probe: async (name) => {
              const upstream = config.upstreams.get(name)
              if (upstream === undefined) return undefined
              return probeUpstream(createHttpClient(), upstream, config.publicUrl)
            },
            keyStatus: notCalled,
            rewrapKeys: notCalled,
            verifyActivity: notCalled,
            ...options.actions,
          },
        }
      },
      generateKey,
      configSchema: configJsonSchema,
      demo: notCalled,
      probe: (url, allowed) =>
        probeUpstream(createHttpClient(), bareUpstream(url, allowed), 'https://broker.example.com'),
      checkEndpoint: (url, allowed) => checkEndpoint(createHttpClient(), url, allowed),
      signIns: createPersonSignIns({
        http: createHttpClient(),
        clock: { now: () => new Date() },
      }),
      openBrowser: () => false,
      fetch: (url, init) => fetch(url, init),
      ...options.services,
    },
  })
  return { code, stdout, stderr }
}

function notCalled(): Promise<never> {
  return Promise.reject(new Error('this test does not expect it'))
}
