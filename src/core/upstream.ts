import type { Person } from './caller.ts'
import type { Secret } from './secret.ts'

/** How a credential comes to be, as the configuration names it. */
export type CredentialMode = 'oauth_connect' | 'token_exchange' | 'entra_obo' | 'user_key'

/** The same, as records name it. */
export type MethodName =
  | 'token_exchange'
  | 'entra_obo'
  | 'connect'
  | 'id_jag'
  | 'user_key'
  | 'unknown'

/** How we authenticate at a token endpoint (RFC 6749 §2.3, RFC 7523 §2.2). */
export type ClientAuthentication =
  | { readonly method: 'client_secret_basic' | 'client_secret_post'; readonly secret: Secret }
  | {
      readonly method: 'private_key_jwt'
      readonly privateKeyPem: Secret
      readonly keyId: string | undefined
    }
  | { readonly method: 'none' }

/** What a server does with a refresh token that was used once. */
export type RefreshReuse =
  | { readonly kind: 'strict' }
  | { readonly kind: 'none' }
  | { readonly kind: 'grace'; readonly graceSeconds: number }

/**
 * What is not written and has to be found at the upstream itself (RFC 9728): only where people connect, and with a client id of
 * our own. What is found stands in the fields that the configuration left empty.
 */
export type CredentialDiscovery = {
  readonly issuer: boolean
  readonly resource: boolean
  readonly scopes: boolean
  /** Besides those fields; undefined before anything was found. */
  readonly found: { readonly issuerInResponses: boolean } | undefined
}

/** Where and how an upstream's credentials are acquired, as the configuration says or as it was found. */
export type UpstreamCredential = {
  readonly mode: CredentialMode
  /** Undefined where everything was written in the configuration. */
  readonly discovery: CredentialDiscovery | undefined
  /** Issuer for discovery (RFC 8414, OpenID Connect Discovery); the written endpoints win over what it says. */
  readonly issuer: string | undefined
  readonly authorizationEndpoint: string | undefined
  readonly tokenEndpoint: string | undefined
  readonly revocationEndpoint: string | undefined
  /** Empty where an exchange is made without a client of our own: then no `client_id` is sent. */
  readonly clientId: string
  readonly clientAuthentication: ClientAuthentication
  readonly scopes: readonly string[]
  /** What an upstream may ask for later, where `resource` does not bind the token to it. */
  readonly stepUpScopes: readonly string[]
  readonly authorizationParameters: Readonly<Record<string, string>>
  readonly tokenParameters: Readonly<Record<string, string>>
  /** The RFC 8707 resource to send; undefined where none is to be sent. */
  readonly resource: string | undefined
  /** RFC 8693 audiences. */
  readonly audiences: readonly string[]
  readonly subjectTokenType: 'access_token' | 'id_token' | 'jwt'
  /** Where in a token answer the token stands: top level, or one object down (Slack's `authed_user`). */
  readonly tokenAnswerMember: string | undefined
  readonly refreshBeforeSeconds: number
  readonly defaultLifetimeSeconds: number
  readonly refreshReuse: RefreshReuse
  readonly header: string
  /** Holds `{token}` once. */
  readonly headerFormat: string
}

export type Upstream = {
  readonly name: string
  readonly displayName: string
  readonly url: string
  readonly kind: 'mcp' | 'http'
  /** Who may use it: any listed role or user id; both empty = everybody. */
  readonly allow: { readonly roles: readonly string[]; readonly users: readonly string[] }
  readonly externalUrl: string | undefined
  readonly allowPrivateNetwork: boolean
  /** Of gateway calls: until connected, until the head of the answer, and while nothing comes. */
  readonly timeouts: {
    readonly connectMs: number
    readonly headMs: number
    readonly idleMs: number
  }
  readonly credential: UpstreamCredential
}

export const methodOfMode: Readonly<Record<CredentialMode, MethodName>> = {
  oauth_connect: 'connect',
  token_exchange: 'token_exchange',
  entra_obo: 'entra_obo',
  user_key: 'user_key',
}

/** Whether its credentials come from an exchange of the person's token: then nobody has to be asked for one. */
export function isExchanged({ credential: { mode } }: Upstream): boolean {
  return mode === 'token_exchange' || mode === 'entra_obo'
}

/** Whether a person connects it at an authorization server. */
export function isConnectable(upstream: Upstream): boolean {
  return upstream.credential.mode === 'oauth_connect'
}

/**
 * Whether `allow` lets this person use the upstream. An asserted person has no roles, so a list of roles alone refuses them.
 */
export function mayUseUpstream(
  person: Pick<Person, 'userId' | 'roles'>,
  upstream: Upstream,
): boolean {
  const { roles, users } = upstream.allow
  if (roles.length === 0 && users.length === 0) return true
  return users.includes(person.userId) || person.roles.some((role) => roles.includes(role))
}

/** The value of the header to inject. */
export function headerValue(credential: UpstreamCredential, accessToken: string): string {
  // A function as the replacement, so that `$&` inside a token stays what it is.
  return credential.headerFormat.replace('{token}', () => accessToken)
}

/**
 * What a stored credential is bound to. A difference to the row means that the configuration changed under it, judged when
 * it is read, so that restoring the value heals the connection.
 */
export type CredentialBinding = {
  readonly authorizationServer: string
  readonly clientId: string
  readonly resource: string | undefined
}

export function bindingOf(credential: UpstreamCredential): CredentialBinding {
  return {
    authorizationServer: credential.issuer ?? credential.tokenEndpoint ?? '',
    clientId: credential.clientId,
    resource: credential.resource,
  }
}

export function isSameBinding(a: CredentialBinding, b: CredentialBinding): boolean {
  return (
    a.authorizationServer === b.authorizationServer &&
    a.clientId === b.clientId &&
    a.resource === b.resource
  )
}
