import { BrokerError } from '../../core/errors.ts'
import { isOwnPath } from '../../core/return-to.ts'
import type { Callers } from '../callers.ts'
import type { Cookies } from '../cookies.ts'
import { refuseUnprovenWrite } from '../cross-site.ts'
import type { HttpApp, HttpContext } from '../http-env.ts'
import { pageAnswer } from '../page-answer.ts'
import { refuseRepeatedParameters, requireSignIn } from '../page-routes.ts'
import { readForm } from '../request-body.ts'
import { addGetOnly } from '../routing.ts'
import type { HttpServices } from '../services.ts'

/** Browser sign-in: there, back, and out. */
export function addSignInRoutes(
  app: HttpApp,
  services: Pick<HttpServices, 'pages' | 'publicUrl' | 'signIn'> & {
    readonly callers: Callers
    readonly cookies: Cookies
  },
): void {
  const { callers, cookies, pages, publicUrl } = services

  addGetOnly(app, '/login', async (c) => {
    const signIn = requireSignIn(services.signIn)
    const returnTo = c.req.query('return_to') ?? '/connections'
    if (!isOwnPath(returnTo)) {
      throw new BrokerError('invalid_request', {
        field: 'return_to',
        expectation: 'A path of the broker.',
      })
    }
    return c.redirect(await signIn.start({ returnTo, browser: cookies.ensureBrowser(c) }), 303)
  })

  addGetOnly(app, '/login/callback', async (c) => {
    const signIn = requireSignIn(services.signIn)
    const params = new URL(c.req.url).searchParams
    refuseRepeatedParameters(params)
    const done = await signIn.complete({ params, browser: cookies.browser(c) })
    // Whoever was signed in here before is not any more.
    const before = cookies.session(c)
    if (before !== undefined) await signIn.end(before)
    cookies.setSession(c, done.session, done.maxAgeSeconds)
    return c.redirect(done.returnTo, 303)
  })

  app.post('/logout', async (c) => {
    const signIn = requireSignIn(services.signIn)
    const session = await callers.session(c)
    const wantsPage = c.req.header('x-onbehalf-csrf') === undefined
    if (session !== undefined) {
      const form = wantsPage ? await readForm(c) : undefined
      refuseUnprovenWrite(c, {
        publicUrl,
        csrfToken:
          form === undefined
            ? undefined
            : { expected: session.csrfToken, sent: form.get('csrf_token') },
      })
      await signIn.end(cookies.session(c) ?? '')
    }
    // A browser keeps the cookie (`SameSite=Lax`) from what another site has it post, but would obey an answer that removes it.
    // So nothing is removed that was not shown; a dead session needs no proof.
    if (cookies.session(c) !== undefined) cookies.endSession(c)
    return wantsPage ? c.redirect('/signed-out', 303) : c.body(null, 204)
  })

  app.get('/signed-out', async (c: HttpContext) => pageAnswer(c, await pages.signedOut()))
}
