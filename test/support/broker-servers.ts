import { randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import {
  startAuthorizationServer,
  startIdentityProvider,
  type TestAuthorizationServer,
  type TestIdentityProvider,
} from './authorization-server.ts'
import type { FileValues } from './config-files.ts'
import type { NewClients } from '../../src/demo/sandbox-provider.ts'
import { createTestDatabase, type TestDatabase } from './database.ts'
import { canaryPrefixes, createSecretScan, type SecretScan } from './secret-scan.ts'
import { findTestPort } from './test-port.ts'

/** What a broker needs around it, and the configuration that joins them. */
export type BrokerServers = {
  readonly identityProvider: TestIdentityProvider
  /** Of the upstream `files` (`oauth_connect`). */
  readonly authorizationServer: TestAuthorizationServer
  readonly database: TestDatabase
  readonly scan: SecretScan
  readonly serviceKey: string
  readonly encryptionKey: string
  readonly config: TestConfig
  readonly stop: () => Promise<void>
}

export type BrokerServersOptions = {
  readonly change?: (config: TestConfig) => void
  readonly accessTokenSeconds?: number
  readonly refreshReuse?: 'strict' | 'none'
  readonly storeSubjectToken?: boolean
  /** Where `files` is, and the audience of its tokens; there is nothing at the default. */
  readonly filesUrl?: string
  /** How others than the configured client become clients of the authorization server. */
  readonly newClients?: NewClients
}

/** The file's shape, loosely: tests change any of it. */
export type TestConfig = FileValues & {
  public_url: string
  listen: FileValues
  data_dir: string
  database: { url?: string; pool?: number }
  encryption: { keys: { id: string; secret: string }[] }
  identity: FileValues & {
    issuers: FileValues[]
    login: FileValues
    services: FileValues[]
  }
  upstreams: Record<
    'files' | 'reports' | 'graph',
    FileValues & { credential: FileValues & { client_id: string } }
  >
}

export const filesUrl = 'http://127.0.0.1/files'
export const reportsTarget = 'http://127.0.0.1/reports'

/**
 * Upstreams: `files` (oauth_connect), `reports` (token_exchange) and `graph` (entra_obo), the last two at the identity provider.
 * `change` edits the configuration before it is used.
 */
export async function startBrokerServers(
  options: BrokerServersOptions = {},
): Promise<BrokerServers> {
  const scan = createSecretScan()
  const port = await findTestPort()
  const url = `http://127.0.0.1:${port}`
  const database = await createTestDatabase()
  const dataDir = await mkdtemp(join(tmpdir(), 'onbehalf-test-'))
  const serviceKey = `${canaryPrefixes.clientSecret}service-${randomBytes(24).toString('hex')}`
  const encryptionKey = randomBytes(32).toString('base64')
  scan.register('service key', serviceKey)
  scan.register('encryption key', encryptionKey)
  const identityProvider = await startIdentityProvider({
    audience: url,
    targets: {
      [reportsTarget]: { scopes: ['reports:read'], accessTokenSeconds: 300, format: 'jwt' },
      // What an MCP client asks a token for, as the broker's own document tells it.
      [`${url}/mcp/files`]: { scopes: ['openid', 'email'], accessTokenSeconds: 300, format: 'jwt' },
    },
    newClients: ['registration'],
    scan,
  })
  const authorizationServer = await startAuthorizationServer({
    redirectUris: [`${url}/callback/files`],
    accounts: ['ada-at-files', 'grace-at-files'],
    resources: [options.filesUrl ?? filesUrl],
    accessTokenSeconds: options.accessTokenSeconds ?? 3600,
    refreshReuse: options.refreshReuse ?? 'strict',
    ...(options.newClients === undefined ? {} : { newClients: options.newClients }),
    scan,
  })
  const config: TestConfig = {
    public_url: url,
    listen: { port },
    data_dir: dataDir,
    database: { url: database.url },
    encryption: { keys: [{ id: 'k1', secret: encryptionKey }] },
    identity: {
      issuers: [{ issuer: identityProvider.issuer, algorithms: ['ES256'] }],
      login: {
        issuer: identityProvider.issuer,
        client_id: identityProvider.clientId,
        client_secret: identityProvider.clientSecret,
        scopes: ['openid', 'email', 'profile'],
        store_subject_token: options.storeSubjectToken ?? false,
      },
      admins: { roles: ['onbehalf-admin'], users: ['linus'] },
      services: [{ id: 'edge', key: serviceKey, upstreams: ['*'], may_assert_user: true }],
    },
    upstreams: {
      files: {
        url: options.filesUrl ?? filesUrl,
        kind: 'mcp',
        display_name: 'Files',
        credential: {
          mode: 'oauth_connect',
          issuer: authorizationServer.issuer,
          client_id: authorizationServer.clientId,
          client_secret: authorizationServer.clientSecret,
          scopes: ['files:read'],
        },
      },
      reports: {
        url: 'http://127.0.0.1/reports',
        kind: 'http',
        credential: {
          mode: 'token_exchange',
          token_endpoint: `${identityProvider.url}/token`,
          client_id: identityProvider.clientId,
          client_secret: identityProvider.clientSecret,
          resource: reportsTarget,
          scopes: ['reports:read'],
        },
      },
      graph: {
        url: 'http://127.0.0.1/graph',
        kind: 'http',
        credential: {
          mode: 'entra_obo',
          token_endpoint: `${identityProvider.url}/token`,
          client_id: identityProvider.clientId,
          client_secret: identityProvider.clientSecret,
          scopes: [`${reportsTarget}/.default`],
        },
      },
    },
  }
  options.change?.(config)

  return {
    identityProvider,
    authorizationServer,
    database,
    scan,
    serviceKey,
    encryptionKey,
    config,
    async stop() {
      await identityProvider.stop()
      await authorizationServer.stop()
      await database.drop()
      await rm(dataDir, { recursive: true, force: true })
    },
  }
}
