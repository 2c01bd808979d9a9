import type { Person, PersonId } from './caller.ts'
import {
  type ConnectionState,
  connectionState,
  isServable,
  unavailable,
  working,
} from './connection-state.ts'
import { credentialKeyOf } from './credential.ts'
import { BrokerError, isBrokerError } from './errors.ts'
import type { AcquisitionAttempts } from './ports/acquisition-attempts.ts'
import type { AcquisitionMethods } from './ports/acquisition-method.ts'
import type { ActivityStore } from './ports/activity-store.ts'
import type { AuditSink } from './ports/audit-sink.ts'
import type { Connections, ConnectionView } from './ports/broker-services.ts'
import type { Clock } from './ports/clock.ts'
import type {
  CredentialStore,
  StoredConnection,
  TakenCredential,
} from './ports/credential-store.ts'
import type { ReplicaMemory, Replicas } from './ports/replicas.ts'
import type { SubjectTokens } from './ports/subject-tokens.ts'
import type { UpstreamDiscovery } from './ports/upstream-discovery.ts'
import { revokeTaken } from './revoke-tokens.ts'
import { unconfiguredConnection } from './unconfigured-connection.ts'
import {
  bindingOf,
  isConnectable,
  isExchanged,
  mayUseUpstream,
  methodOfMode,
  type Upstream,
} from './upstream.ts'

type Failing = Awaited<ReturnType<AcquisitionAttempts['failing']>>

/** What a person sees of their connections, and how they end one or store a key. */
export function createConnections(ports: {
  readonly upstreams: ReadonlyMap<string, Upstream>
  readonly credentials: CredentialStore
  readonly memory: Pick<ReplicaMemory, 'end' | 'forget'>
  readonly replicas: Pick<Replicas, 'caughtUp'>
  readonly methods: AcquisitionMethods
  readonly subjectTokens: SubjectTokens
  readonly attempts: Pick<AcquisitionAttempts, 'failing'>
  readonly discovery: Pick<UpstreamDiscovery, 'isFailing'>
  readonly activity: Pick<ActivityStore, 'lastUses'>
  readonly audit: AuditSink
  readonly clock: Clock
}): Connections {
  const { upstreams, credentials, memory, replicas, methods, subjectTokens } = ports
  const { attempts, discovery, activity, audit, clock } = ports

  async function list(person: Person, presentsToken: boolean): Promise<readonly ConnectionView[]> {
    const [stored, lastUses, failing] = await Promise.all([
      credentials.list(person),
      activity.lastUses(person),
      attempts.failing(person),
    ])
    const rows = new Map(stored.map((connection) => [connection.upstream, connection]))
    const usable = [...upstreams.values()].filter((upstream) => mayUseUpstream(person, upstream))
    const views = await Promise.all(
      usable.map((upstream) =>
        viewOf(person, upstream, presentsToken, rows.get(upstream.name), { lastUses, failing }),
      ),
    )
    const leftOver = stored
      .filter(({ upstream }) => !upstreams.has(upstream))
      .map((row) => unconfiguredConnection(row, lastUses.get(row.upstream)))
    return [...views, ...leftOver].toSorted((a, b) => (a.upstream < b.upstream ? -1 : 1))
  }

  const findUnconfigured: Connections['findUnconfigured'] = async (person, name) => {
    if (upstreams.has(name)) return undefined
    const stored = await credentials.list(person)
    const row = stored.find(({ upstream }) => upstream === name)
    if (row === undefined) return undefined
    return unconfiguredConnection(row, (await activity.lastUses(person)).get(name))
  }

  async function find(
    person: Person,
    upstream: Upstream,
    presentsToken: boolean,
  ): Promise<ConnectionView> {
    const [stored, lastUses, failing] = await Promise.all([
      credentials.list(person),
      activity.lastUses(person),
      attempts.failing(person),
    ])
    const row = stored.find((connection) => connection.upstream === upstream.name)
    return viewOf(person, upstream, presentsToken, row, { lastUses, failing })
  }

  async function viewOf(
    person: Person,
    upstream: Upstream,
    presentsToken: boolean,
    row: StoredConnection | undefined,
    { lastUses, failing }: { lastUses: ReadonlyMap<string, Date>; failing: Failing },
  ): Promise<ConnectionView> {
    const state = await stateOf(person, upstream, presentsToken, row, failing)
    return {
      upstream: upstream.name,
      displayName: upstream.displayName,
      mode: upstream.credential.mode,
      ...state,
      scopes: row?.scopes ?? [],
      audience: row?.audience ?? null,
      method: methodOfMode[upstream.credential.mode],
      account: row?.account ?? null,
      expiresAt: row?.expiresAt ?? null,
      connectedAt: row?.connectedAt ?? null,
      lastUsedAt: lastUses.get(upstream.name) ?? null,
      connectable: isConnectable(upstream),
    }
  }

  function stateOf(
    ...[person, upstream, presentsToken, row, failing]: Parameters<typeof exchangeState>
  ): ConnectionState | Promise<ConnectionState> {
    if (discovery.isFailing(upstream)) return unavailable
    return isExchanged(upstream)
      ? exchangeState(person, upstream, presentsToken, row, failing)
      : connectionState(row, upstream, clock.now())
  }

  /** Connected while a credential could be had without asking anyone. */
  async function exchangeState(
    person: Person,
    upstream: Upstream,
    presentsToken: boolean,
    row: StoredConnection | undefined,
    failing: Failing,
  ): Promise<ConnectionState> {
    const type = upstream.credential.subjectTokenType
    if (row !== undefined && isServable(row, upstream, clock.now())) return working
    // Anything else would be asked of the server.
    const { authorizationServer } = bindingOf(upstream.credential)
    if (failing.upstreams.has(upstream.name)) return unavailable
    if (failing.authorizationServers.has(authorizationServer)) return unavailable
    if (presentsToken && type !== 'id_token') return working
    try {
      if ((await subjectTokens.find(person, type)) !== undefined) return working
    } catch (error) {
      if (isBrokerError(error, 'issuer_unavailable')) return unavailable
      throw error
    }
    return connectionState(row, upstream, clock.now())
  }

  const disconnect: Connections['disconnect'] = async (options) => {
    const { person, upstream } = options
    if (!upstreams.has(upstream) && !(await isStored(person, upstream))) {
      throw new BrokerError('unknown_upstream')
    }
    audit.admit()
    const taken = await credentials.take(credentialKeyOf(person, { name: upstream }))
    memory.end(person, upstream)
    // Before the others are waited for: what is done is done, whatever becomes of this process meanwhile.
    if (taken !== undefined) recordAndRevoke(options, taken)
    // Also where there was nothing: another call may have removed it just now, and still be waiting.
    await replicas.caughtUp()
    if (taken !== undefined) await audit.settled()
  }

  /** Compared here, so that no other text than a name that was configured once gets any further. */
  async function isStored(person: PersonId, name: string): Promise<boolean> {
    return (await credentials.list(person)).some(({ upstream }) => upstream === name)
  }

  function recordAndRevoke(
    {
      person,
      actor,
      upstream: name,
      requestId,
      startedAt,
    }: Parameters<Connections['disconnect']>[0],
    taken: TakenCredential,
  ): void {
    audit.record({
      requestId,
      startedAt,
      userId: person.userId,
      issuer: person.issuer,
      actor,
      upstream: name,
      action: 'disconnect',
      method: taken.method,
      outcome: 'success',
      reason: undefined,
      ...(actor.kind === 'user' ? { details: { identity: 'token' } } : {}),
    })
    const upstream = upstreams.get(name)
    if (upstream !== undefined) revokeTaken(methods, upstream, taken)
  }

  const storeKey: Connections['storeKey'] = async (options) => {
    const { person, upstream, key, requestId, startedAt } = options
    const { mode } = upstream.credential
    if (mode !== 'user_key') throw new BrokerError('not_connectable')
    audit.admit()
    await credentials.put(credentialKeyOf(person, upstream), {
      tokens: {
        accessToken: key,
        refreshToken: undefined,
        expiresAt: undefined,
        scopes: undefined,
        account: undefined,
      },
      method: methodOfMode[mode],
      scopes: [],
      audience: undefined,
      binding: bindingOf(upstream.credential),
      renewed: false,
    })
    memory.forget(person, upstream.name)
    audit.record({
      requestId,
      startedAt,
      userId: person.userId,
      issuer: person.issuer,
      actor: { kind: 'user', id: person.userId },
      upstream: upstream.name,
      action: 'connect',
      method: methodOfMode[mode],
      outcome: 'success',
      reason: undefined,
      details: { identity: person.identity },
    })
    await audit.settled()
    await replicas.caughtUp()
  }

  return { list, find, findUnconfigured, disconnect, storeKey }
}
