import { compactVerify } from 'jose'
import * as oauth from 'oauth4webapi'
import { BrokerError } from '../core/errors.ts'
import type { Issuer, Login } from '../core/issuer.ts'
import type { Clock } from '../core/ports/clock.ts'
import type { HttpClient } from '../core/ports/http-client.ts'
import { Secret } from '../core/secret.ts'
import { clientAuthOf } from '../oauth/client-authentication.ts'
import { type Claims, clockToleranceSeconds } from './claims.ts'
import type { IdentityLog } from './identity-log.ts'
import { createIssuerKeys } from './issuer-keys.ts'
import { discoverIssuer, endpointOf } from './issuer-metadata.ts'
import { createIssuerNetwork, IssuerFailure, readJson } from './issuer-network.ts'
import { readJwt } from './jwt.ts'

/** What the login issuer gave for a code or a refresh token. */
export type LoginTokens = {
  readonly accessToken: Secret
  /** Absent when nobody said. */
  readonly accessTokenExpiresAt: Date | undefined
  /** Absent in some answers to a refresh. */
  readonly idToken:
    | { readonly text: Secret; readonly claims: Claims; readonly expiresAt: Date }
    | undefined
  readonly refreshToken: Secret | undefined
}

/** Our client at the login issuer (OpenID Connect Core, code flow). All throw BrokerError issuer_unavailable. */
export interface OidcClient {
  /** Where the browser goes to sign in: PKCE S256 (RFC 7636), state and nonce. `claims` is a server's challenge to pass on. */
  authorizationUrl(request: {
    readonly state: string
    readonly nonce: string
    readonly codeVerifier: string
    readonly claims: Secret | undefined
  }): Promise<string>

  /** Whether an answer without `iss` is to be refused (RFC 9207 §2.4). */
  promisesIssuer(): Promise<boolean>

  /**
   * Redeems a code whose state and issuer were checked before. The ID token is checked in full: signature, issuer, audience,
   * nonce and times. Undefined when the code or the ID token is not good.
   */
  redeem(answer: {
    readonly code: Secret
    readonly nonce: string
    readonly codeVerifier: string
  }): Promise<LoginTokens | undefined>

  /** Undefined when the refresh token is not good any more. */
  refresh(refreshToken: Secret): Promise<LoginTokens | undefined>

  /**
   * What the userinfo endpoint says of the subject (OpenID Connect Core §5.3). Undefined when there is none or it refuses the
   * token. @throws BrokerError unauthenticated when it speaks of someone else.
   */
  userinfo(accessToken: Secret, subject: unknown): Promise<Claims | undefined>
}

const metadataKeptMs = 10 * 60_000
/** A lifetime that no date can hold would fail when it is stored. */
const longestLifeSeconds = 366 * 24 * 60 * 60
const usualAlgorithms = ['RS256', 'ES256', 'EdDSA']

/** The metadata of the login issuer, as far as sign-in uses them. */
type LoginServer = {
  readonly authorizationEndpoint: string
  readonly userinfoEndpoint: string | undefined
  readonly server: oauth.AuthorizationServer
}

export function createOidcClient(options: {
  readonly login: Login
  /** The entry of `identity.issuers` with the login's issuer. */
  readonly issuer: Issuer
  readonly publicUrl: string
  readonly http: HttpClient
  readonly clock: Clock
  readonly log: IdentityLog | undefined
}): OidcClient {
  const { login, issuer, publicUrl, http, clock, log } = options
  const redirectUri = `${publicUrl}/login/callback`
  const network = createIssuerNetwork({
    http,
    issuer: login.issuer,
    written: [issuer.jwksUri],
    allowPrivateNetwork: login.allowPrivateNetwork,
    setting: 'identity.login.allow_private_network',
  })
  const { jwksUri } = issuer
  const keys = createIssuerKeys({ issuer: login.issuer, jwksUri, network, clock, log })
  const asymmetric = issuer.algorithms.filter((algorithm) => !algorithm.startsWith('HS'))
  const idTokenAlgorithms = asymmetric.length === 0 ? usualAlgorithms : asymmetric
  let known: { readonly value: LoginServer; readonly atMs: number } | undefined
  let loading: Promise<LoginServer> | undefined

  async function loginServer(): Promise<LoginServer> {
    const nowMs = clock.now().getTime()
    if (known !== undefined && nowMs - known.atMs < metadataKeptMs) return known.value
    // One question for all: whoever opens a page without a session comes by here, and needs no account for that.
    loading ??= loadMetadata(nowMs).finally(() => {
      loading = undefined
    })
    return loading
  }

  /** An outage keeps the last metadata in use: they change rarely, and sign-in would stop for nothing. */
  async function loadMetadata(nowMs: number): Promise<LoginServer> {
    try {
      const metadata = await discoverIssuer(network, login.issuer)
      known = { value: readMetadata(metadata), atMs: nowMs }
      return known.value
    } catch (error) {
      if (known !== undefined && error instanceof IssuerFailure) return known.value
      throw error
    }
  }

  function readMetadata(metadata: Claims): LoginServer {
    const hasUserinfo = metadata['userinfo_endpoint'] !== undefined
    return {
      authorizationEndpoint: endpointOf(metadata, 'authorization_endpoint', network),
      userinfoEndpoint: hasUserinfo
        ? endpointOf(metadata, 'userinfo_endpoint', network)
        : undefined,
      server: {
        issuer: login.issuer,
        token_endpoint: endpointOf(metadata, 'token_endpoint', network),
        authorization_response_iss_parameter_supported:
          metadata['authorization_response_iss_parameter_supported'] === true,
        // Ours, not theirs: what the library takes is what the configuration allows.
        id_token_signing_alg_values_supported: idTokenAlgorithms,
      },
    }
  }

  function client(): oauth.Client {
    return {
      client_id: login.clientId,
      [oauth.clockSkew]: Math.round((clock.now().getTime() - Date.now()) / 1000),
      [oauth.clockTolerance]: clockToleranceSeconds,
    }
  }

  const requestOptions = {
    // The address rules are the network's, which knows what the operator allowed.
    [oauth.allowInsecureRequests]: true,
    [oauth.customFetch]: async (
      url: string,
      { body, headers }: oauth.CustomFetchOptions<'POST', URLSearchParams>,
    ): Promise<Response> => {
      const answer = await network.send({ url, method: 'POST', headers, body: body.toString() })
      const isAnswer = answer.status === 200 || (answer.status >= 400 && answer.status < 500)
      if (!isAnswer) throw new IssuerFailure('refused')
      return new Response(answer.body, {
        status: answer.status,
        headers: { 'content-type': answer.headers['content-type'] ?? '' },
      })
    },
  }

  const authorizationUrl: OidcClient['authorizationUrl'] = (request) =>
    asking(async () => {
      const { authorizationEndpoint } = await loginServer()
      const url = new URL(authorizationEndpoint)
      const parameters: Record<string, string | undefined> = {
        response_type: 'code',
        client_id: login.clientId,
        redirect_uri: redirectUri,
        scope: login.scopes.join(' '),
        state: request.state,
        nonce: request.nonce,
        code_challenge: await oauth.calculatePKCECodeChallenge(request.codeVerifier),
        code_challenge_method: 'S256',
        claims: request.claims?.reveal(),
      }
      for (const [name, value] of Object.entries(parameters)) {
        if (value !== undefined) url.searchParams.set(name, value)
      }
      return url.href
    })

  const promisesIssuer: OidcClient['promisesIssuer'] = () =>
    asking(async () => {
      const { server } = await loginServer()
      return server.authorization_response_iss_parameter_supported === true
    })

  const redeem: OidcClient['redeem'] = ({ code, nonce, codeVerifier }) =>
    asking(async () => {
      const { server } = await loginServer()
      const us = client()
      // State and issuer were checked against the flow; the library wants an answer to check, so it gets one that fits.
      const params = new URLSearchParams({ code: code.reveal(), iss: server.issuer })
      const response = await oauth.authorizationCodeGrantRequest(
        server,
        us,
        await clientAuthOf(login.clientAuthentication),
        oauth.validateAuthResponse(server, us, params),
        redirectUri,
        codeVerifier,
        requestOptions,
      )
      const answer = await oauth.processAuthorizationCodeResponse(server, us, response, {
        expectedNonce: nonce,
        requireIdToken: true,
      })
      if (!(await isSignedByIssuer(answer.id_token))) return undefined
      return readTokens(answer)
    })

  const refresh: OidcClient['refresh'] = (refreshToken) =>
    asking(async () => {
      const { server } = await loginServer()
      const us = client()
      const response = await oauth.refreshTokenGrantRequest(
        server,
        us,
        await clientAuthOf(login.clientAuthentication),
        refreshToken.reveal(),
        requestOptions,
      )
      // No signature check here: it could fail for want of keys, and a rotated refresh token would be lost with the answer. It
      // comes straight from the token endpoint (OpenID Connect Core §3.1.3.7, rule 6).
      return readTokens(await oauth.processRefreshTokenResponse(server, us, response))
    })

  function readTokens(answer: oauth.TokenEndpointResponse): LoginTokens {
    const claims = oauth.getValidatedIdTokenClaims(answer)
    return {
      accessToken: new Secret(answer.access_token),
      accessTokenExpiresAt: expiryOf(answer),
      idToken:
        answer.id_token === undefined || claims === undefined
          ? undefined
          : {
              text: new Secret(answer.id_token),
              claims,
              expiresAt: new Date(claims.exp * 1000),
            },
      refreshToken:
        answer.refresh_token === undefined ? undefined : new Secret(answer.refresh_token),
    }
  }

  function expiryOf(answer: oauth.TokenEndpointResponse): Date | undefined {
    if (answer.expires_in !== undefined) {
      return new Date(
        clock.now().getTime() + Math.min(answer.expires_in, longestLifeSeconds) * 1000,
      )
    }
    const exp = readJwt(answer.access_token)?.claims['exp']
    return isDateSeconds(exp) ? new Date(exp * 1000) : undefined
  }

  /** An identity rests on it, so it is checked although TLS brought it. */
  async function isSignedByIssuer(idToken: string | undefined): Promise<boolean> {
    if (idToken === undefined) return false
    const { alg, kid } = readJwt(idToken)?.header ?? {}
    if (typeof alg !== 'string' || !idTokenAlgorithms.includes(alg)) return false
    const key = await keys.find(typeof kid === 'string' ? kid : undefined, alg)
    if (key === undefined) return false
    return compactVerify(idToken, key.publicKey, { algorithms: [alg] }).then(
      () => true,
      () => false,
    )
  }

  const userinfo: OidcClient['userinfo'] = (accessToken, subject) =>
    asking(async () => {
      const { userinfoEndpoint } = await loginServer()
      if (userinfoEndpoint === undefined) return undefined
      const response = await network.send({
        url: userinfoEndpoint,
        method: 'GET',
        headers: { accept: 'application/json', authorization: `Bearer ${accessToken.reveal()}` },
      })
      // An access token that is meant for another server is refused here, and the ID token has to do.
      if (response.status >= 400 && response.status < 500) return undefined
      const claims = readJson(response)
      if (claims['sub'] !== subject) throw new BrokerError('unauthenticated')
      return claims
    })

  /** Turns what can go wrong into our own few words. Nothing of an answer travels on in an error. */
  async function asking<T>(work: () => Promise<T>): Promise<T>
  async function asking<T>(work: () => Promise<T | undefined>): Promise<T | undefined> {
    try {
      return await work()
    } catch (error) {
      if (error instanceof BrokerError) throw error
      if (isRefusal(error)) return undefined
      const failure = failureOf(error)
      if (failure === undefined) throw error
      log?.warn({ event: 'sign_in_unavailable', issuer: login.issuer, failure })
      throw new BrokerError('issuer_unavailable')
    }
  }

  return { authorizationUrl, promisesIssuer, redeem, refresh, userinfo }
}

function isDateSeconds(value: unknown): value is number {
  return typeof value === 'number' && !Number.isNaN(new Date(value * 1000).getTime())
}

/** The code, the refresh token or the ID token itself is not good; everything else is trouble with the issuer. */
function isRefusal(error: unknown): boolean {
  if (error instanceof oauth.ResponseBodyError) return error.error === 'invalid_grant'
  return (
    error instanceof oauth.OperationProcessingError &&
    (error.code === oauth.JWT_TIMESTAMP_CHECK || error.code === oauth.JWT_CLAIM_COMPARISON)
  )
}

function failureOf(error: unknown): IssuerFailure['kind'] | undefined {
  if (error instanceof IssuerFailure) return error.kind
  if (error instanceof oauth.ResponseBodyError) return 'refused'
  const isUnreadable =
    error instanceof oauth.OperationProcessingError ||
    error instanceof oauth.UnsupportedOperationError
  return isUnreadable ? 'unreadable' : undefined
}
