import { BrokerError, isBrokerError } from '../../core/errors.ts'
import type { ConnectPageView } from '../../core/ports/broker-services.ts'
import type { Callers } from '../callers.ts'
import type { Cookies } from '../cookies.ts'
import type { Failures } from '../failures.ts'
import type { HttpApp, HttpContext } from '../http-env.ts'
import { pageAnswer } from '../page-answer.ts'
import {
  type PageCaller,
  type PageRoutes,
  refuseRepeatedParameters,
  requireSignIn,
} from '../page-routes.ts'
import { addGetOnly } from '../routing.ts'
import type { HttpServices } from '../services.ts'
import { upstreamFor } from '../upstream-access.ts'

/** The connect flow in the browser: the link, its confirmation, and the way back from the authorization server. */
export function addConnectRoutes(
  app: HttpApp,
  pageRoutes: PageRoutes,
  services: Pick<
    HttpServices,
    'connector' | 'pages' | 'publicUrl' | 'returnTo' | 'signIn' | 'upstreams'
  > & {
    readonly callers: Callers
    readonly cookies: Cookies
    readonly failures: Failures
  },
): void {
  const { callers, connector, cookies, failures, pages, publicUrl, returnTo, upstreams } = services

  pageRoutes.get('/connect/:ticket', async (c, caller) => {
    const { person } = caller.session
    try {
      const ticket = ticketOf(c)
      return await showLink(c, caller, await connector.view({ ticket, person }))
    } catch (error) {
      return refuseLink(c, caller, error)
    }
  })

  pageRoutes.post('/connect/:ticket', async (c, caller) => {
    const ticket = ticketOf(c)
    const { person } = caller.session
    const browser = cookies.ensureBrowser(c)
    try {
      const next = await connector.confirm({ ticket, person, browser })
      if (next.kind === 'authorize') return c.redirect(next.url.href, 303)
      const challenge = { returnTo: next.returnTo, browser, claims: next.claims }
      return c.redirect(await caller.signIn.start(challenge), 303)
    } catch (error) {
      // Pressed twice: by now the person may be connected, which is better news than a used link.
      if (isBrokerError(error, 'connect_link_invalid')) {
        const view = await connector.view({ ticket, person }).catch(() => undefined)
        if (view?.kind === 'already_connected') return showLink(c, caller, view)
      }
      return refuseLink(c, caller, error)
    }
  })

  // GET only: HEAD and POST change nothing. The browser goes on to another address at once, so that the code does not stay in
  // its history (RFC 9700 §4.2.4).
  addGetOnly(app, '/callback/:upstream', async (c) => {
    requireSignIn(services.signIn)
    const session = await callers.session(c)
    if (session === undefined) throw new BrokerError('unauthenticated')
    const upstream = upstreamFor(upstreams, c.req.param('upstream'), session.person)
    const params = new URL(c.req.url).searchParams
    refuseRepeatedParameters(params)
    const { redirectTo } = await connector.complete({
      upstream,
      params,
      person: session.person,
      browser: cookies.browser(c),
      requestId: c.get('requestId'),
      startedAt: c.get('startedAt'),
    })
    return c.redirect(redirectTo, 303)
  })

  async function showLink(
    c: HttpContext,
    { viewer }: PageCaller,
    view: ConnectPageView,
  ): Promise<Response> {
    const { displayName } = view.upstream
    if (view.kind === 'already_connected') {
      return pageAnswer(c, await pages.alreadyConnected({ viewer, displayName }))
    }
    const server = view.kind === 'confirm' ? view.authorizationServerHost : undefined
    const scopes = view.kind === 'confirm' ? view.scopes : []
    const page = await pages.confirmConnect({
      viewer,
      action: c.req.path,
      displayName,
      authorizationServerHost: server,
      scopes,
    })
    return pageAnswer(c, page, {
      formTargets: formTargets({ publicUrl, returnTo, authorizationServerHost: server }),
    })
  }

  /** Names the signed-in person, who may have another account that the link is for. */
  function refuseLink(
    c: HttpContext,
    { viewer }: PageCaller,
    error: unknown,
  ): Response | Promise<Response> {
    return failures.answer(c, error, viewer)
  }
}

/** The ticket of the address, which the page writes into its form. @throws BrokerError for what none of ours looks like. */
function ticketOf(c: HttpContext): string {
  const ticket = c.req.param('ticket') ?? ''
  if (/^[\w-]{1,128}$/.test(ticket)) return ticket
  throw new BrokerError('connect_link_invalid')
}

/**
 * Where the confirmation may lead: the authorization server, which may send the browser on to servers of its own and, for
 * somebody who consented before, straight back through us to an allow-listed origin. Chromium checks every one of these.
 */
function formTargets(of: {
  readonly publicUrl: string
  readonly returnTo: readonly string[]
  readonly authorizationServerHost: string | undefined
}): string[] {
  const host = of.authorizationServerHost
  // An identity provider may stand on plain http in a private network; which one is not known here.
  if (of.publicUrl.startsWith('http:') || host === undefined) return ['https:', 'http:']
  const plain = of.returnTo.filter((origin) => origin.startsWith('http:'))
  return ['https:', ...(/^[\w.:[\]-]+$/.test(host) ? [`http://${host}`] : []), ...plain]
}
