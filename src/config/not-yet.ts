import { isDeepStrictEqual } from 'node:util'
import type { Path, Report } from './problem.ts'
import { configFileSchema, type ConfigFile } from './schema.ts'

const reason = 'is not available in this version yet; leave it out'

/**
 * Refuses what the schema knows and this version does not do, wherever it is other than the default: a setting that is
 * silently ignored would be worse.
 */
export function refuseWhatIsNotYet(file: ConfigFile, report: Report): void {
  const refuse = (path: Path, isAsked: boolean): void => {
    if (isAsked) report.problem(path, reason)
  }
  for (const [name, upstream] of Object.entries(file.upstreams)) {
    const path = ['upstreams', name]
    const { credential } = upstream
    refuse([...path, 'credential', 'idp'], credential?.idp !== undefined)
  }
  for (const [name, value] of Object.entries(file.authorization_server)) {
    const byDefault: unknown = Reflect.get(defaultAuthorizationServer, name)
    refuse(['authorization_server', name], !isDeepStrictEqual(value, byDefault))
  }
}

const defaultAuthorizationServer = configFileSchema.shape.authorization_server.parse(undefined)
