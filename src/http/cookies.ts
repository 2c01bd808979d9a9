import { randomBytes } from 'node:crypto'
import { deleteCookie, getCookie, setCookie } from 'hono/cookie'
import type { HttpContext } from './http-env.ts'

/** The two cookies: who signed in, and which browser began a sign-in or a connect. */
export type Cookies = {
  session(c: HttpContext): string | undefined
  setSession(c: HttpContext, value: string, maxAgeSeconds: number): void
  endSession(c: HttpContext): void
  browser(c: HttpContext): string | undefined
  /** The browser's random value, made and set where it has none yet. */
  ensureBrowser(c: HttpContext): string
}

/** Several flows may be open in one browser, so its value lives longer than one of them and is kept while it is used. */
const browserSeconds = 3600
const browserValue = /^[\w-]{43}$/

/**
 * `__Host-` needs Secure: a browser takes such a cookie from this host alone and for all of it, so no sibling host can plant
 * one. On loopback without TLS there is no such cookie.
 */
export function cookieNames(publicUrl: string): {
  readonly session: string
  readonly browser: string
} {
  const prefix = publicUrl.startsWith('https:') ? '__Host-' : ''
  return { session: `${prefix}onbehalf_session`, browser: `${prefix}onbehalf_browser` }
}

export function createCookies(publicUrl: string): Cookies {
  const names = cookieNames(publicUrl)
  const secure = publicUrl.startsWith('https:')
  const attributes = { path: '/', httpOnly: true, sameSite: 'Lax', secure } as const

  function browser(c: HttpContext): string | undefined {
    const value = getCookie(c, names.browser)
    return value !== undefined && browserValue.test(value) ? value : undefined
  }

  return {
    session: (c) => getCookie(c, names.session) || undefined,
    setSession(c, value, maxAgeSeconds) {
      setCookie(c, names.session, value, { ...attributes, maxAge: maxAgeSeconds })
    },
    endSession(c) {
      deleteCookie(c, names.session, attributes)
    },
    browser,
    ensureBrowser(c) {
      const value = browser(c) ?? randomBytes(32).toString('base64url')
      setCookie(c, names.browser, value, { ...attributes, maxAge: browserSeconds })
      return value
    },
  }
}
