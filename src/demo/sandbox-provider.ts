import { randomBytes } from 'node:crypto'
import type { EventEmitter } from 'node:events'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { exportJWK, generateKeyPair, type JWTPayload, SignJWT } from 'jose'
import type {
  AccountClaims,
  Adapter,
  AdapterPayload,
  ClientAuthMethod,
  ClientMetadata,
  Configuration,
  KoaContextWithOIDC,
  ResourceServer,
} from 'oidc-provider'
import { InvalidTarget } from 'oidc-provider/lib/helpers/errors.js'
import { Provider } from 'oidc-provider/lib/provider.js'
import { sendPage } from './sandbox-page.ts'
import { createProviderStorage } from './provider-storage.ts'
import {
  createTokenEndpointRecorder,
  type SecretKind,
  type TokenEndpointLog,
} from './token-endpoint-log.ts'

/** Someone with an account at a sandbox server. */
export type SandboxAccount = {
  /** The `sub` of its tokens. */
  readonly id: string
  readonly name: string
  /** Claims of its tokens besides the standard ones. */
  readonly claims: Readonly<Record<string, unknown>>
}

/** A program registered at a sandbox server. */
export type SandboxClient = {
  readonly id: string
  readonly name: string
  /** Absent: a public client. */
  readonly secret?: string
  readonly authentication?: ClientAuthMethod
  /** The public keys of a client that uses private_key_jwt. */
  readonly jwks?: NonNullable<ClientMetadata['jwks']>
  readonly redirectUris: readonly string[]
  /** Besides authorization_code and refresh_token. */
  readonly grantTypes?: readonly string[]
}

/** A server whose access tokens a sandbox server makes (RFC 8707). */
export type SandboxResource = {
  readonly scopes: readonly string[]
  readonly accessTokenSeconds: number
  /** `jwt`: RFC 9068. */
  readonly format: 'jwt' | 'opaque'
}

export type SigningAlgorithm = 'ES256' | 'RS256' | 'EdDSA'

/** Put before what is made here, so that a leak scan knows it by sight. */
export type SecretPrefixes = {
  readonly refreshToken: string
  readonly code: string
  /** Of access tokens: the id that is in them. */
  readonly jti: string
  /** Of clients that register themselves. */
  readonly clientSecret: string
}

export type SandboxProviderOptions = {
  /** Prefix of the cookies: on loopback all servers share one cookie jar, whatever their port. */
  readonly name: string
  readonly issuer: string
  readonly clients: readonly SandboxClient[]
  readonly accounts: ReadonlyMap<string, SandboxAccount>
  readonly algorithm: SigningAlgorithm
  readonly findResource: (resource: string) => SandboxResource | undefined
  /** Used where a request names no resource. */
  readonly defaultResourceOf: (clientId: string) => string | undefined
  /** What a request without `scope` asks for (RFC 6749 §3.3). */
  readonly defaultScopes: readonly string[]
  readonly scopesSupported: readonly string[]
  /** Asked for again at every authorization, so that one browser can be several people. */
  readonly prompt: 'login' | 'login consent'
  readonly refreshReuse: RefreshReuseRule
  /** How programs that are not listed become clients. */
  readonly newClients?: NewClients | undefined
  readonly prefixes?: SecretPrefixes
  readonly onSecret: (kind: SecretKind, value: string) => void
  /** An error of the sandbox's own. */
  readonly onError: (error: unknown) => void
  readonly settings: Configuration
}

/**
 * `registration`: RFC 7591. `documents`: a client's id is the URL of its document. oidc-provider takes https alone there; these are
 * of this machine.
 */
export type NewClients = readonly ('registration' | 'documents')[]

/** `strict`: single use, a reuse ends the family; `none`: the same token for ever; else used tokens work for so long. */
export type RefreshReuseRule = 'strict' | 'none' | { readonly graceSeconds: number }

export type SandboxProvider = {
  readonly provider: Provider
  readonly log: TokenEndpointLog
  /** Signs any claims with the server's key. */
  readonly sign: (claims: JWTPayload, header?: { readonly typ?: string }) => Promise<string>
  readonly publicKeys: { readonly keys: readonly PublicKey[] }
  /** As a server does that is set up anew. */
  readonly forgetClient: (id: string) => Promise<unknown>
  readonly answer: (request: IncomingMessage, response: ServerResponse) => Promise<void>
}

type PublicKey = { readonly kty: string; readonly kid: string; readonly [member: string]: unknown }

/** An oidc-provider with what every sandbox server shares: keys of its own, storage in memory, no warning on the console. */
export async function createSandboxProvider(
  options: SandboxProviderOptions,
): Promise<SandboxProvider> {
  const recorder = createTokenEndpointRecorder(options.onSecret)
  const key = await generateSigningKey(options.algorithm)
  const { refreshReuse } = options
  const takesDocuments = options.newClients?.includes('documents') === true
  const storage = createProviderStorage({
    graceSeconds: typeof refreshReuse === 'object' ? refreshReuse.graceSeconds : 0,
    onReuse: () => recorder.recordReuse(),
  })
  const clientStorage = storage('Client')
  const provider = new Provider(options.issuer, {
    adapter: (model: string) => {
      if (model !== 'Client') return storage(model)
      return takesDocuments ? withClientDocuments(clientStorage) : clientStorage
    },
    rotateRefreshToken: refreshReuse !== 'none',
    clientDefaults: { id_token_signed_response_alg: options.algorithm },
    clients: options.clients.map((client) => clientMetadata(client, options.algorithm)),
    jwks: { keys: [key.privateJwk] },
    cookies: cookieSettings(options.name),
    features: featureSettings(options),
    ttl: lifetimes,
    pkce: { required: () => true },
    findAccount: (_context, sub) => findAccount(options.accounts, sub),
    extraTokenClaims: (_context, token) => {
      const account = 'accountId' in token ? options.accounts.get(token.accountId) : undefined
      return { name: account?.name, ...account?.claims }
    },
    issueRefreshToken: (_context, client) => client.grantTypeAllowed('refresh_token'),
    expiresWithSession: () => false,
    clientBasedCORS: () => false,
    interactions: { url: (_context, interaction) => `/interaction/${interaction.uid}` },
    renderError: (context, out) => {
      // oidc-provider would answer a browser's error in its own page.
      context.respond = false
      sendPage(context.res, context.status, {
        title: 'That did not work',
        paragraphs: [out.error, out.error_description ?? ''],
      })
    },
    ...options.settings,
  })
  applyPrefixes(provider, options.prefixes)
  provider.on('server_error', (_context, error) => options.onError(error))
  // Koa prints what nobody listens for.
  const koa: EventEmitter = provider
  koa.on('error', options.onError)
  provider.use(async (context, next) => {
    if (context.path === '/auth') {
      context.query = authorizationQuery(context.query, options)
      // Nobody is signed in at the beginning: the next one at this browser may be somebody else.
      delete context.req.headers.cookie
      context.cookies.set(`${options.name}_session`, null, cookieRules)
    }
    await next()
    if (context.path.startsWith('/.well-known/')) {
      Object.assign(context.body ?? {}, {
        scopes_supported: options.scopesSupported,
        ...(takesDocuments ? { client_id_metadata_document_supported: true } : {}),
      })
    }
    recorder.record(context as KoaContextWithOIDC)
  })
  const answer = provider.callback()
  for (const { secret } of options.clients) {
    if (secret !== undefined) options.onSecret('client_secret', secret)
  }
  return {
    provider,
    log: recorder,
    publicKeys: { keys: [key.publicJwk] },
    forgetClient: (id) => clientStorage.destroy(id),
    sign: (claims, header = {}) =>
      new SignJWT(claims)
        .setProtectedHeader({ alg: options.algorithm, kid: key.kid, typ: 'at+jwt', ...header })
        .sign(key.privateKey),
    answer: async (request, response) => {
      await answer(request, response)
    },
  }
}

async function generateSigningKey(algorithm: SigningAlgorithm) {
  const { publicKey, privateKey } = await generateKeyPair(algorithm, { extractable: true })
  const kid = randomBytes(8).toString('hex')
  const common = { kid, alg: algorithm, use: 'sig' as const }
  const [privateJwk, publicJwk] = await Promise.all([exportJWK(privateKey), exportJWK(publicKey)])
  return {
    kid,
    privateKey,
    privateJwk: { ...privateJwk, kty: privateJwk.kty ?? '', ...common },
    publicJwk: { ...publicJwk, kty: publicJwk.kty ?? '', ...common },
  }
}

function clientMetadata(client: SandboxClient, algorithm: SigningAlgorithm): ClientMetadata {
  const withoutSecret = client.secret === undefined
  return {
    client_id: client.id,
    client_name: client.name,
    ...(withoutSecret ? {} : { client_secret: client.secret }),
    ...(client.jwks === undefined ? {} : { jwks: client.jwks }),
    token_endpoint_auth_method:
      client.authentication ?? (withoutSecret ? 'none' : 'client_secret_basic'),
    redirect_uris: [...client.redirectUris],
    response_types: client.redirectUris.length === 0 ? [] : ['code'],
    grant_types: ['authorization_code', 'refresh_token', ...(client.grantTypes ?? [])],
    id_token_signed_response_alg: algorithm,
  }
}

function cookieSettings(name: string): NonNullable<Configuration['cookies']> {
  return {
    names: {
      session: `${name}_session`,
      interaction: `${name}_interaction`,
      resume: `${name}_resume`,
    },
    keys: [randomBytes(32)],
    long: cookieRules,
    short: cookieRules,
  }
}

const cookieRules = { httpOnly: true, sameSite: 'lax', signed: true } as const

function featureSettings(options: SandboxProviderOptions): NonNullable<Configuration['features']> {
  return {
    devInteractions: { enabled: false },
    dPoP: { enabled: false },
    pushedAuthorizationRequests: { enabled: false },
    rpInitiatedLogout: { enabled: false },
    registration: {
      enabled: options.newClients?.includes('registration') === true,
      secretFactory: () => newClientSecret(options),
    },
    introspection: { enabled: true, allowedPolicy: () => true },
    revocation: {
      enabled: true,
      allowedPolicy: (_context, client, token) => token.clientId === client.clientId,
    },
    resourceIndicators: {
      enabled: true,
      defaultResource: (_context, client, oneOf) =>
        oneOf ?? options.defaultResourceOf(client.clientId),
      useGrantedResource: () => true,
      getResourceServerInfo: (_context, resource) => {
        const found = options.findResource(resource)
        if (found === undefined) throw new InvalidTarget('unknown resource')
        return resourceServer(found, options.algorithm)
      },
    },
  }
}

function newClientSecret({ onSecret, prefixes }: SandboxProviderOptions): string {
  const secret = `${prefixes?.clientSecret ?? ''}${randomBytes(32).toString('base64url')}`
  onSecret('client_secret', secret)
  return secret
}

function withClientDocuments(storage: Adapter): Adapter {
  return {
    ...storage,
    async find(id) {
      if (!URL.canParse(id)) return storage.find(id)
      const answer = await fetch(id, { redirect: 'manual' })
      const document = answer.status === 200 ? ((await answer.json()) as AdapterPayload) : undefined
      return document?.['client_id'] === id ? document : undefined
    },
  }
}

export function resourceServer(
  resource: SandboxResource,
  algorithm: SigningAlgorithm,
): ResourceServer {
  return {
    scope: resource.scopes.join(' '),
    accessTokenTTL: resource.accessTokenSeconds,
    accessTokenFormat: resource.format,
    ...(resource.format === 'jwt' ? { jwt: { sign: { alg: algorithm } } } : {}),
  }
}

const hour = 60 * 60
const lifetimes: NonNullable<Configuration['ttl']> = {
  AccessToken: (_context, token) => token.resourceServer?.accessTokenTTL ?? hour,
  AuthorizationCode: 60,
  Grant: 24 * hour,
  IdToken: hour,
  Interaction: hour,
  RefreshToken: 24 * hour,
  Session: 24 * hour,
}

function findAccount(accounts: ReadonlyMap<string, SandboxAccount>, sub: string) {
  const account = accounts.get(sub)
  if (account === undefined) return undefined
  return {
    accountId: account.id,
    claims: (): AccountClaims => ({ ...account.claims, sub: account.id }),
  }
}

type Query = Readonly<Record<string, string | string[] | undefined>>

function authorizationQuery(query: Query, options: SandboxProviderOptions): Query {
  return {
    ...query,
    scope: query['scope'] ?? options.defaultScopes.join(' '),
    // `prompt=none` must go on failing where the person would have to be asked.
    prompt: query['prompt'] === 'none' ? 'none' : options.prompt,
  }
}

type WithTokenId = { prototype: { generateTokenId: (this: unknown) => string } }

function applyPrefixes(provider: Provider, prefixes: SandboxProviderOptions['prefixes']): void {
  if (prefixes === undefined) return
  for (const [model, prefix] of [
    [provider.RefreshToken, prefixes.refreshToken],
    [provider.AuthorizationCode, prefixes.code],
    [provider.AccessToken, prefixes.jti],
  ] as const) {
    const { prototype } = model as unknown as WithTokenId
    const generate = prototype.generateTokenId
    prototype.generateTokenId = function prefixed() {
      return `${prefix}${generate.call(this)}`
    }
  }
}
