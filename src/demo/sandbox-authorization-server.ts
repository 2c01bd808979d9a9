import type { LoopbackServer } from './loopback-server.ts'
import { createInteractions } from './sandbox-interactions.ts'
import {
  createSandboxProvider,
  type NewClients,
  type RefreshReuseRule,
  type SandboxProvider,
  type SandboxAccount,
  type SandboxClient,
  type SecretPrefixes,
} from './sandbox-provider.ts'
import type { SecretKind, TokenEndpointLog } from './token-endpoint-log.ts'

export type AuthorizationServerOptions = {
  readonly at: LoopbackServer
  /** Where people reach it, when something stands before it. Default: its own address. */
  readonly issuer?: string
  /** What it guards, such as `Notes`. */
  readonly displayName: string
  readonly clients: readonly SandboxClient[]
  readonly accounts: readonly SandboxAccount[]
  /** Name of each scope and what it allows, for the consent page. */
  readonly scopes: Readonly<Record<string, string>>
  /** The RFC 8707 resources that it makes tokens for; the first is the default. Empty: whatever is asked for. */
  readonly resources: readonly string[]
  readonly accessTokenFormat?: 'jwt' | 'opaque'
  readonly accessTokenSeconds: number
  readonly refreshReuse?: RefreshReuseRule
  readonly newClients?: NewClients
  readonly prefixes?: SecretPrefixes
  readonly onSecret?: (kind: SecretKind, value: string) => void
  readonly onError?: (error: unknown) => void
}

export type SandboxAuthorizationServer = TokenEndpointLog &
  Pick<SandboxProvider, 'forgetClient'> & { readonly issuer: string }

/**
 * Starts the authorization server of an upstream: choice of an account there, consent, PKCE S256, `iss` in its answers
 * (RFC 9207), short access tokens aimed at a resource (RFC 8707), rotating refresh tokens, revocation.
 */
export async function startSandboxAuthorizationServer(
  options: AuthorizationServerOptions,
): Promise<SandboxAuthorizationServer> {
  const { at, displayName, scopes, resources } = options
  const issuer = options.issuer ?? at.url
  const accounts = new Map(options.accounts.map((account) => [account.id, account]))
  const known = {
    scopes: Object.keys(scopes),
    accessTokenSeconds: options.accessTokenSeconds,
    format: options.accessTokenFormat ?? 'jwt',
  }
  const [defaultResource] = resources
  const { provider, log, answer, forgetClient } = await createSandboxProvider({
    name: `sandbox_${displayName.toLowerCase()}`,
    issuer,
    accounts,
    algorithm: 'ES256',
    clients: options.clients,
    findResource: (resource) =>
      resources.length === 0 || resources.includes(resource) ? known : undefined,
    defaultResourceOf: () => defaultResource,
    defaultScopes: known.scopes,
    scopesSupported: known.scopes,
    prompt: 'login consent',
    refreshReuse: options.refreshReuse ?? 'strict',
    newClients: options.newClients,
    ...(options.prefixes === undefined ? {} : { prefixes: options.prefixes }),
    onSecret: options.onSecret ?? (() => {}),
    onError: options.onError ?? (() => {}),
    settings: {},
  })
  const interact = createInteractions({
    provider,
    accounts,
    pages: {
      choiceName: 'account',
      choose: (client) => ({
        title: `Which account at ${displayName}?`,
        paragraphs: [`${client} asks for access to an account of yours.`],
      }),
      consent: (client, asked) => ({
        title: `Allow ${client} to use your ${displayName} account?`,
        paragraphs: ['It will be able to:'],
        list: asked.map((scope) => scopes[scope] ?? scope),
      }),
    },
  })
  at.serve(
    async (request, response) => {
      const isInteraction = request.url?.startsWith('/interaction/') ?? false
      await (isInteraction ? interact(request, response) : answer(request, response))
    },
    { host: new URL(issuer).host },
  )
  return { ...log, issuer, forgetClient }
}
