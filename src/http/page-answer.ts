import type { ContentfulStatusCode } from 'hono/utils/http-status'
import type { HttpContext } from './http-env.ts'
import { pagePolicy } from './security-headers.ts'

/** Sends a page: never kept, never framed, without a script. */
export function pageAnswer(
  c: HttpContext,
  page: string,
  options: {
    readonly status?: ContentfulStatusCode
    /** What a form of the page may lead to besides ourselves. */
    readonly formTargets?: readonly string[]
    readonly headers?: Readonly<Record<string, string>>
  } = {},
): Response | Promise<Response> {
  return c.html(page, options.status ?? 200, {
    ...options.headers,
    'cache-control': 'no-store',
    'content-security-policy': pagePolicy(options.formTargets),
  })
}
