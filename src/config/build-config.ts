import { dirname, resolve } from 'node:path'
import type { ActivityDestination } from '../core/activity-destination.ts'
import type { BrokerConfig } from './broker-config.ts'
import { buildIdentity } from './build-identity.ts'
import { buildUpstreams } from './build-upstream.ts'
import { refuseWhatIsNotYet } from './not-yet.ts'
import type { Report } from './problem.ts'
import type { ConfigFile } from './schema.ts'
import { requireSafeTransport } from './transport-rule.ts'

const daySeconds = 86_400

/**
 * Turns a file that fits the schema into what the rooms are built from, with every check that looks at more than one field.
 * The result counts only when no problem was reported. `path` is the file's own, absolute.
 */
export function buildConfig(file: ConfigFile, path: string, report: Report): BrokerConfig {
  refuseWhatIsNotYet(file, report)
  checkEncryptionKeys(file, report)
  checkMetricsAddress(file, report)
  const { listen } = file
  return {
    publicUrl: file.public_url,
    listen: { host: listen.host, port: listen.port, metrics: listen.metrics },
    dataDir: resolve(dirname(path), file.data_dir),
    database: { url: file.database.url, pool: file.database.pool },
    encryptionKeys: file.encryption.keys,
    identity: buildIdentity(file, report),
    upstreams: buildUpstreams(file, report),
    returnTo: file.return_to,
    allowedOrigins: file.allowed_origins,
    audit: {
      durability: file.audit.durability,
      spoolLimitBytes: file.audit.spool_limit,
      whenFull: file.audit.when_full,
      retentionDays: file.audit.retention / daySeconds,
      destinations: buildDestinations(file, report),
    },
  }
}

function checkEncryptionKeys(file: ConfigFile, report: Report): void {
  const ids = new Set<string>()
  for (const [index, { id }] of file.encryption.keys.entries()) {
    if (ids.has(id)) {
      report.problem(['encryption', 'keys', index, 'id'], 'is the id of another key too')
    }
    ids.add(id)
  }
}

function buildDestinations({ audit }: ConfigFile, report: Report): readonly ActivityDestination[] {
  const seen = new Set<string>()
  return audit.destinations.map((destination, index) => {
    const path = ['audit', 'destinations', index]
    const { kind, url, secret, allow_private_network: allowPrivateNetwork } = destination
    const setting = [...path, 'allow_private_network']
    requireSafeTransport(url, [...path, 'url'], { allowed: allowPrivateNetwork, setting }, report)
    if (seen.has(`${kind} ${url}`)) report.problem(path, 'is the same as another one')
    seen.add(`${kind} ${url}`)
    const named = `audit.destinations[${index}]`
    return { kind, url, secret, allowPrivateNetwork, setting: named }
  })
}

function checkMetricsAddress({ listen }: ConfigFile, report: Report): void {
  const { metrics } = listen
  if (metrics === undefined || metrics.port === 0 || metrics.port !== listen.port) return
  if (metrics.host !== listen.host) return
  report.problem(['listen', 'metrics'], 'must be another address than that of the service', [
    ['listen'],
  ])
}
