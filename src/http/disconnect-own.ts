import type { Person } from '../core/caller.ts'
import type { HttpContext } from './http-env.ts'
import type { HttpServices } from './services.ts'
import { upstreamFor } from './upstream-access.ts'

/**
 * Ends a person's own connection to the upstream that the path names, and gives its name. What is left at one that is
 * configured no more may be removed, too. @throws BrokerError policy_denied
 */
export async function disconnectOwn(
  c: HttpContext,
  person: Person,
  { connections, upstreams }: Pick<HttpServices, 'connections' | 'upstreams'>,
): Promise<string> {
  const upstream = c.req.param('upstream') ?? ''
  if (upstreams.has(upstream)) upstreamFor(upstreams, upstream, person)
  await connections.disconnect({
    person,
    actor: { kind: 'user', id: person.userId },
    upstream,
    requestId: c.get('requestId'),
    startedAt: c.get('startedAt'),
  })
  return upstream
}
