import { z } from '@hono/zod-openapi'
import type { AuditReason } from '../../core/audit-event.ts'
import { type Actor, mayUseUpstreamThrough, type Person, type Service } from '../../core/caller.ts'
import { BrokerError, isBrokerError } from '../../core/errors.ts'
import type { BearerUse } from '../../core/ports/authenticator.ts'
import type { ResolvedCredential } from '../../core/ports/broker-services.ts'
import { auditReasonOf } from '../../core/resolution-recorder.ts'
import { Secret } from '../../core/secret.ts'
import type { Upstream } from '../../core/upstream.ts'
import { parseBearer, refuseQueryToken, sendsToken } from '../callers.ts'
import { refuseAmbiguousHead, requestIdOf } from '../edge.ts'
import { endOfTurn } from '../end-of-turn.ts'
import type { HttpApp, HttpContext } from '../http-env.ts'
import type { Problems } from '../problem.ts'
import { readJson } from '../request-body.ts'
import { describeRoute } from '../routing.ts'
import type { HttpServices } from '../services.ts'

/** Text that PostgreSQL can keep and a record can show: no control character, no half of a surrogate pair. */
const identifier = z
  .string()
  .min(1)
  .max(512)
  .regex(/^[^\p{Cc}\p{Cs}]+$/u)
  // Written again: the generator of the document keeps the flag as text, and such a pattern fits nothing.
  .openapi({ pattern: '^[^\\p{Cc}\\p{Cs}]+$' })

const resolveBody = z
  .strictObject({
    upstream: z.string().min(1),
    subject_token: z.string().min(1).optional().describe("The person's access token"),
    user: z
      .strictObject({ issuer: identifier, id: identifier })
      .optional()
      .describe('Instead of `subject_token`, for a service with `may_assert_user`'),
    rejected: z
      .string()
      .optional()
      .describe('The fingerprint of a credential that the upstream answered 401 to'),
  })
  .openapi('ResolveRequest')

const resolveAnswer = z
  .object({
    header: z.string(),
    value: z.string(),
    expires_at: z.iso.datetime().nullable(),
    fingerprint: z.string(),
    max_age: z.int().describe('Whole seconds for which the credential may be used without asking'),
  })
  .openapi('ResolvedCredential')

/**
 * `POST /api/v1/resolve`: the credential of one person for one upstream, for a service. The hot path of the product, so it is a
 * plain handler with its own head and tail: it is added before the edge, and nothing but it runs.
 *
 * Judged in this order: the service (401), the body (400), room in the activity log (503), an assertion (403, 400), the
 * upstream (404), the service's right to it (403), the person's token (401, 503), then whatever the resolver says. From an
 * admitted, well-formed call on, each leaves exactly one record.
 */
export function addResolveRoute(
  app: HttpApp,
  services: Pick<
    HttpServices,
    'authenticator' | 'challenge' | 'clock' | 'refusals' | 'resolver' | 'upstreams'
  >,
  problems: Problems,
): void {
  const { authenticator, challenge, clock, refusals, resolver } = services
  const nobody = challenge({ error: undefined, scopes: [] })
  const badToken = challenge({ error: 'invalid_token', scopes: [] })
  const targets = new Map<string, Target>(
    [...services.upstreams].map(([name, upstream]) => [
      name,
      { upstream, use: { kind: 'upstream', upstream } },
    ]),
  )

  /** One function, which awaits only what is a promise: each one more is a good part of what a warm call costs. */
  async function answer(c: HttpContext): Promise<Response> {
    const startedAt = clock.now()
    const requestId = requestIdOf(c.req.header('x-request-id'))
    let isAdmitted = false
    try {
      refuseAmbiguousHead(c.env?.incoming)
      const service = authenticate(c)
      const body = await readJson(c, resolveBody)
      refuseBothOrNeither(body)
      refusals.admit()
      isAdmitted = true
      const call: Call = { requestId, startedAt, actor: { kind: 'service', id: service.id } }
      const asserted = body.user === undefined ? undefined : assertPerson(call, service, body.user)
      const target = findTarget(call, service, asserted, body.upstream)
      const subjectToken = body.subject_token
      const verified =
        asserted === undefined
          ? verifyPerson(call, target, subjectToken ?? '')
          : admitAsserted(call, target, asserted)
      const person = verified instanceof Promise ? await verified : verified
      // Written out: spreading `call` first would make every further field a slow one.
      const resolved = resolver.resolve({
        requestId,
        startedAt,
        actor: call.actor,
        person,
        subjectToken: subjectToken === undefined ? undefined : new Secret(subjectToken),
        service,
        upstream: target.upstream,
        rejected: body.rejected,
      })
      const credential = resolved instanceof Promise ? await resolved : resolved
      // The record is safe before the credential leaves; that is at the end of the turn as well.
      await (refusals.settled() ?? endOfTurn())
      return credentialAnswer(credential, service, requestId)
    } catch (error) {
      const unsafe = isAdmitted
        ? await refusals.settled()?.catch((fault: unknown) => fault)
        : undefined
      return problems.respond(unsafe ?? error, requestId)
    }
  }

  function authenticate(c: HttpContext): Service {
    const header = c.req.header('authorization')
    refuseQueryToken(c.req.url, header !== undefined)
    const key = header === undefined ? undefined : parseBearer(header)
    const service = key === undefined ? undefined : authenticator.findService(key)
    if (service !== undefined) return service
    throw new BrokerError('unauthenticated', {
      challenge: sendsToken(header) ? badToken : nobody,
      expectation: 'Send the key of a service (identity.services) as the bearer.',
    })
  }

  function assertPerson(
    call: Call,
    service: Service,
    user: { readonly issuer: string; readonly id: string },
  ): Person {
    if (!service.mayAssertUser) {
      refuse(call, { person: undefined, upstream: undefined, reason: 'forbidden' })
      throw new BrokerError('forbidden', {
        field: 'user',
        expectation: 'This service may not assert a person (may_assert_user).',
      })
    }
    try {
      return authenticator.assertPerson({ issuer: user.issuer, userId: user.id })
    } catch (error) {
      // An issuer that is not configured makes the request a malformed one, which leaves no record.
      if (isBrokerError(error, 'invalid_request')) throw error
      throw refusedPerson(call, undefined, error)
    }
  }

  function findTarget(
    call: Call,
    service: Service,
    person: Person | undefined,
    name: string,
  ): Target {
    const target = targets.get(name)
    if (target === undefined) {
      refuse(call, { person, upstream: undefined, reason: 'unknown_upstream' })
      throw new BrokerError('unknown_upstream')
    }
    if (!mayUseUpstreamThrough(service, name)) {
      refuse(call, { person, upstream: target.upstream, reason: 'upstream_not_allowed' })
      throw new BrokerError('upstream_not_allowed')
    }
    return target
  }

  function verifyPerson(call: Call, target: Target, token: string): Person | Promise<Person> {
    try {
      const verified = authenticator.verifyBearer(token, target.use)
      if (!(verified instanceof Promise)) return verified
      return verified.catch((error: unknown) => {
        throw refusedPerson(call, target.upstream, error)
      })
    } catch (error) {
      throw refusedPerson(call, target.upstream, error)
    }
  }

  function admitAsserted(call: Call, target: Target, person: Person): Person | Promise<Person> {
    const admitted = authenticator.admitAssertion(person)
    if (!(admitted instanceof Promise)) return person
    return admitted.then(
      () => person,
      (error: unknown) => {
        throw refusedPerson(call, target.upstream, error)
      },
    )
  }

  /** Records that the person could not be told, and gives the refusal that says so to a service. */
  function refusedPerson(call: Call, upstream: Upstream | undefined, error: unknown): unknown {
    const refusal = isBrokerError(error, 'unauthenticated', 'insufficient_scope')
      ? new BrokerError('invalid_subject_token', { challenge: badToken, cause: error })
      : error
    refuse(call, { person: undefined, upstream, reason: auditReasonOf(refusal) })
    return refusal
  }

  function refuse(
    call: Call,
    refusal: {
      readonly person: Person | undefined
      readonly upstream: Upstream | undefined
      readonly reason: AuditReason
    },
  ): void {
    refusals.refused({ ...call, ...refusal })
  }

  function credentialAnswer(
    credential: ResolvedCredential,
    service: Service,
    requestId: string,
  ): Response {
    const maxAge = maxAgeSeconds(service, credential.expiresAt)
    return new Response(`${answerBeginning(credential)}${maxAge}}`, {
      headers: {
        'content-type': 'application/json',
        'cache-control': 'no-store',
        'x-content-type-options': 'nosniff',
        'x-request-id': requestId,
      },
    })
  }

  function maxAgeSeconds(service: Service, expiresAt: Date | undefined): number {
    if (service.maxAgeSeconds === 0 || expiresAt === undefined) return service.maxAgeSeconds
    const leftSeconds = Math.floor((expiresAt.getTime() - clock.now().getTime()) / 1000)
    return Math.max(0, Math.min(service.maxAgeSeconds, leftSeconds))
  }

  describeRoute(app, {
    method: 'post',
    path: '/api/v1/resolve',
    caller: 'service',
    operation: {
      tag: 'Resolve',
      summary: "Get a person's credential for an upstream",
      body: { schema: resolveBody, required: true },
      success: {
        status: 200,
        description: 'The credential to inject, never to be cached beyond `max_age`.',
        content: { type: 'application/json', schema: resolveAnswer },
      },
      refusals: [
        'invalid_request',
        'invalid_subject_token',
        'connect_required',
        'forbidden',
        'policy_denied',
        'upstream_not_allowed',
        'unknown_upstream',
        'upstream_misconfigured',
        'upstream_unavailable',
        'issuer_unavailable',
        'storage_unavailable',
        'audit_unavailable',
        'credential_corrupt',
      ],
    },
  })

  app.post('/api/v1/resolve', answer)
}

/** Answers up to the number of `max_age`: a credential in memory is the same object on every call, and so is its text. */
const answerBeginnings = new WeakMap<ResolvedCredential, string>()

function answerBeginning(credential: ResolvedCredential): string {
  const known = answerBeginnings.get(credential)
  if (known !== undefined) return known
  const { header, value, expiresAt, fingerprint } = credential
  const body = {
    header,
    value,
    expires_at: expiresAt === undefined ? null : expiresAt.toISOString(),
    fingerprint,
  }
  const beginning = `${JSON.stringify(body).slice(0, -1)},"max_age":`
  answerBeginnings.set(credential, beginning)
  return beginning
}

type Target = { readonly upstream: Upstream; readonly use: BearerUse }

type Call = { readonly requestId: string; readonly startedAt: Date; readonly actor: Actor }

function refuseBothOrNeither(body: z.output<typeof resolveBody>): void {
  if ((body.subject_token === undefined) !== (body.user === undefined)) return
  throw new BrokerError('invalid_request', {
    field: body.user === undefined ? 'subject_token' : 'user',
    expectation: 'Send either subject_token or user.',
  })
}
