import { randomBytes } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { JWTPayload } from 'jose'
import type { KoaContextWithOIDC } from 'oidc-provider'
import type { LoopbackServer } from './loopback-server.ts'
import { sendJson } from './loopback-server.ts'
import { createInteractions } from './sandbox-interactions.ts'
import { sendPage } from './sandbox-page.ts'
import {
  createSandboxProvider,
  type NewClients,
  type SandboxAccount,
  type SandboxClient,
  type SandboxResource,
  type SecretPrefixes,
  type SigningAlgorithm,
} from './sandbox-provider.ts'
import {
  jwtBearerGrant,
  registerSubjectTokenExchange,
  tokenExchangeGrant,
} from './subject-token-exchange.ts'
import type { SecretKind, TokenEndpointLog } from './token-endpoint-log.ts'

/** Someone who can sign in at the sandbox identity provider. */
export type SandboxPerson = {
  readonly id: string
  readonly name: string
  readonly email: string
  readonly roles: readonly string[]
}

export const sandboxPeople: readonly SandboxPerson[] = [
  { id: 'ada', name: 'Ada Lovelace', email: 'ada@example.test', roles: ['engineer'] },
  { id: 'grace', name: 'Grace Hopper', email: 'grace@example.test', roles: ['engineer'] },
  { id: 'linus', name: 'Linus Pauling', email: 'linus@example.test', roles: ['onbehalf-admin'] },
]

/** The public client that stands for a person's agent. */
export const agentClientId = 'agent'

export type IdentityProviderOptions = {
  readonly at: LoopbackServer
  /** Where people reach it, when something stands before it. Default: its own address. */
  readonly issuer?: string
  /** Audience of the access tokens of sign-in and agent: the broker's public URL. */
  readonly audience: string
  readonly accessTokenFormat?: 'jwt' | 'opaque'
  readonly accessTokenSeconds?: number
  readonly algorithm?: SigningAlgorithm
  /** `userinfo`: the ID token says `sub` alone, and the access token of a sign-in is good for the userinfo endpoint only. */
  readonly claimsIn?: 'id_token' | 'userinfo'
  /** The broker as a client. It may exchange tokens, too. */
  readonly broker: {
    readonly clientId: string
    readonly clientSecret: string
    readonly authentication?: 'client_secret_basic' | 'client_secret_post'
  }
  readonly clients?: readonly SandboxClient[]
  readonly people?: readonly SandboxPerson[]
  /** How programs that are not listed become clients. */
  readonly newClients?: NewClients
  /** What tokens can be exchanged for. */
  readonly targets?: Readonly<Record<string, SandboxResource>>
  readonly prefixes?: SecretPrefixes
  readonly onSecret?: (kind: SecretKind, value: string) => void
  readonly onError?: (error: unknown) => void
}

export type SandboxIdentityProvider = TokenEndpointLog & {
  readonly issuer: string
  readonly publicKeys: { readonly keys: readonly { readonly [member: string]: unknown }[] }
  /** Where the agent's sign-in ends: a page that says so. */
  readonly agentRedirectUri: string
  /** An access token as a sign-in would give it (RFC 9068), without the way through a browser; for the audience above. */
  issueAccessToken(
    person: string,
    options?: { readonly lifetimeSeconds?: number; readonly claims?: JWTPayload },
  ): Promise<string>
  /** Signs anything with its key. */
  sign(claims: JWTPayload, header?: { readonly typ?: string }): Promise<string>
}

/** Starts an identity provider with a sign-in page of one button a person, RFC 8693 and Entra's on-behalf-of. */
export async function startSandboxIdentityProvider(
  options: IdentityProviderOptions,
): Promise<SandboxIdentityProvider> {
  const { at, audience, claimsIn = 'id_token', algorithm = 'ES256' } = options
  const issuer = options.issuer ?? at.url
  const agentRedirectUri = `${issuer}/agent/callback`
  const accounts = new Map((options.people ?? sandboxPeople).map((one) => [one.id, account(one)]))
  const targets = new Map(Object.entries(options.targets ?? {}))
  const own: SandboxResource = {
    scopes: ['openid', 'email', 'profile'],
    accessTokenSeconds: options.accessTokenSeconds ?? 3600,
    format: options.accessTokenFormat ?? 'jwt',
  }
  const onSecret = options.onSecret ?? (() => {})
  const sandbox = await createSandboxProvider({
    name: 'sandbox_idp',
    issuer,
    accounts,
    algorithm,
    clients: [
      {
        id: options.broker.clientId,
        name: 'onbehalf',
        secret: options.broker.clientSecret,
        authentication: options.broker.authentication ?? 'client_secret_basic',
        redirectUris: [`${audience}/login/callback`],
        grantTypes: [tokenExchangeGrant, jwtBearerGrant],
      },
      { id: agentClientId, name: "a person's agent", redirectUris: [agentRedirectUri] },
      ...(options.clients ?? []),
    ],
    findResource: (resource) => (resource === audience ? own : targets.get(resource)),
    // An access token for userinfo has no audience, so such a sign-in names no resource.
    defaultResourceOf: (clientId) =>
      claimsIn === 'userinfo' && clientId === options.broker.clientId ? undefined : audience,
    defaultScopes: ['openid'],
    scopesSupported: [...own.scopes, 'offline_access'],
    prompt: 'login',
    refreshReuse: 'strict',
    newClients: options.newClients,
    ...(options.prefixes === undefined ? {} : { prefixes: options.prefixes }),
    onSecret,
    onError: options.onError ?? (() => {}),
    settings: {
      scopes: ['openid', 'email', 'profile', 'offline_access'],
      claims: {
        openid: ['sub', 'roles'],
        email: ['email', 'email_verified'],
        profile: ['name'],
      },
      conformIdTokenClaims: claimsIn === 'userinfo',
      loadExistingGrant: grantWhatIsAskedFor,
    },
  })
  const { provider, log } = sandbox
  registerSubjectTokenExchange(sandbox, {
    algorithm,
    accounts,
    audienceOf: (clientId) => (clientId === options.broker.clientId ? audience : clientId),
    findTarget: (resource) => targets.get(resource),
  })
  const interact = createInteractions({
    provider,
    accounts,
    pages: {
      choiceName: 'person',
      choose: (client) => ({
        title: 'Who are you?',
        paragraphs: [`Signing in to ${client}.`],
      }),
      consent: (client) => ({ title: `Allow ${client}?`, paragraphs: [] }),
    },
  })

  async function issueAccessToken(
    person: string,
    tokenOptions: { readonly lifetimeSeconds?: number; readonly claims?: JWTPayload } = {},
  ): Promise<string> {
    const now = Math.floor(Date.now() / 1000)
    const jti = `${options.prefixes?.jti ?? ''}${randomBytes(16).toString('base64url')}`
    const token = await sandbox.sign({
      ...accounts.get(person)?.claims,
      iss: issuer,
      sub: person,
      aud: audience,
      client_id: agentClientId,
      scope: 'openid email',
      jti,
      iat: now,
      exp: now + (tokenOptions.lifetimeSeconds ?? own.accessTokenSeconds),
      ...tokenOptions.claims,
    })
    onSecret('access_token', token)
    return token
  }

  async function answerOwnPages(
    request: IncomingMessage,
    response: ServerResponse,
  ): Promise<boolean> {
    const { pathname, searchParams } = new URL(request.url ?? '/', issuer)
    if (pathname.startsWith('/interaction/')) {
      await interact(request, response)
    } else if (pathname === '/agent/callback') {
      sendPage(response, 200, {
        title: 'The agent is signed in',
        paragraphs: ['It has its answer; close this page.'],
      })
    } else if (pathname === '/sandbox/access-token') {
      const person = searchParams.get('person') ?? ''
      if (!accounts.has(person)) sendJson(response, 404, { people: [...accounts.keys()] })
      else response.writeHead(200, plainText).end(await issueAccessToken(person))
    } else {
      return false
    }
    return true
  }

  at.serve(
    async (request, response) => {
      if (!(await answerOwnPages(request, response))) await sandbox.answer(request, response)
    },
    { host: new URL(issuer).host },
  )
  return {
    ...log,
    issuer,
    publicKeys: sandbox.publicKeys,
    agentRedirectUri,
    issueAccessToken,
    sign: sandbox.sign,
  }
}

const plainText = { 'content-type': 'text/plain', 'cache-control': 'no-store' }

function account({ id, name, email, roles }: SandboxPerson): SandboxAccount {
  return { id, name, claims: { name, email, email_verified: true, roles } }
}

/** The clients here are the organisation's own: signing in is enough, nobody is asked for consent. */
async function grantWhatIsAskedFor({ oidc }: KoaContextWithOIDC) {
  const { accountId } = oidc.session ?? {}
  const grant = new oidc.provider.Grant({ accountId, clientId: oidc.client?.clientId })
  grant.addOIDCScope(oidc.requestParamOIDCScopes)
  for (const indicator of Object.keys(oidc.resourceServers ?? {})) {
    grant.addResourceScope(indicator, oidc.requestParamScopes)
  }
  await grant.save()
  return grant
}
