import { timingSafeEqual } from 'node:crypto'
import { BrokerError } from '../core/errors.ts'
import type { HttpContext } from './http-env.ts'

const safeMethods: readonly string[] = ['GET', 'HEAD', 'OPTIONS']

/**
 * Refuses a write by cookie that another site could have made (CSRF). It must come from our own origin and carry a proof that
 * a form elsewhere cannot send: the form's token where `csrfToken` is given, else the header `X-Onbehalf-CSRF: 1`.
 */
export function refuseUnprovenWrite(
  c: HttpContext,
  proof: {
    readonly publicUrl: string
    readonly csrfToken: { readonly expected: string; readonly sent: string | null } | undefined
  },
): void {
  if (safeMethods.includes(c.req.method)) return
  const proven =
    proof.csrfToken === undefined
      ? c.req.header('x-onbehalf-csrf') === '1'
      : isSameText(proof.csrfToken.expected, proof.csrfToken.sent)
  if (proven && isOwnOrigin(c, proof.publicUrl)) return
  throw new BrokerError('forbidden', {
    expectation:
      'A write by session cookie needs our own Origin and the header X-Onbehalf-CSRF: 1, or the token of the form.',
  })
}

/** Our pages send no referrer, so a browser says `Origin: null` on their forms; what it then says itself is `Sec-Fetch-Site`. */
function isOwnOrigin(c: HttpContext, publicUrl: string): boolean {
  const origin = c.req.header('origin')
  if (origin === publicUrl) return true
  return (
    (origin === undefined || origin === 'null') && c.req.header('sec-fetch-site') === 'same-origin'
  )
}

function isSameText(expected: string, sent: string | null): boolean {
  if (sent === null) return false
  const a = Buffer.from(expected)
  const b = Buffer.from(sent)
  return a.length === b.length && timingSafeEqual(a, b)
}
