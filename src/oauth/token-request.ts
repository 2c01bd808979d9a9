import { allowInsecureRequests, customFetch, genericTokenEndpointRequest } from 'oauth4webapi'
import * as z from 'zod'
import type { TokenSet } from '../core/credential.ts'
import { AcquisitionFailure } from '../core/failure-verdict.ts'
import { createLineLimit } from '../core/line-limit.ts'
import type { TokenRequestWatch } from '../core/ports/acquisition-method.ts'
import type { Clock } from '../core/ports/clock.ts'
import type { HttpClient, OutboundResponse } from '../core/ports/http-client.ts'
import { Secret } from '../core/secret.ts'
import type { Upstream } from '../core/upstream.ts'
import type { AuthorizationServers, ServerEndpoint } from './authorization-server.ts'
import { audienceOf, clientOf, sendForm } from './client-request.ts'
import { knownNameOf, verdictOfAnswer } from './failure.ts'
import { type GrantKind, readTokenAnswer, type TokenAnswer } from './token-answer.ts'
import type { TokenRequestLog, TokenRequestRefused } from './token-request-log.ts'

/** No complete readable answer within ten seconds is a lost answer. */
const tokenDeadlineMs = 10_000
const tokenMaxBytes = 256 * 1024

/** What a token request presents. */
export type TokenGrant = {
  readonly kind: GrantKind
  readonly grantType: string
  /** In the order to send them; a name may repeat. Secrets in clear: built right before sending, never kept. */
  readonly parameters: readonly (readonly [name: string, value: string])[]
  /** Whether `resource` goes along where the upstream has one (RFC 8707 §2.2). */
  readonly sendsResource: boolean
}

export interface TokenRequests {
  /** Asks the upstream's token endpoint once; a refusal is logged. @throws AcquisitionFailure */
  send(upstream: Upstream, grant: TokenGrant, watch?: TokenRequestWatch): Promise<TokenSet>

  /** Reads what `send` handed to `watch.keep`. @throws AcquisitionFailure where it is not readable */
  read(upstream: Upstream, kind: GrantKind, kept: Secret): TokenSet
}

export function createTokenRequests(ports: {
  readonly http: HttpClient
  readonly clock: Clock
  readonly servers: AuthorizationServers
  readonly log?: TokenRequestLog | undefined
  readonly onClientRefused?: ((upstream: Upstream) => Promise<void>) | undefined
  /** Told of each token endpoint before it is asked. */
  readonly onEndpoint?: ((upstream: Upstream, url: string) => void) | undefined
}): TokenRequests {
  const { http, clock, servers, log, onClientRefused, onEndpoint } = ports
  const mayLog = createLineLimit({ clock })

  async function send(
    upstream: Upstream,
    grant: TokenGrant,
    watch: TokenRequestWatch = {},
  ): Promise<TokenSet> {
    const server = await servers.token(upstream)
    onEndpoint?.(upstream, server.endpoint.url)
    const requestedAt = clock.now()
    const response = await post(http, upstream, server, { grant, maySend: watch.maySend })
    const isSuccess = response.status >= 200 && response.status <= 299
    if (isSuccess) await watch.keep?.(keptAnswer(response, requestedAt))
    const answer = readAnswer(upstream, grant.kind, response, requestedAt)
    if (answer.kind === 'tokens') return answer.tokens
    const verdict = verdictOfAnswer(response, answer, grant.kind, clock.now())
    warn({
      event: 'token_request_refused',
      upstream: upstream.name,
      grant: grant.kind,
      status: response.status,
      ...errorOf(answer),
      verdict: verdict.kind,
    })
    if (isOfUnknownClient(answer) && upstream.credential.discovery !== undefined) {
      await onClientRefused?.(upstream).catch(() => {})
    }
    throw new AcquisitionFailure(verdict)
  }

  function warn(line: TokenRequestRefused): void {
    const { upstream, grant, oauth_error: error, entra_code: code } = line
    if (mayLog([upstream, grant, error ?? '', code ?? ''].join(' '))) log?.warn(line)
  }

  return {
    send,
    read(upstream, kind, kept) {
      const { response, requestedAt } = readKept(kept)
      const answer = readAnswer(upstream, kind, response, requestedAt)
      if (answer.kind === 'tokens') return answer.tokens
      throw new AcquisitionFailure(verdictOfAnswer(response, answer, kind, clock.now()))
    },
  }
}

function readAnswer(
  upstream: Upstream,
  grant: GrantKind,
  response: OutboundResponse,
  requestedAt: Date,
): TokenAnswer {
  const { tokenAnswerMember, defaultLifetimeSeconds } = upstream.credential
  return readTokenAnswer(response, {
    grant,
    requestedAt,
    tokenAnswerMember,
    defaultLifetimeSeconds,
  })
}

/** An answer and when it was asked for, in one text; read again by `readKept` alone. */
function keptAnswer({ status, body }: OutboundResponse, requestedAt: Date): Secret {
  return new Secret(JSON.stringify({ status, body, requestedAt: requestedAt.getTime() }))
}

const keptMembers = z.object({ status: z.number(), body: z.string(), requestedAt: z.number() })

function readKept(kept: Secret): { response: OutboundResponse; requestedAt: Date } {
  const { status, body, requestedAt } = keptMembers.parse(JSON.parse(kept.reveal()))
  return { response: { status, body, headers: {} }, requestedAt: new Date(requestedAt) }
}

function isOfUnknownClient(answer: TokenAnswer): boolean {
  return answer.kind === 'error' && answer.error.error === 'invalid_client'
}

function errorOf(
  answer: Exclude<TokenAnswer, { kind: 'tokens' }>,
): Pick<TokenRequestRefused, 'oauth_error' | 'entra_code'> {
  if (answer.kind === 'unreadable') return { oauth_error: null }
  const { oauthError, entraCode } = knownNameOf(answer.error)
  return {
    oauth_error: oauthError,
    ...(entraCode === undefined ? {} : { entra_code: entraCode }),
  }
}

async function post(
  http: HttpClient,
  upstream: Upstream,
  server: ServerEndpoint,
  { grant, maySend }: { readonly grant: TokenGrant; readonly maySend: (() => boolean) | undefined },
): Promise<OutboundResponse> {
  const { client, authentication } = await clientOf(upstream)
  const form = formOf(upstream, grant)
  const limits = { deadlineMs: tokenDeadlineMs, maxBytes: tokenMaxBytes, maySend }
  return sendForm(http, server.endpoint, limits, (fetch) =>
    genericTokenEndpointRequest(
      { issuer: audienceOf(server), token_endpoint: server.endpoint.url },
      client,
      authentication,
      grant.grantType,
      form,
      { [customFetch]: fetch, [allowInsecureRequests]: true },
    ),
  )
}

/** The redeeming of a refresh token (RFC 6749 §6), asking for no more than was granted. */
export function refreshGrant(refreshToken: Secret, scopes: readonly string[]): TokenGrant {
  return {
    kind: 'refresh',
    grantType: 'refresh_token',
    parameters: [['refresh_token', refreshToken.reveal()], ...scopeParameter(scopes)],
    sendsResource: true,
  }
}

/** The redeeming of a code with the verifier of its own flow (RFC 6749 §4.1.3, RFC 7636 §4.5). */
export function codeGrant(options: {
  readonly code: Secret
  readonly codeVerifier: Secret
  readonly redirectUri: string
}): TokenGrant {
  return {
    kind: 'code',
    grantType: 'authorization_code',
    parameters: [
      ['code', options.code.reveal()],
      ['redirect_uri', options.redirectUri],
      ['code_verifier', options.codeVerifier.reveal()],
    ],
    sendsResource: true,
  }
}

/** `scope`, where there is anything to ask for. */
export function scopeParameter(
  scopes: readonly string[],
): readonly (readonly [name: string, value: string])[] {
  return scopes.length === 0 ? [] : [['scope', scopes.join(' ')]]
}

/** Ours whatever the method: a written parameter of such a name is another client, grant or proof than the configured one. */
const reservedParameters = new Set([
  'grant_type',
  'client_id',
  'client_secret',
  'client_assertion',
  'client_assertion_type',
])

function formOf(upstream: Upstream, grant: TokenGrant): URLSearchParams {
  const { resource, tokenParameters } = upstream.credential
  const form = new URLSearchParams()
  for (const [name, value] of grant.parameters) form.append(name, value)
  if (grant.sendsResource && resource !== undefined) form.set('resource', resource)
  for (const [name, value] of Object.entries(tokenParameters)) {
    if (!form.has(name) && !reservedParameters.has(name)) form.append(name, value)
  }
  return form
}
