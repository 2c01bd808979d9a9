import { hash, randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import type { CredentialKey } from '../../core/credential.ts'
import { memoryKeyOf } from '../../core/credential-memory.ts'
import { BrokerError } from '../../core/errors.ts'
import type { ResolvedCredential } from '../../core/ports/broker-services.ts'
import type { GatewayCall } from '../../core/ports/gateway.ts'
import type {
  ConnectionMark,
  GatewaySessionRecord,
  GatewaySessionRecords,
} from '../../core/ports/gateway-session-records.ts'
import type { Replicas } from '../../core/ports/replicas.ts'
import type { Sealer } from '../../core/ports/sealer.ts'
import { Secret } from '../../core/secret.ts'
import type { Forwarder } from '../forward.ts'
import { answerTo, collect, type CollectedAnswer, resultIn } from './collected-answer.ts'
import type { JsonObject } from './json-rpc.ts'
import type { KnownServers } from './known-servers.ts'
import { newestSessionRevision } from './revisions.ts'
import type { SessionMemory } from './session-memory.ts'
import { mcpTarget, ownHeaders } from './target.ts'

/** The session that the upstream has for a session of ours. */
export type UpstreamSession = {
  /** Undefined where the upstream keeps none. */
  readonly id: string | undefined
  readonly revision: string
}

/**
 * Sessions of the revisions before 2026-07-28. A client's session is the gateway's own, bound to its person and upstream, and
 * known to all replicas; behind it stands the upstream's, opened when it is first needed and never shown.
 */
export type Sessions = {
  /** Gives the id for the client. `at` is known where the upstream answered the `initialize` itself. */
  readonly open: (
    call: GatewayCall,
    session: {
      readonly initialize: JsonObject
      readonly revision: string
      readonly at: UpstreamSession | undefined
      /** The connection that it was opened with there. */
      readonly connection?: ConnectionMark
    },
  ) => Promise<string>
  /** Tells the person's connection from a later one. */
  readonly connectionOf: (call: GatewayCall) => Promise<ConnectionMark>
  readonly find: (
    id: string,
    call: GatewayCall,
  ) => GatewaySessionRecord | Promise<GatewaySessionRecord | undefined> | undefined
  /**
   * The upstream's session: opened where it is not yet, once over all replicas, with what the client said in its `initialize`.
   * @throws BrokerError upstream_unavailable, and whatever a forwarded call can end with
   */
  readonly atUpstream: (
    session: GatewaySessionRecord,
    call: GatewayCall,
    credential: ResolvedCredential,
  ) => Promise<UpstreamSession>
  /** The upstream's session as it stands behind this one; undefined where none is open. */
  readonly current: (session: GatewaySessionRecord) => UpstreamSession | undefined
  /** The upstream does not know this session of its any more, which stands, or was just opened, behind ours. */
  readonly forgetUpstream: (session: GatewaySessionRecord, at: UpstreamSession) => Promise<void>
  /** Gives it as it was, when no replica knows it any more; undefined where somebody else has removed it. */
  readonly remove: (session: GatewaySessionRecord) => Promise<GatewaySessionRecord | undefined>
  /** Tells the upstream that its session is over. Nothing comes of it where that fails. */
  readonly endAtUpstream: (
    at: UpstreamSession,
    call: GatewayCall,
    credential: ResolvedCredential,
  ) => Promise<void>
}

const idBytes = 32
const idPattern = /^[A-Za-z0-9_-]{43}$/
/** How long a session is waited for that another call or replica opens. */
const openingWaitMs = 20_000
const lookAgainMs = 100
const initializeId = 'onbehalf-initialize'

export function createSessions(ports: {
  readonly records: GatewaySessionRecords
  readonly memory: SessionMemory
  readonly replicas: Pick<Replicas, 'caughtUp' | 'isFresh'>
  readonly sealer: Sealer
  readonly forwarder: Forwarder
  readonly knownServers: Pick<KnownServers, 'ask' | 'note'>
}): Sessions {
  const { records, memory, replicas, sealer, forwarder, knownServers } = ports
  /** Opened once for all calls that find the same record. */
  const unsealed = new WeakMap<GatewaySessionRecord, UpstreamSession>()

  function sealedAt(key: CredentialKey, idHash: Uint8Array, { id, revision }: UpstreamSession) {
    const sealedId =
      id === undefined ? undefined : sealer.seal(new Secret(id), contextOf(key, idHash))
    return { sealedId, revision }
  }

  function openedAt(session: GatewaySessionRecord): UpstreamSession | undefined {
    if (session.at === undefined) return undefined
    const known = unsealed.get(session)
    if (known !== undefined) return known
    const { sealedId, revision } = session.at
    const context = contextOf(session, session.idHash)
    const opened = { id: sealedId && sealer.open(sealedId, context).reveal(), revision }
    unsealed.set(session, opened)
    return opened
  }

  async function atUpstream(
    session: GatewaySessionRecord,
    call: GatewayCall,
    credential: ResolvedCredential,
  ): Promise<UpstreamSession> {
    const giveUpAt = performance.now() + openingWaitMs
    for (let seen: GatewaySessionRecord | undefined = session; seen !== undefined; ) {
      const open = openedAt(seen)
      if (open !== undefined) return open
      const claim = await records.claimOpening(seen)
      if (claim !== undefined) return openAtUpstream(seen, call, credential, claim.connection)
      if (performance.now() > giveUpAt) throw new BrokerError('upstream_unavailable')
      await sleep(lookAgainMs)
      await forwarder.refuseCut(call, credential)
      seen = await records.find(session.idHash, session)
    }
    throw new BrokerError('not_found')
  }

  async function openAtUpstream(
    session: GatewaySessionRecord,
    call: GatewayCall,
    credential: ResolvedCredential,
    connection: ConnectionMark,
  ): Promise<UpstreamSession> {
    try {
      // A session that began before anybody was connected may be the first that comes here.
      await knownServers.ask(call, credential)
      const initialize = {
        jsonrpc: '2.0',
        id: initializeId,
        method: 'initialize',
        params: session.initialize,
      }
      const answer = await post(call, credential, initialize, [])
      const message = answerTo(initializeId, answer)
      const opened = sessionIn(answer, message)
      const initialized = { jsonrpc: '2.0', method: 'notifications/initialized' }
      await post(call, credential, initialized, sessionHeaders(opened))
      await knownServers.note(call.upstream.name, resultIn(message) ?? {})
      const sealed = sealedAt(session, session.idHash, opened)
      if (await records.setOpened(session, sealed, connection)) return opened
      // Its client is done with it meanwhile, and nobody else would end what was opened for it.
      await endAtUpstream(opened, call, credential)
      throw new BrokerError('not_found')
    } catch (error) {
      await records.setClosed({ ...session, at: undefined })
      throw error
    }
  }

  async function endAtUpstream(
    at: UpstreamSession,
    call: GatewayCall,
    credential: ResolvedCredential,
  ): Promise<void> {
    if (at.id === undefined) return
    try {
      await collect((answer) =>
        forwarder.forward(
          {
            call,
            method: 'DELETE',
            target: mcpTarget(call.upstream),
            headers: [...ownHeaders, ...sessionHeaders(at)],
            body: { kind: 'whole', content: undefined },
            answer,
            whenGone: 'abort',
          },
          credential,
        ),
      )
    } catch (error) {
      if (!(error instanceof BrokerError)) throw error
    }
  }

  function post(
    call: GatewayCall,
    credential: ResolvedCredential,
    message: JsonObject,
    headers: readonly string[],
  ): Promise<CollectedAnswer> {
    return collect(
      (answer) =>
        forwarder.forward(
          {
            call,
            method: 'POST',
            target: mcpTarget(call.upstream),
            headers: [...ownHeaders, ...headers],
            body: { kind: 'whole', content: Buffer.from(JSON.stringify(message)) },
            answer,
            whenGone: 'abort',
          },
          credential,
        ),
      initializeId,
    )
  }

  return {
    atUpstream,
    current: openedAt,
    endAtUpstream,
    async open(call, { initialize, revision, at, connection }) {
      const id = randomBytes(idBytes).toString('base64url')
      const key = keyOf(call)
      const idHash = Buffer.from(hashOf(id), 'base64url')
      const sealed = at && sealedAt(key, idHash, at)
      await records.insert({ ...key, idHash, initialize, revision, at: sealed }, connection)
      return id
    },
    connectionOf: (call) => records.connectionOf(keyOf(call)),
    find(id, call) {
      if (!idPattern.test(id)) return undefined
      const key = keyOf(call)
      const digest = hashOf(id)
      const read = () => records.find(Buffer.from(digest, 'base64url'), key)
      // What was not heard from for long may have ended it.
      return replicas.isFresh() ? memory.load(memoryKeyOf(key), digest, read) : read()
    },
    async forgetUpstream(session, at) {
      memory.forget(memoryKeyOf(session))
      const seen = session.at === undefined ? await records.find(session.idHash, session) : session
      // Another call may have opened the next one already.
      if (seen !== undefined && openedAt(seen)?.id === at.id) await records.setClosed(seen)
    },
    async remove(session) {
      const removed = await records.remove(session)
      await replicas.caughtUp()
      return removed
    },
  }
}

/** What the upstream said in its answer to `initialize`. @throws BrokerError upstream_unavailable where it is none */
export function sessionIn(
  answer: CollectedAnswer,
  message: JsonObject | undefined,
): UpstreamSession {
  const result = resultIn(message)
  if (answer.status !== 200 || result === undefined) throw new BrokerError('upstream_unavailable')
  const id = answer.headers['mcp-session-id']
  const revision = result['protocolVersion']
  return {
    id: typeof id === 'string' ? id : undefined,
    revision: typeof revision === 'string' ? revision : newestSessionRevision,
  }
}

/** What goes with every request of an upstream's session. */
export function sessionHeaders({ id, revision }: UpstreamSession): readonly string[] {
  return [
    ...(id === undefined ? [] : ['Mcp-Session-Id', id]),
    // Before 2025-06-18 there was no such header, and a server may not know its value.
    'MCP-Protocol-Version',
    revision,
  ]
}

/** What a client sends of its session with us, which is not the upstream's. */
export const sessionHeaderNames: ReadonlySet<string> = new Set([
  'mcp-session-id',
  'mcp-protocol-version',
])

/** The same for an answer that the gateway reads too, or adds to: it unpacks nothing. */
export const ownReadNames: ReadonlySet<string> = new Set([...sessionHeaderNames, 'accept-encoding'])

function keyOf({ person, upstream }: GatewayCall): CredentialKey {
  return { issuer: person.issuer, userId: person.userId, upstream: upstream.name }
}

function contextOf({ issuer, userId, upstream }: CredentialKey, idHash: Uint8Array) {
  return {
    table: 'gateway_session',
    field: 'upstream_session',
    issuer,
    userId,
    upstream,
    idHash,
  } as const
}

function hashOf(id: string): string {
  return hash('sha256', id, 'base64url')
}
