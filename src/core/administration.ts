import { connectionState } from './connection-state.ts'
import type { createCutOffs } from './cut-offs.ts'
import type { AcquisitionMethods } from './ports/acquisition-method.ts'
import type {
  AdministeredConnection,
  Administration,
  ConnectionFilter,
  OverviewCount,
  OverviewRecords,
  OverviewRow,
  UpstreamOverview,
} from './ports/administration.ts'
import type { AuditSink } from './ports/audit-sink.ts'
import type { Clock } from './ports/clock.ts'
import type { CredentialStore } from './ports/credential-store.ts'
import type { ReplicaMemory, Replicas } from './ports/replicas.ts'
import type { UpstreamDiscovery } from './ports/upstream-discovery.ts'
import { revokeTaken } from './revoke-tokens.ts'
import { unconfiguredConnection } from './unconfigured-connection.ts'
import { bindingOf, isConnectable, type Upstream } from './upstream.ts'

const rowsAtOnce = 500
const longAgo = new Date(0)

/** What admins see and do, over everybody's connections. */
export function createAdministration(ports: {
  readonly upstreams: ReadonlyMap<string, Upstream>
  readonly overview: OverviewRecords
  readonly credentials: Pick<CredentialStore, 'offboard'>
  readonly methods: AcquisitionMethods
  readonly cutOffs: Pick<ReturnType<typeof createCutOffs>, 'note'>
  readonly memory: Pick<ReplicaMemory, 'end'>
  readonly replicas: Pick<Replicas, 'caughtUp'>
  readonly discovery: Pick<UpstreamDiscovery, 'isFailing'>
  readonly audit: AuditSink
  readonly clock: Clock
}): Administration {
  const { upstreams, overview, credentials, methods, cutOffs, memory, replicas, discovery } = ports
  const { audit, clock } = ports

  async function* connections(
    filter: ConnectionFilter,
  ): AsyncGenerator<readonly AdministeredConnection[]> {
    let after: OverviewRow | undefined
    do {
      const rows: readonly OverviewRow[] = await overview.connections(filter, after, rowsAtOnce)
      const views = rows.map(viewOf)
      yield views.filter(({ status }) => filter.status === undefined || filter.status === status)
      after = rows.length < rowsAtOnce ? undefined : rows.at(-1)
    } while (after !== undefined)
  }

  function viewOf(row: OverviewRow): AdministeredConnection {
    const upstream = upstreams.get(row.upstream)
    const { issuer, userId } = row
    const unconfigured = { issuer, userId, ...unconfiguredConnection(row, row.lastUsedAt) }
    if (upstream === undefined) return unconfigured
    return {
      ...unconfigured,
      displayName: upstream.displayName,
      mode: upstream.credential.mode,
      ...connectionState(row, upstream, clock.now()),
      connectable: isConnectable(upstream),
    }
  }

  async function listUpstreams(): Promise<readonly UpstreamOverview[]> {
    const [counts, lastUses, pauses] = await Promise.all([
      overview.counts(),
      overview.lastUses(),
      overview.pauses(),
    ])
    return [...upstreams.values()]
      .toSorted((a, b) => (a.name < b.name ? -1 : 1))
      .map((upstream) => {
        const ofIt = counts.filter((count) => count.upstream === upstream.name)
        const connectionCounts = countsOf(ofIt, upstream)
        const pausedUntil = pauses.get(bindingOf(upstream.credential).authorizationServer) ?? null
        const isFailing = connectionCounts.unavailable > 0 || discovery.isFailing(upstream)
        return {
          upstream: upstream.name,
          displayName: upstream.displayName,
          url: upstream.url,
          kind: upstream.kind,
          mode: upstream.credential.mode,
          health: pausedUntil === null ? (isFailing ? 'failing' : 'ok') : 'paused',
          pausedUntil,
          connections: connectionCounts,
          lastUsedAt: lastUses.get(upstream.name) ?? null,
        }
      })
  }

  function countsOf(
    counts: readonly OverviewCount[],
    upstream: Upstream,
  ): UpstreamOverview['connections'] {
    const sums = { connected: 0, expired: 0, reconnect_required: 0, unavailable: 0 }
    for (const { ended, failing, connections: number, ...rest } of counts) {
      const alike = {
        ...rest,
        reason: undefined,
        obtainedAt: longAgo,
        expiresAt: ended ? longAgo : undefined,
        nextTryAt: failing ? longAgo : undefined,
      }
      const { status } = connectionState(alike, upstream, clock.now())
      if (status !== 'not_connected') sums[status] += number
    }
    return sums
  }

  const offboard: Administration['offboard'] = async ({ person, actor, requestId, startedAt }) => {
    audit.admit()
    const { cutAt, taken } = await credentials.offboard(person)
    cutOffs.note(person, { cutAt, returned: false })
    // The person's open calls are cut where this is heard; tokens and consents of an authorization server of our own belong into
    // the statement behind `offboard`.
    memory.end(person, undefined)
    audit.record({
      requestId,
      startedAt,
      type: 'administration',
      userId: person.userId,
      issuer: person.issuer,
      actor,
      upstream: undefined,
      action: 'offboard',
      method: 'unknown',
      outcome: 'success',
      reason: undefined,
    })
    revokeAll(taken)
    await audit.settled()
    await replicas.caughtUp()
  }

  function revokeAll(taken: Awaited<ReturnType<CredentialStore['offboard']>>['taken']): void {
    for (const one of taken) {
      const upstream = upstreams.get(one.upstream)
      if (upstream !== undefined) revokeTaken(methods, upstream, one)
    }
  }

  return { connections, upstreams: listUpstreams, offboard }
}
