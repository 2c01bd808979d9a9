import { isDeepStrictEqual } from 'node:util'
import type { Report } from './problem.ts'
import { configFileSchema, type ConfigFile } from './schema.ts'

const reason = 'is not available in this version yet; leave it out'

/**
 * Refuses what the schema knows and this version does not do, wherever it is other than the default: a setting that is
 * silently ignored would be worse.
 */
export function refuseWhatIsNotYet(file: ConfigFile, report: Report): void {
  for (const [name, value] of Object.entries(file.authorization_server)) {
    const byDefault: unknown = Reflect.get(defaultAuthorizationServer, name)
    if (!isDeepStrictEqual(value, byDefault)) {
      report.problem(['authorization_server', name], reason)
    }
  }
}

const defaultAuthorizationServer = configFileSchema.shape.authorization_server.parse(undefined)
