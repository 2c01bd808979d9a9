import { randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { bindLoopback, findFreePort } from './loopback-server.ts'
import {
  type SandboxAuthorizationServer,
  startSandboxAuthorizationServer,
} from './sandbox-authorization-server.ts'
import {
  type SandboxIdentityProvider,
  startSandboxIdentityProvider,
} from './sandbox-identity-provider.ts'
import {
  addReportTools,
  createNotesTools,
  type SandboxMcpUpstream,
  startSandboxMcpUpstream,
} from './sandbox-mcp-upstream.ts'

/** Everything around the broker, and the broker's configuration that fits it. */
export type DemoSandbox = {
  readonly publicUrl: string
  readonly identityProvider: SandboxIdentityProvider
  readonly notesServer: SandboxAuthorizationServer
  readonly notes: SandboxMcpUpstream
  readonly reports: SandboxMcpUpstream
  readonly serviceKey: string
  /** Whether a text holds a secret that passed here. */
  holdsSecret(text: string): boolean
  /** A parsed configuration file, before its defaults. */
  readonly config: unknown
  /** Ends the servers and removes the broker's data. */
  stop(): Promise<void>
}

/** Short, so that one sees a refresh while one waits. */
export const notesTokenSeconds = 14
/** So long before its end the broker renews it: a call that takes seconds on a busy machine still arrives with a good one. */
export const notesRefreshBeforeSeconds = 6

const brokerClientId = 'onbehalf'
const gatewayResource = {
  scopes: ['openid', 'email', 'profile'],
  accessTokenSeconds: 3600,
  format: 'jwt',
} as const

/** Starts the sandbox on free loopback ports. `port`: the broker's; 0 any free one; absent 8080, if it can be had. */
export async function startDemoSandbox(options: {
  readonly port: number | undefined
}): Promise<DemoSandbox> {
  const { port = await findFreePort(8080) } = options
  const publicUrl = `http://127.0.0.1:${port === 0 ? await findFreePort() : port}`
  const [identityAt, notesServerAt, notesAt, reportsAt] = await Promise.all([
    bindLoopback(),
    bindLoopback(),
    bindLoopback(),
    bindLoopback(),
  ])
  const dataDir = await mkdtemp(join(tmpdir(), 'onbehalf-demo-'))
  const loginSecret = randomSecret()
  const notesSecret = randomSecret()
  const serviceKey = randomSecret()
  const encryptionKey = randomBytes(32).toString('base64')
  const secrets = new Set([loginSecret, notesSecret, serviceKey, encryptionKey])
  const onSecret = (_kind: string, value: string): void => {
    secrets.add(value)
  }
  const notesUrl = `${notesAt.url}/mcp`
  const reportsUrl = `${reportsAt.url}/mcp`

  const identityProvider = await startSandboxIdentityProvider({
    at: identityAt,
    audience: publicUrl,
    broker: { clientId: brokerClientId, clientSecret: loginSecret },
    // For `onbehalf login`.
    newClients: ['registration'],
    targets: {
      [reportsUrl]: { scopes: ['reports:read'], accessTokenSeconds: 300, format: 'jwt' },
      // MCP clients at the broker's gateway name its address as the resource (RFC 8707).
      ...Object.fromEntries(
        ['notes', 'reports'].map((name) => [`${publicUrl}/mcp/${name}`, gatewayResource]),
      ),
    },
    onSecret,
  })
  const notesServer = await startSandboxAuthorizationServer({
    at: notesServerAt,
    displayName: 'Notes',
    clients: [
      {
        id: brokerClientId,
        name: 'onbehalf',
        secret: notesSecret,
        redirectUris: [`${publicUrl}/callback/notes`],
      },
    ],
    accounts: [
      { id: 'notes-ada', name: 'Ada at Notes', claims: {} },
      { id: 'notes-grace', name: 'Grace at Notes', claims: {} },
      { id: 'notes-linus', name: 'Linus at Notes', claims: {} },
    ],
    scopes: { 'notes:read': 'read your notes', 'notes:write': 'write notes for you' },
    resources: [notesUrl],
    accessTokenSeconds: notesTokenSeconds,
    onSecret,
  })
  const notes = await startSandboxMcpUpstream({
    at: notesAt,
    displayName: 'Notes',
    issuer: notesServer.issuer,
    scopes: ['notes:read', 'notes:write'],
    addTools: createNotesTools(),
  })
  const reports = await startSandboxMcpUpstream({
    at: reportsAt,
    displayName: 'Reports',
    issuer: identityProvider.issuer,
    scopes: ['reports:read'],
    addTools: addReportTools,
  })

  return {
    publicUrl,
    identityProvider,
    notesServer,
    notes,
    reports,
    serviceKey,
    holdsSecret: (text) => [...secrets].some((secret) => text.includes(secret)),
    config: {
      public_url: publicUrl,
      listen: { host: '127.0.0.1', port: Number(new URL(publicUrl).port) },
      data_dir: dataDir,
      encryption: { keys: [{ id: 'demo', secret: encryptionKey }] },
      identity: {
        issuers: [
          {
            issuer: identityProvider.issuer,
            algorithms: ['ES256'],
            require_at_jwt: true,
            // Its endpoints are discovered, and loopback addresses.
            allow_private_network: true,
          },
        ],
        login: {
          issuer: identityProvider.issuer,
          client_id: brokerClientId,
          client_secret: loginSecret,
        },
        admins: { roles: ['onbehalf-admin'] },
        services: [{ id: 'tool-proxy', key: serviceKey }],
      },
      upstreams: {
        notes: {
          url: notesUrl,
          kind: 'mcp',
          display_name: 'Notes',
          allow_private_network: true,
          credential: {
            mode: 'oauth_connect',
            issuer: notesServer.issuer,
            client_id: brokerClientId,
            client_secret: notesSecret,
            scopes: ['notes:read', 'notes:write'],
            refresh_before: `${notesRefreshBeforeSeconds}s`,
          },
        },
        reports: {
          url: reportsUrl,
          kind: 'mcp',
          display_name: 'Reports',
          allow_private_network: true,
          credential: {
            mode: 'token_exchange',
            issuer: identityProvider.issuer,
            client_id: brokerClientId,
            client_secret: loginSecret,
            scopes: ['reports:read'],
          },
        },
      },
    },
    async stop() {
      await Promise.all([identityAt, notesServerAt, notesAt, reportsAt].map((at) => at.stop()))
      await rm(dataDir, { recursive: true, force: true })
    },
  }
}

function randomSecret(): string {
  return `demo-${randomBytes(32).toString('base64url')}`
}
