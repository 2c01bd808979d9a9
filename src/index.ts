import { readFile } from 'node:fs/promises'
import { resolve } from 'node:path'
import { type Broker, openBroker } from './broker.ts'
import type { BrokerHooks } from './wiring/compose.ts'
import { loadConfig } from './config/loader.ts'
import { OperatorError } from './core/operator-error.ts'

export type { Broker } from './broker.ts'
export type { BrokerHooks } from './wiring/compose.ts'
export { BrokerError, type ErrorCode } from './core/errors.ts'
export { OperatorError } from './core/operator-error.ts'
export type { PolicyHook, PolicyQuestion } from './core/policy.ts'
export type { EmbeddedResolver } from './core/embedded-resolver.ts'
export type { ResolvedCredential } from './core/ports/broker-services.ts'

/**
 * A broker inside another Node program. `config` has the shape of the configuration file (docs/configuration.md), read already;
 * `${file:…}` works in it, `${NAME}` finds what `env` holds, and relative paths start at the working directory.
 * Call `listen()`, or mount `app`, and `stop()` in the end.
 * @throws OperatorError configuration_refused with every problem, a line each, and whatever else keeps it from starting
 */
export async function createBroker(
  config: object,
  hooks: BrokerHooks = {},
  env: Readonly<Record<string, string | undefined>> = {},
): Promise<Broker> {
  const loaded = await loadConfig({
    text: JSON.stringify(config),
    path: resolve('onbehalf.yaml'),
    env,
    readFile: (path) => readFile(path, 'utf8'),
  })
  if ('problems' in loaded) {
    const lines = loaded.problems.map(({ path, message }) =>
      path === '' ? message : `${path}: ${message}`,
    )
    throw new OperatorError('configuration_refused', lines.join('\n'))
  }
  return openBroker(loaded.config, hooks)
}
