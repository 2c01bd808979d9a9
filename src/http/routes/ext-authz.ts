import type { AuditReason } from '../../core/audit-event.ts'
import { type Actor, mayUseUpstreamThrough, type Person, type Service } from '../../core/caller.ts'
import { BrokerError, isBrokerError } from '../../core/errors.ts'
import type { ResolvedCredential } from '../../core/ports/broker-services.ts'
import { auditReasonOf } from '../../core/resolution-recorder.ts'
import { Secret } from '../../core/secret.ts'
import type { Upstream } from '../../core/upstream.ts'
import { parseBearer, sendsToken } from '../callers.ts'
import { refuseAmbiguousHead, refuseDotSegments, requestIdOf } from '../edge.ts'
import type { HttpApp, HttpContext } from '../http-env.ts'
import type { Problems } from '../problem.ts'
import type { HttpServices } from '../services.ts'
import { withChallenge } from '../with-challenge.ts'

/** What gateways that ask us understand: everything else of ours becomes one of these. */
const statusThere: Readonly<Record<number, 401 | 403 | 503>> = {
  400: 401,
  401: 401,
  403: 403,
  404: 403,
  405: 403,
}

/**
 * `/ext-authz/{upstream}`: the credential of one person for another gateway, which asks before it forwards a call: nginx
 * `auth_request`, Envoy `ext_authz`, Traefik `forwardAuth`, Caddy `forward_auth`.
 *
 * The gateway proves itself by its service key, the person by the bearer of the call. Neither method, path, nor anything that the
 * gateway says about the original request counts: who could make it say something else would decide.
 */
export function addExtAuthzRoute(
  app: HttpApp,
  services: Pick<
    HttpServices,
    'authenticator' | 'challenge' | 'clock' | 'refusals' | 'resolver' | 'upstreams'
  >,
  problems: Problems,
): void {
  const { authenticator, challenge, clock, refusals, resolver, upstreams } = services

  async function answer(c: HttpContext, requestId: string): Promise<Response> {
    const startedAt = clock.now()
    refuseAmbiguousHead(c.env?.incoming)
    // What a gateway writes behind our address is its caller's: `../reports` would be another upstream's credential.
    refuseDotSegments(c.env?.incoming?.url)
    const service = serviceOf(c)
    refusals.admit()
    const call: Call = { requestId, startedAt, actor: { kind: 'service', id: service.id } }
    const upstream = upstreamOf(c, call, service)
    const { person, token } = await personOf(c, call, upstream)
    const resolved = await resolver.resolve({
      ...call,
      person,
      subjectToken: new Secret(token),
      service,
      upstream,
      rejected: undefined,
    })
    return credentialAnswer(resolved, requestId)
  }

  function serviceOf(c: HttpContext): Service {
    const key = c.req.header('x-onbehalf-service-key')
    const service = key === undefined ? undefined : authenticator.findService(key)
    if (service !== undefined) return service
    throw new BrokerError('unauthenticated')
  }

  function upstreamOf(c: HttpContext, call: Call, service: Service): Upstream {
    const name = c.req.param('upstream') ?? ''
    const upstream = upstreams.get(name)
    if (upstream === undefined) {
      throw refused(call, undefined, new BrokerError('unknown_upstream'))
    }
    if (!mayUseUpstreamThrough(service, name)) {
      throw refused(call, upstream, new BrokerError('upstream_not_allowed'))
    }
    return upstream
  }

  async function personOf(
    c: HttpContext,
    call: Call,
    upstream: Upstream,
  ): Promise<{ readonly person: Person; readonly token: string }> {
    const header = c.req.header('authorization')
    const target = { kind: 'external', upstream } as const
    try {
      const token = header === undefined ? undefined : parseBearer(header)
      // A service key is no person's token, and is shown to no introspection.
      if (token === undefined || authenticator.findService(token) !== undefined) {
        throw new BrokerError('unauthenticated')
      }
      const person = await authenticator.verifyBearer(token, { kind: 'upstream', upstream })
      return { person, token }
    } catch (error) {
      if (isBrokerError(error, 'insufficient_scope')) {
        const named = withChallenge(error, (refusal) => challenge(refusal, target))
        throw refused(call, upstream, named)
      }
      if (!isBrokerError(error, 'unauthenticated', 'invalid_request')) {
        throw refused(call, upstream, error)
      }
      const sent = sendsToken(header) ? 'invalid_token' : undefined
      const details = { challenge: challenge({ error: sent, scopes: [] }, target), cause: error }
      throw refused(call, upstream, new BrokerError('invalid_subject_token', details))
    }
  }

  /** Records the refusal and gives it back. */
  function refused(call: Call, upstream: Upstream | undefined, error: unknown): unknown {
    const reason: AuditReason = auditReasonOf(error)
    refusals.refused({ ...call, person: undefined, upstream, reason })
    return error
  }

  /** The refusal in one of the statuses that those gateways pass on, with what a client needs in headers too. */
  function refusalAnswer(c: HttpContext, error: unknown, requestId: string): Response {
    const { problem, headers } = problems.answer(error, requestId)
    const status = statusThere[problem.status] ?? 503
    const named = isBrokerError(error) ? error.details.challenge : undefined
    return new Response(JSON.stringify({ ...problem, status }), {
      status,
      headers: {
        'content-type': 'application/problem+json',
        'x-content-type-options': 'nosniff',
        'x-request-id': requestId,
        'x-onbehalf-error': problem.code,
        ...(problem.connect_url === undefined
          ? {}
          : { 'x-onbehalf-connect-url': problem.connect_url }),
        ...(status === 503 ? { 'retry-after': '5' } : {}),
        ...headers,
        // Whoever refused may have known of no document but that of our own API, which is not what the client called.
        ...(status === 401 ? { 'www-authenticate': named ?? plainChallenge(c) } : {}),
      },
    })
  }

  function plainChallenge(c: HttpContext): string {
    const upstream = upstreams.get(c.req.param('upstream') ?? '')
    if (upstream === undefined) return 'Bearer'
    return challenge({ error: undefined, scopes: [] }, { kind: 'external', upstream })
  }

  /** The record is safe before the credential leaves, or the refusal. */
  async function recorded(answered: Promise<Response>): Promise<Response> {
    try {
      return await answered
    } finally {
      await refusals.settled()
    }
  }

  async function authorize(c: HttpContext): Promise<Response> {
    const requestId = requestIdOf(c.req.header('x-request-id'))
    try {
      return await recorded(answer(c, requestId))
    } catch (error) {
      return refusalAnswer(c, error, requestId)
    }
  }

  app.all('/ext-authz/:upstream', authorize)
  app.all('/ext-authz/:upstream/*', authorize)
}

function credentialAnswer({ header, value }: ResolvedCredential, requestId: string): Response {
  // Not null, which is sent as chunks: an announced length of 0 is one packet.
  return new Response('', {
    status: 200,
    headers: {
      [header]: value,
      'cache-control': 'no-store',
      'x-content-type-options': 'nosniff',
      'x-request-id': requestId,
    },
  })
}

type Call = { readonly requestId: string; readonly startedAt: Date; readonly actor: Actor }
