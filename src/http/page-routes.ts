import type { Session, SignIn } from '../core/ports/authenticator.ts'
import { BrokerError } from '../core/errors.ts'
import type { Viewer } from '../core/ports/pages.ts'
import { isOwnPath } from '../core/return-to.ts'
import type { Callers } from './callers.ts'
import type { Cookies } from './cookies.ts'
import { refuseUnprovenWrite } from './cross-site.ts'
import type { HttpApp, HttpContext } from './http-env.ts'
import { readForm } from './request-body.ts'
import type { HttpServices } from './services.ts'

/** A person in front of a page. */
export type PageCaller = {
  readonly session: Session
  readonly viewer: Viewer
  readonly signIn: SignIn
}

type PageHandler = (c: HttpContext, caller: PageCaller) => Response | Promise<Response>
type FormHandler = (
  c: HttpContext,
  caller: PageCaller,
  form: URLSearchParams,
) => Response | Promise<Response>

/** Doors that only a signed-in browser comes through. */
export type PageRoutes = {
  /** Opened without a session, a page sends the browser to the identity provider at once, which brings it back. */
  get(path: string, handler: PageHandler): void
  /** What a form of ours sends; proved by its token. */
  post(path: string, handler: FormHandler): void
}

export function createPageRoutes(
  app: HttpApp,
  ports: Pick<HttpServices, 'publicUrl' | 'signIn'> & {
    readonly callers: Callers
    readonly cookies: Cookies
  },
): PageRoutes {
  const { callers, cookies, publicUrl } = ports

  async function callerOf(c: HttpContext, signIn: SignIn): Promise<PageCaller | undefined> {
    const session = await callers.session(c)
    return session === undefined ? undefined : { session, viewer: viewerOf(session), signIn }
  }

  return {
    get(path, handler) {
      app.get(path, async (c) => {
        const signIn = requireSignIn(ports.signIn)
        const caller = await callerOf(c, signIn)
        if (caller !== undefined) return handler(c, caller)
        // A link scanner's HEAD begins no sign-in.
        if (c.req.method !== 'GET') throw new BrokerError('unauthenticated')
        const returnTo = ownAddress(c.req.url)
        return c.redirect(await signIn.start({ returnTo, browser: cookies.ensureBrowser(c) }), 303)
      })
    },
    post(path, handler) {
      app.post(path, async (c) => {
        const caller = await callerOf(c, requireSignIn(ports.signIn))
        if (caller === undefined) throw new BrokerError('unauthenticated')
        const form = await readForm(c)
        const { csrfToken } = caller.session
        refuseUnprovenWrite(c, {
          publicUrl,
          csrfToken: { expected: csrfToken, sent: form.get('csrf_token') },
        })
        return handler(c, caller, form)
      })
    },
  }
}

/** @throws BrokerError not_found where there is no browser sign-in, naming the setting. */
export function requireSignIn(signIn: SignIn | undefined): SignIn {
  if (signIn !== undefined) return signIn
  throw new BrokerError('not_found', {
    field: 'identity.login',
    expectation: 'Pages need browser sign-in, which is not configured here (identity.login).',
  })
}

function viewerOf(session: Session): Viewer {
  const { person, csrfToken } = session
  return {
    name: person.email ?? person.userId,
    issuer: person.issuer,
    admin: person.admin,
    csrfToken,
  }
}

/** Path and query of a request, to come back to; never its host, which the caller chose. */
function ownAddress(url: string): string {
  const { pathname, search } = new URL(url)
  const address = pathname + search
  return isOwnPath(address) ? address : '/connections'
}

/** @throws BrokerError invalid_request for a parameter that came twice: two readers could take different ones (RFC 6749 §3.1). */
export function refuseRepeatedParameters(params: URLSearchParams): void {
  const names = [...params.keys()]
  if (new Set(names).size === names.length) return
  throw new BrokerError('invalid_request', {
    field: 'query',
    expectation: 'Each parameter may come once.',
  })
}
