import type { Person } from '../core/caller.ts'
import { BrokerError } from '../core/errors.ts'
import { mayUseUpstream, type Upstream } from '../core/upstream.ts'

/** The upstream that a path names, for this person. @throws BrokerError unknown_upstream, policy_denied */
export function upstreamFor(
  upstreams: ReadonlyMap<string, Upstream>,
  name: string | undefined,
  person: Person,
): Upstream {
  const upstream = name === undefined ? undefined : upstreams.get(name)
  if (upstream === undefined) throw new BrokerError('unknown_upstream')
  if (!mayUseUpstream(person, upstream)) throw new BrokerError('policy_denied')
  return upstream
}
