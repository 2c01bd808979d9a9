import type { ErrorCode } from '../core/errors.ts'
import type { Pages, ProblemPageView, Viewer } from '../core/ports/pages.ts'
import type { HttpContext } from './http-env.ts'
import { pageAnswer } from './page-answer.ts'
import type { Problem, Problems } from './problem.ts'

/** Answers with an error: a page for a browser that opened one, `application/problem+json` for everybody else. */
export type Failures = {
  answer(c: HttpContext, error: unknown, viewer?: Viewer): Response | Promise<Response>
}

export function createFailures(ports: {
  readonly problems: Problems
  readonly pages: Pages
}): Failures {
  const { problems, pages } = ports
  return {
    answer(c, error, viewer) {
      const requestId = c.get('requestId')
      if (!opensPage(c)) return problems.respond(error, requestId)
      const { problem, headers } = problems.answer(error, requestId)
      return pages
        .problem(pageView(problem, c.req.path, viewer))
        .then((page) => pageAnswer(c, page, { status: problem.status, headers }))
    },
  }
}

/** Programs ask for JSON or for anything; a browser that opens an address says `text/html`. */
function opensPage(c: HttpContext): boolean {
  const { path } = c.req
  if (path.startsWith('/api/') || path.startsWith('/.well-known/')) return false
  return c.req.header('accept')?.includes('text/html') === true
}

function pageView(problem: Problem, path: string, viewer: Viewer | undefined): ProblemPageView {
  return {
    viewer,
    status: problem.status,
    code: problem.code,
    title: problem.title,
    detail: problem.detail,
    requestId: problem.request_id,
    next: nextOf(problem.code, path),
  }
}

const toConnections: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'connect_link_invalid',
  'connect_wrong_person',
  'forbidden',
  'policy_denied',
  'unknown_upstream',
  'upstream_misconfigured',
  'upstream_unavailable',
])

function nextOf(code: ErrorCode, path: string): ProblemPageView['next'] {
  if (code === 'unauthenticated') return { href: '/login', text: 'Sign in' }
  // Whatever ended a sign-in, it begins anew there.
  if (path === '/login/callback' && code !== 'not_found') {
    return { href: '/login', text: 'Sign in again' }
  }
  return toConnections.has(code) ? { href: '/connections', text: 'Your connections' } : undefined
}
