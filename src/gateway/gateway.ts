import type {
  Connections,
  CredentialResolver,
  OAuthConnector,
  RefusalRecorder,
  ResolvedCredential,
} from '../core/ports/broker-services.ts'
import type { Clock } from '../core/ports/clock.ts'
import type { Gateway, GatewayCall } from '../core/ports/gateway.ts'
import type {
  GatewaySessionRecords,
  UpstreamServerRecords,
} from '../core/ports/gateway-session-records.ts'
import type { Notices } from '../core/ports/notices.ts'
import type { Replicas } from '../core/ports/replicas.ts'
import type { Sealer } from '../core/ports/sealer.ts'
import type { StepUps } from '../core/ports/step-ups.ts'
import type { UpstreamClient } from '../core/ports/upstream-client.ts'
import { createForwarder } from './forward.ts'
import { createHttpProxy } from './http-proxy.ts'
import { createConnectionWait } from './mcp/connection-wait.ts'
import { createElicitations } from './mcp/elicitations.ts'
import { createKnownServers } from './mcp/known-servers.ts'
import { createMcpGateway } from './mcp/mcp-gateway.ts'
import { createModernMcp } from './mcp/modern.ts'
import { createRequestStates } from './mcp/request-state.ts'
import { createSessionEraMcp } from './mcp/session-era.ts'
import type { SessionMemory } from './mcp/session-memory.ts'
import { createSessions } from './mcp/sessions.ts'
import { createHeldStreams } from './mcp/held-streams.ts'
import { createListenStream } from './mcp/listen-stream.ts'
import { createSessionStreams } from './mcp/session-streams.ts'
import type { OpenCalls } from './open-calls.ts'
import { createStepUpLinks } from './step-up.ts'

/** How often it is looked whether the database is still heard from. */
const lookEveryMs = 1000

/** Carries calls to upstreams. */
export function createGateway(ports: {
  readonly resolver: CredentialResolver
  readonly records: Pick<RefusalRecorder, 'settled'>
  readonly connections: Pick<Connections, 'find'>
  readonly connector: Pick<OAuthConnector, 'offerLink'>
  readonly stepUps: StepUps
  readonly openCalls: OpenCalls
  readonly upstreamClient: UpstreamClient
  readonly sessionRecords: GatewaySessionRecords
  readonly sessionMemory: SessionMemory
  readonly upstreamServers: UpstreamServerRecords
  /** Of what is stored. */
  readonly sealer: Sealer
  /** Of what callers carry. */
  readonly requestStateSealer: Sealer
  readonly notices: Notices
  readonly replicas: Pick<Replicas, 'caughtUp' | 'isFresh'>
  readonly clock: Clock
}): Gateway & {
  /** Ends the streams that the gateway itself keeps open, for whom nothing else ends. */
  endStreams(): void
  stop(): Promise<void>
} {
  const { connections, upstreamClient, sessionRecords, sealer, notices } = ports
  const { connector, stepUps, openCalls, replicas, clock } = ports
  /**
   * How much had been cut when a credential was asked for. Calls share one that is in memory, but none from before a cut of their
   * person with one from after it: it is forgotten then.
   */
  const cutsBefore = new WeakMap<ResolvedCredential, number>()
  const resolver: CredentialResolver = {
    resolve(request) {
      const cuts = openCalls.cuts()
      const resolved = ports.resolver.resolve(request)
      // What is at hand is only waited for until its record is safe.
      if (resolved instanceof Promise) return recorded(resolved, cuts)
      cutsBefore.set(resolved, cuts)
      return ports.records.settled()?.then(() => resolved) ?? resolved
    },
  }
  /** The record is safe before anything that it is about leaves. */
  async function recorded(resolved: Promise<ResolvedCredential>, cuts: number) {
    try {
      const credential = await resolved
      cutsBefore.set(credential, cuts)
      return credential
    } finally {
      await ports.records.settled()
    }
  }

  const forwarder = createForwarder({
    resolver,
    upstreamClient,
    openCalls,
    isCut: ({ person, upstream }, credential) =>
      openCalls.isCutSince(person, upstream.name, cutsBefore.get(credential) ?? 0),
  })
  const knownServers = createKnownServers({ records: ports.upstreamServers, forwarder })
  const sessions = createSessions({
    records: sessionRecords,
    memory: ports.sessionMemory,
    replicas: ports.replicas,
    sealer,
    forwarder,
    knownServers,
  })
  const connectionWait = createConnectionWait({ connections, notices })
  const elicitations = createElicitations({ records: sessionRecords })
  const heldStreams = createHeldStreams({ resolver, openCalls, connectionWait })
  const stepUpLinks = createStepUpLinks({ connections, connector, stepUps })
  const modern = createModernMcp({
    resolver,
    forwarder,
    knownServers,
    requestStates: createRequestStates({ sealer: ports.requestStateSealer, clock }),
    connectionWait,
    listen: createListenStream({ forwarder, knownServers, heldStreams }),
    stepUpLinks,
  })
  const sessionEra = createSessionEraMcp({
    resolver,
    forwarder,
    knownServers,
    sessions,
    elicitations,
    connectionWait,
    sessionStreams: createSessionStreams({
      forwarder,
      connectionWait,
      knownServers,
      sessions,
      records: sessionRecords,
      elicitations,
      heldStreams,
    }),
    stepUpLinks,
  })
  // A disconnect on another replica could not be heard any more, and streams must not outlive it.
  const watch = setInterval(() => {
    if (!replicas.isFresh()) openCalls.cutAll()
  }, lookEveryMs)
  watch.unref()

  /** Counted before anything is done for it, and as long as anything is. */
  function counted(carry: (call: GatewayCall) => Promise<void>) {
    return async (call: GatewayCall): Promise<void> => {
      const leave = openCalls.admit(call.person)
      try {
        await carry(call)
      } finally {
        leave()
      }
    }
  }

  return {
    proxy: counted(createHttpProxy({ resolver, forwarder, stepUpLinks })),
    mcp: counted(createMcpGateway({ modern, sessionEra })),
    endStreams: heldStreams.end,
    async stop() {
      clearInterval(watch)
      openCalls.cutAll()
      await upstreamClient.close()
    },
  }
}
