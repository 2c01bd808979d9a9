import type { Service } from './caller.ts'
import type { Secret } from './secret.ts'
import type { ClientAuthentication } from './upstream.ts'

/** An issuer whose access tokens people present. */
export type Issuer = {
  readonly issuer: string
  readonly audiences: readonly string[]
  readonly validation: 'jwt' | 'introspection' | 'jwt_then_introspection'
  /** Discovered from the issuer when absent. */
  readonly jwksUri: string | undefined
  readonly algorithms: readonly string[]
  /** For HS256 only. */
  readonly secret: Secret | undefined
  readonly introspection:
    | {
        readonly endpoint: string
        readonly clientId: string
        readonly clientSecret: Secret
        readonly cacheSeconds: number
      }
    | undefined
  readonly requiredScopes: readonly string[]
  readonly requiredClaims: Readonly<Record<string, string | number | boolean>>
  readonly claims: ClaimNames
  readonly allowPrivateNetwork: boolean
  readonly requireAtJwt: boolean
}

/** Which claims say who a person is. */
export type ClaimNames = { readonly user: string; readonly email: string; readonly roles: string }

/** Browser sign-in at one of the issuers (OpenID Connect, code + PKCE). */
export type Login = {
  readonly issuer: string
  readonly clientId: string
  readonly clientAuthentication: ClientAuthentication
  readonly scopes: readonly string[]
  readonly storeSubjectToken: boolean
  readonly sessionSeconds: number
  readonly allowPrivateNetwork: boolean
}

/** Whose people are admins: any listed role or user id, of this issuer only. */
export type Admins = {
  readonly issuer: string
  readonly roles: readonly string[]
  readonly users: readonly string[]
}

export type ServiceWithKeys = Service & { readonly keys: readonly Secret[] }
