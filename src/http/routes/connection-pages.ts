import { BrokerError } from '../../core/errors.ts'
import {
  type AuthorizationErrorLabel,
  authorizationErrorLabels,
} from '../../core/callback-parameters.ts'
import type { ConnectionsPageView } from '../../core/ports/pages.ts'
import { isConnectable, mayUseUpstream, type Upstream } from '../../core/upstream.ts'
import { disconnectOwn } from '../disconnect-own.ts'
import type { HttpApp } from '../http-env.ts'
import { pageAnswer } from '../page-answer.ts'
import type { PageCaller, PageRoutes } from '../page-routes.ts'
import type { HttpServices } from '../services.ts'
import { upstreamFor } from '../upstream-access.ts'
import { longestKey, readKey, requireKeyMode } from '../user-keys.ts'

/** The person's page of connections, and what its buttons do. */
export function addConnectionPages(
  app: HttpApp,
  pageRoutes: PageRoutes,
  services: Pick<HttpServices, 'connections' | 'connector' | 'pages' | 'upstreams'>,
): void {
  const { connections, connector, pages, upstreams } = services

  app.get('/', (c) => c.redirect('/connections', 303))

  pageRoutes.get('/connections', async (c, { session, viewer }) => {
    const page = await pages.connections({
      viewer,
      connections: await connections.list(session.person, false),
      longestKey,
      notice: noticeOf(new URL(c.req.url).searchParams, session),
    })
    return pageAnswer(c, page)
  })

  pageRoutes.post('/connections/:upstream/connect', async (c, { session: { person } }) => {
    const upstream = upstreamFor(upstreams, c.req.param('upstream'), person)
    if (!isConnectable(upstream)) throw new BrokerError('not_connectable')
    const link = await connector.issueLink({ person, upstream, returnTo: undefined })
    return c.redirect(link.url, 303)
  })

  pageRoutes.post('/connections/:upstream/key', async (c, { session: { person } }, form) => {
    const upstream = upstreamFor(upstreams, c.req.param('upstream'), person)
    requireKeyMode(upstream)
    await connections.storeKey({
      person,
      upstream,
      // What is pasted brings a line break along.
      key: readKey((form.get('key') ?? '').trim()),
      requestId: c.get('requestId'),
      startedAt: c.get('startedAt'),
    })
    return c.redirect(`/connections?upstream=${upstream.name}&connected=1`, 303)
  })

  pageRoutes.post('/connections/:upstream/disconnect', async (c, { session: { person } }) => {
    const upstream = await disconnectOwn(c, person, services)
    return c.redirect(`/connections?upstream=${upstream}&disconnected=1`, 303)
  })

  /** What the address says has happened, in our own words: anybody can make up an address. */
  function noticeOf(
    params: URLSearchParams,
    { person }: PageCaller['session'],
  ): ConnectionsPageView['notice'] {
    const named = upstreams.get(params.get('upstream') ?? '')
    const upstream = named !== undefined && mayUseUpstream(person, named) ? named : undefined
    const label = params.get('error')
    if (label !== null) return failedNotice(upstream, label)
    if (upstream === undefined) return undefined
    const { displayName } = upstream
    if (params.get('connected') === '1') return { kind: 'connected', displayName }
    if (params.get('disconnected') === '1') return { kind: 'disconnected', displayName }
    return undefined
  }
}

function failedNotice(
  upstream: Upstream | undefined,
  label: string,
): ConnectionsPageView['notice'] {
  return {
    kind: 'failed',
    displayName: upstream?.displayName,
    label: authorizationErrorLabels.find((known) => known === label) ?? fallbackLabel,
  }
}

const fallbackLabel: AuthorizationErrorLabel = 'authorization_denied'
