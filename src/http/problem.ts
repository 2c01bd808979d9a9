import { randomUUID } from 'node:crypto'
import type { ContentfulStatusCode } from 'hono/utils/http-status'
import { namesOfCause } from '../core/error-names.ts'
import { BrokerError, type ErrorCode } from '../core/errors.ts'
import type { Challenge } from '../core/ports/protected-resources.ts'
import type { HttpLog } from './services.ts'

type Meaning = {
  readonly status: ContentfulStatusCode
  readonly title: string
  /** What to do about it, where `type` leads to: the table of /docs. */
  readonly remedy: string
}

/** What each code looks like from outside; `docs/problems.md` explains them. */
export const problems: Readonly<Record<ErrorCode, Meaning>> = {
  audit_unavailable: {
    status: 503,
    title: 'The activity log cannot take records at the moment',
    remedy: 'Ask again. The operator looks at the database and at data_dir.',
  },
  connect_link_invalid: {
    status: 400,
    title: 'This connect link is used, ended or unknown',
    remedy: 'Begin again under /connections.',
  },
  connect_required: {
    status: 403,
    title: 'The person must connect this upstream',
    remedy: 'Show the person connect_url. The reason says why.',
  },
  connect_wrong_person: {
    status: 403,
    title: 'This connect link was made for another person',
    remedy: 'Sign in as that person, or ask for a link of your own.',
  },
  credential_corrupt: {
    status: 503,
    title: 'The stored credential cannot be opened',
    remedy: 'The person connects again. The operator looks whether an encryption key is missing.',
  },
  forbidden: {
    status: 403,
    title: 'The caller may not do this',
    remedy:
      'Call as somebody who may: an admin, or a service with that right. A write with the session cookie sends X-Onbehalf-CSRF: 1 and our own Origin.',
  },
  insufficient_scope: {
    status: 403,
    title: 'The token lacks a scope',
    remedy: 'Ask for a token with the scope that WWW-Authenticate names.',
  },
  internal_error: {
    status: 500,
    title: 'Something went wrong here',
    remedy: 'Tell the operator the request_id.',
  },
  invalid_request: {
    status: 400,
    title: 'The request is not as it should be',
    remedy: 'Correct what field names; detail says what it should be.',
  },
  invalid_subject_token: {
    status: 401,
    title: "The person's token was refused",
    remedy:
      'Get a fresh token of the person. Where none does, the log says which check fails (token_refused, token_request_refused).',
  },
  issuer_unavailable: {
    status: 503,
    title: 'The identity provider cannot be asked at the moment',
    remedy: 'Ask again. The token may well be good.',
  },
  method_not_allowed: {
    status: 405,
    title: 'This address does not take that method',
    remedy: 'Use a method that Allow names.',
  },
  not_connectable: {
    status: 409,
    title: 'The upstream does not get its credentials this way',
    remedy:
      'Nothing: its credentials come through the sign-in of the person. For a key: connect it where connect_path says so.',
  },
  not_found: {
    status: 404,
    title: 'There is nothing here',
    remedy: 'Look for the address on this page. Pages need identity.login.',
  },
  payload_too_large: { status: 413, title: 'The body is too large', remedy: 'Send less.' },
  policy_denied: {
    status: 403,
    title: 'A policy does not let this person use the upstream',
    remedy: 'Ask the operator.',
  },
  storage_unavailable: {
    status: 503,
    title: 'The database cannot be reached at the moment',
    remedy: 'Ask again.',
  },
  too_many_streams: {
    status: 429,
    title: 'Too many calls of this person are open',
    remedy: 'End some.',
  },
  unauthenticated: {
    status: 401,
    title: 'There is no valid token, key or session',
    remedy:
      'Send a good one: resolve takes the key of a service, the rest a token or session of a person. WWW-Authenticate names where tokens come from.',
  },
  unknown_upstream: {
    status: 404,
    title: 'There is no such upstream',
    remedy:
      'See GET /api/v1/connections. At the gateway, kind mcp is under /mcp/, kind http under /proxy/.',
  },
  upstream_misconfigured: {
    status: 502,
    title: 'The upstream is not set up correctly',
    remedy: 'The operator corrects the credential of the upstream; the log says what was refused.',
  },
  upstream_not_allowed: {
    status: 403,
    title: 'This service may not use the upstream',
    remedy: 'The operator adds the upstream to those of the service.',
  },
  upstream_redirect: {
    status: 502,
    title: 'The upstream answered with a redirect',
    remedy: 'The operator sets the url of the upstream to where it leads.',
  },
  upstream_rejected_credential: {
    status: 502,
    title: 'The upstream refuses the credential, a renewed one too',
    remedy: 'Disconnect and connect again. The operator looks at scopes and resource.',
  },
  upstream_timeout: {
    status: 504,
    title: 'The upstream did not answer in time',
    remedy: 'Try again.',
  },
  upstream_unavailable: {
    status: 503,
    title: 'The upstream or its authorization server cannot be asked at the moment',
    remedy: 'Ask again. As 502 an address was refused: the log names the setting.',
  },
}

/** RFC 9457, with our code and what a client can act on. */
export type Problem = {
  readonly type: string
  readonly title: string
  readonly status: ContentfulStatusCode
  readonly code: ErrorCode
  readonly request_id: string
  readonly detail?: string
  readonly field?: string
  readonly reason?: string
  readonly connect_url?: string
}

/** An error as it leaves: body and headers, to be written as JSON or shown on a page. */
export type ProblemAnswer = {
  readonly problem: Problem
  readonly headers: Readonly<Record<string, string>>
}

/** The only translator of errors: what it does not know is `internal_error`, logged by class and code, of which nothing leaves. */
export type Problems = {
  answer(error: unknown, requestId: string): ProblemAnswer
  respond(error: unknown, requestId: string): Response
}

export function createProblems(ports: {
  readonly publicUrl: string
  readonly log: HttpLog
  readonly challenge: Challenge
}): Problems {
  /** Every 401 names a way to authenticate (RFC 9110 §15.5.2), also where whoever refused knew of none. */
  const challenges: Partial<Record<ErrorCode, string>> = {
    invalid_subject_token: ports.challenge({ error: 'invalid_token', scopes: [] }),
    unauthenticated: ports.challenge({ error: undefined, scopes: [] }),
  }

  function answer(error: unknown, requestId: string): ProblemAnswer {
    if (!(error instanceof BrokerError) || error.code === 'internal_error') {
      ports.log.error({ event: 'request_failed', requestId, ...namesOfCause(error) })
    }
    const known = error instanceof BrokerError ? error : new BrokerError('internal_error')
    const { code, details } = known
    const { title } = problems[code]
    const challenge = details.challenge ?? challenges[code]
    const status = details.addressRefused === true ? 502 : problems[code].status
    return {
      problem: {
        type: `${ports.publicUrl}/docs#problem-${code}`,
        title,
        status,
        code,
        request_id: requestId,
        ...(details.expectation === undefined ? {} : { detail: details.expectation }),
        ...(details.field === undefined ? {} : { field: details.field }),
        ...(details.reason === undefined ? {} : { reason: details.reason }),
        ...(details.connectUrl === undefined ? {} : { connect_url: details.connectUrl }),
      },
      headers: {
        'cache-control': 'no-store',
        ...(challenge === undefined ? {} : { 'www-authenticate': challenge }),
        ...(status === 503 ? { 'retry-after': retryAfter(details.retryAfterSeconds) } : {}),
        ...(details.allowedMethods === undefined
          ? {}
          : { allow: details.allowedMethods.join(', ') }),
      },
    }
  }

  return {
    answer,
    respond(error, requestId) {
      const { problem, headers } = answer(error, requestId)
      return problemResponse(problem, requestId, headers)
    },
  }
}

/** The answer where no application is there to give one, such as to a request without a possible address. */
export function plainProblem(
  code: 'internal_error' | 'invalid_request' | 'not_found',
  status: ContentfulStatusCode = problems[code].status,
): Response {
  const { title } = problems[code]
  const requestId = randomUUID()
  const problem: Problem = { type: 'about:blank', title, status, code, request_id: requestId }
  return problemResponse(problem, requestId, { 'cache-control': 'no-store' })
}

function problemResponse(
  problem: Problem,
  requestId: string,
  headers: Readonly<Record<string, string>>,
): Response {
  return new Response(JSON.stringify(problem), {
    status: problem.status,
    headers: {
      'content-type': 'application/problem+json',
      'x-content-type-options': 'nosniff',
      'x-request-id': requestId,
      ...headers,
    },
  })
}

const defaultRetryAfterSeconds = 5

function retryAfter(seconds: number | undefined): string {
  const whole = Math.ceil(seconds ?? defaultRetryAfterSeconds)
  return String(Math.min(900, Math.max(1, whole)))
}
