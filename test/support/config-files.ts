import type { BrokerConfig } from '../../src/config/broker-config.ts'
import { type LoadedConfig, loadConfig } from '../../src/config/loader.ts'
import type { Problem } from '../../src/config/problem.ts'

/** Base64 of 32 bytes: a key that passes. */
export const goodKey = Buffer.alloc(32, 7).toString('base64')
export const goodServiceKey = 'service-key-service-key-service-key'

/** A file as plain values; `undefined` leaves a setting out. */
export type FileValues = { [name: string]: unknown }

/** The least that is accepted, with one upstream of each mode, and changed as a test needs it. */
export function fileWith(changes: FileValues = {}): FileValues {
  return {
    public_url: 'https://broker.example.com',
    encryption: { keys: [{ id: 'k1', secret: goodKey }] },
    identity: { issuers: [{ issuer: 'https://login.example.com' }] },
    ...changes,
  }
}

export function identityWith(changes: FileValues): FileValues {
  return fileWith({
    identity: { issuers: [{ issuer: 'https://login.example.com' }], ...changes },
  })
}

export function issuerWith(changes: FileValues): FileValues {
  return identityWith({ issuers: [{ issuer: 'https://login.example.com', ...changes }] })
}

export const goodLogin = { issuer: 'https://login.example.com', client_id: 'onbehalf' }

/** One upstream named `files`, with sign-in. */
export function upstreamWith(changes: FileValues): FileValues {
  return {
    ...identityWith({ login: goodLogin }),
    upstreams: { files: { url: 'https://files.example.com/mcp', ...changes } },
  }
}

const connect = {
  mode: 'oauth_connect',
  issuer: 'https://as.example.com',
  client_id: 'onbehalf',
}

/** The same, by its credential. */
export function credentialWith(changes: FileValues): FileValues {
  return upstreamWith({ credential: { ...connect, ...changes } })
}

/** What a file system and an environment would give. */
export type Surroundings = {
  readonly env?: Readonly<Record<string, string>>
  readonly files?: Readonly<Record<string, string>>
}

export async function load(
  file: FileValues | string,
  { env = {}, files = {} }: Surroundings = {},
): Promise<LoadedConfig> {
  return loadConfig({
    text: typeof file === 'string' ? file : JSON.stringify(file),
    path: '/etc/onbehalf/onbehalf.yaml',
    env,
    readFile: (path) => {
      const text = files[path]
      return text === undefined
        ? Promise.reject(Object.assign(new Error('no such file'), { code: 'ENOENT' }))
        : Promise.resolve(text)
    },
  })
}

export async function problemsOf(
  file: FileValues | string,
  surroundings?: Surroundings,
): Promise<readonly Problem[]> {
  const loaded = await load(file, surroundings)
  return 'problems' in loaded ? loaded.problems : []
}

/** Fails with the problems when there are any. */
export async function configOf(
  file: FileValues | string,
  surroundings?: Surroundings,
): Promise<BrokerConfig> {
  const loaded = await load(file, surroundings)
  if ('config' in loaded) return loaded.config
  throw new Error(loaded.problems.map(({ path, message }) => `${path}: ${message}`).join('\n'))
}

export async function warningsOf(file: FileValues): Promise<readonly Problem[]> {
  const loaded = await load(file)
  if ('config' in loaded) return loaded.warnings
  throw new Error(loaded.problems.map(({ path, message }) => `${path}: ${message}`).join('\n'))
}
