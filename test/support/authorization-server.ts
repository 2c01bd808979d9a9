import {
  type SandboxAuthorizationServer,
  startSandboxAuthorizationServer,
} from '../../src/demo/sandbox-authorization-server.ts'
import {
  type SandboxIdentityProvider,
  type SandboxPerson,
  startSandboxIdentityProvider,
} from '../../src/demo/sandbox-identity-provider.ts'
import type {
  NewClients,
  RefreshReuseRule,
  SandboxClient,
  SandboxResource,
  SigningAlgorithm,
} from '../../src/demo/sandbox-provider.ts'
import type { SecretKind } from '../../src/demo/token-endpoint-log.ts'
import { type FaultyFront, rewriteJson, startFaultyFront } from './faulty-front.ts'
import { canaryPrefixes, type SecretScan } from './secret-scan.ts'

export { sandboxPeople } from '../../src/demo/sandbox-identity-provider.ts'
export { tokenExchangeGrant, jwtBearerGrant } from '../../src/demo/subject-token-exchange.ts'
export { signInAgent } from '../../src/demo/agent-sign-in.ts'
export {
  holdRequest,
  rewriteJson,
  startFaultyFront,
  type Fault,
  type FaultyFront,
} from './faulty-front.ts'

/** Where things are at either server, for `fail` and `received`. */
export const endpoints = {
  authorization: '/auth',
  token: '/token',
  registration: '/reg',
  revocation: '/token/revocation',
  introspection: '/token/introspection',
  userinfo: '/me',
  jwks: '/jwks',
  metadata: '/.well-known/oauth-authorization-server',
  openidMetadata: '/.well-known/openid-configuration',
} as const

const prefixes = {
  refreshToken: canaryPrefixes.refreshToken,
  code: canaryPrefixes.code,
  jti: canaryPrefixes.accessToken,
  clientSecret: canaryPrefixes.clientSecret,
}

type Common = Pick<FaultyFront, 'fail' | 'received' | 'stop'> & {
  readonly url: string
  readonly issuer: string
  readonly clientId: string
  readonly clientSecret: string
}

export type TestAuthorizationServer = Common &
  SandboxAuthorizationServer & {
    /** What the `iss` of authorization responses says from now on; the metadata go on promising it. */
    readonly answerWithIssuer: (issuer: 'right' | 'missing' | { readonly other: string }) => void
    /** Changes both metadata documents from now on. */
    readonly changeMetadata: (
      change: (metadata: Record<string, unknown>) => Record<string, unknown>,
    ) => () => void
  }

/** An upstream's authorization server: oidc-provider behind a front that can break every request. */
export async function startAuthorizationServer(options: {
  /** Where it may send people back to, such as `http://127.0.0.1:8080/callback/files`. */
  readonly redirectUris: readonly string[]
  readonly clientAuthentication?: NonNullable<SandboxClient['authentication']>
  /** Public keys of the client, for private_key_jwt. */
  readonly clientJwks?: NonNullable<SandboxClient['jwks']>
  readonly host?: string
  /** Ids of the accounts that one can choose. */
  readonly accounts?: readonly string[]
  readonly scopes?: readonly string[]
  /** Absent: tokens for whatever resource is asked for; then a request has to name one. */
  readonly resources?: readonly string[]
  readonly accessTokenFormat?: 'jwt' | 'opaque'
  readonly accessTokenSeconds?: number
  readonly refreshReuse?: RefreshReuseRule
  readonly newClients?: NewClients
  readonly scan?: SecretScan
}): Promise<TestAuthorizationServer> {
  const front = await startFaultyFront(options.host === undefined ? {} : { host: options.host })
  const clientSecret = `${canaryPrefixes.clientSecret}${crypto.randomUUID()}`
  const clientId = 'onbehalf-at-upstream'
  const server = await startSandboxAuthorizationServer({
    at: front.behind,
    issuer: front.url,
    displayName: 'Files',
    clients: [
      {
        id: clientId,
        name: 'onbehalf',
        redirectUris: options.redirectUris,
        ...(options.clientAuthentication === 'none' ? {} : { secret: clientSecret }),
        ...(options.clientAuthentication === undefined
          ? {}
          : { authentication: options.clientAuthentication }),
        ...(options.clientJwks === undefined ? {} : { jwks: options.clientJwks }),
      },
    ],
    accounts: (options.accounts ?? ['ada-at-files', 'grace-at-files']).map((id) => ({
      id,
      name: id,
      claims: {},
    })),
    scopes: Object.fromEntries(
      (options.scopes ?? ['files:read', 'files:write']).map((scope) => [scope, scope]),
    ),
    resources: options.resources ?? [],
    ...(options.accessTokenFormat === undefined
      ? {}
      : { accessTokenFormat: options.accessTokenFormat }),
    accessTokenSeconds: options.accessTokenSeconds ?? 3600,
    refreshReuse: options.refreshReuse ?? 'strict',
    ...(options.newClients === undefined ? {} : { newClients: options.newClients }),
    prefixes,
    onSecret: registerIn(options.scan),
    onError: reportError,
  })
  return {
    ...server,
    url: front.url,
    clientId,
    clientSecret,
    fail: front.fail,
    received: front.received,
    stop: front.stop,
    answerWithIssuer(issuer) {
      const named = issuer === 'right' ? front.url : issuer === 'missing' ? undefined : issuer.other
      front.fail(/^\/auth(\/|$)/, {
        kind: 'rewrite',
        change: ({ status, headers, body }) => ({
          status,
          headers: { ...headers, ...withIssuer(headers['location'], named) },
          body,
        }),
      })
    },
    changeMetadata(change) {
      const ends = [endpoints.metadata, endpoints.openidMetadata].map((path) =>
        front.fail(path, rewriteJson(change)),
      )
      return () => {
        for (const end of ends) end()
      }
    },
  }
}

/** The redirect back to the client is the one that carries an `iss`. */
function withIssuer(location: string | string[] | undefined, issuer: string | undefined) {
  if (typeof location !== 'string' || !URL.canParse(location)) return {}
  const url = new URL(location)
  if (!url.searchParams.has('iss')) return {}
  if (issuer === undefined) url.searchParams.delete('iss')
  else url.searchParams.set('iss', issuer)
  return { location: url.href }
}

export type TestIdentityProvider = Common & SandboxIdentityProvider

/** An identity provider: oidc-provider behind a front, with people to sign in, RFC 8693 and Entra's on-behalf-of. */
export async function startIdentityProvider(options: {
  /** Audience of its access tokens, and where sign-in returns to: the broker's public URL. */
  readonly audience: string
  readonly host?: string
  readonly people?: readonly SandboxPerson[]
  readonly algorithm?: SigningAlgorithm
  readonly accessTokenFormat?: 'jwt' | 'opaque'
  readonly accessTokenSeconds?: number
  readonly claimsIn?: 'id_token' | 'userinfo'
  readonly clientAuthentication?: 'client_secret_basic' | 'client_secret_post'
  /** What tokens can be exchanged for, by RFC 8707 resource or RFC 8693 audience. */
  readonly targets?: Readonly<Record<string, SandboxResource>>
  readonly newClients?: NewClients
  readonly scan?: SecretScan
}): Promise<TestIdentityProvider> {
  const { host, scan, clientAuthentication, ...rest } = options
  const front = await startFaultyFront(host === undefined ? {} : { host })
  const clientSecret = `${canaryPrefixes.clientSecret}${crypto.randomUUID()}`
  const clientId = 'onbehalf'
  const provider = await startSandboxIdentityProvider({
    ...rest,
    at: front.behind,
    issuer: front.url,
    broker: {
      clientId,
      clientSecret,
      authentication: clientAuthentication ?? 'client_secret_basic',
    },
    prefixes: { ...prefixes, jti: canaryPrefixes.inbound },
    onSecret: registerIn(scan),
    onError: reportError,
  })
  return {
    ...provider,
    url: front.url,
    clientId,
    clientSecret,
    fail: front.fail,
    received: front.received,
    stop: front.stop,
  }
}

function registerIn(scan: SecretScan | undefined): (kind: SecretKind, value: string) => void {
  return (kind, value) => scan?.register(kind, value)
}

function reportError(error: unknown): void {
  console.error('an error of the sandbox server', error)
}
