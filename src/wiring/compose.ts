import { randomUUID } from 'node:crypto'
import { performance } from 'node:perf_hooks'
import { createAcquisition } from '../acquisition/index.ts'
import type { BrokerConfig } from '../config/broker-config.ts'
import { createAdministration } from '../core/administration.ts'
import { createBackgroundRenewals } from '../core/background-renewals.ts'
import { createConnections } from '../core/connections.ts'
import { createCredentialAcquirer } from '../core/credential-acquirer.ts'
import { createCredentialMemory } from '../core/credential-memory.ts'
import { createCredentialResolver } from '../core/credential-resolver.ts'
import { createCutOffs } from '../core/cut-offs.ts'
import { createEmbeddedResolver, type EmbeddedResolver } from '../core/embedded-resolver.ts'
import { createLineLimit } from '../core/line-limit.ts'
import { createOAuthConnector } from '../core/oauth-connector.ts'
import type { PolicyHook } from '../core/policy.ts'
import type { AcquisitionMethods } from '../core/ports/acquisition-method.ts'
import type { Clock } from '../core/ports/clock.ts'
import type { JournalRecords } from '../core/ports/journal-records.ts'
import type { Notices } from '../core/ports/notices.ts'
import type { Replicas } from '../core/ports/replicas.ts'
import type { Timer } from '../core/ports/timer.ts'
import { createRefreshCoordinator } from '../core/refresh-coordinator.ts'
import { createRenewals } from '../core/renewals.ts'
import { createReplicaMemory } from '../core/replica-memory.ts'
import { createResolutionRecorder } from '../core/resolution-recorder.ts'
import type { Secret } from '../core/secret.ts'
import { createServerChanges } from '../core/server-changes.ts'
import { createStoredCredentials } from '../core/stored-credentials.ts'
import { createTokenEndpoints } from '../core/token-endpoints.ts'
import type { Upstream } from '../core/upstream.ts'
import { waitAtMost } from '../core/wait-at-most.ts'
import { createWakeups } from '../core/wakeups.ts'
import { createGateway } from '../gateway/gateway.ts'
import { createOpenCalls } from '../gateway/open-calls.ts'
import { createSessionMemory } from '../gateway/mcp/session-memory.ts'
import { createApp } from '../http/app.ts'
import type { GatewayDoors } from '../http/gateway-doors.ts'
import type { HttpApp } from '../http/http-env.ts'
import { createMetricsApp } from '../http/routes/metrics.ts'
import type { BrokerLog } from '../log.ts'
import { createMetrics } from '../metrics/metrics.ts'
import { createHttpClient } from '../outbound/http-client.ts'
import { createUpstreamClient } from '../outbound/upstream-client.ts'
import { pages } from '../pages/pages.ts'
import { createConnectStore } from '../sealing/connect-store.ts'
import { createCredentialStore } from '../sealing/credential-store.ts'
import { createEnvelope } from '../sealing/envelope.ts'
import type { KeyCheck } from '../sealing/key-check.ts'
import { createRefreshJournal } from '../sealing/refresh-journal.ts'
import { createKeyring, watchKeyring } from '../sealing/keyring.ts'
import { createWatchedSealer } from '../sealing/watched-sealer.ts'
import { createAcquisitionAttempts } from '../storage/acquisition-attempts.ts'
import { createConnectRecords } from '../storage/connect-records.ts'
import { createCredentialRecords } from '../storage/credential-records.ts'
import { createCutOffRecords } from '../storage/cut-off-records.ts'
import type { Database } from '../storage/database.ts'
import { createDueRenewals } from '../storage/due-renewals.ts'
import { createGatewaySessionRecords } from '../storage/gateway-session-records.ts'
import { createOverviewRecords } from '../storage/overview-records.ts'
import { createStepUpRecords } from '../storage/step-up-records.ts'
import { createUpstreamServerRecords } from '../storage/upstream-server-records.ts'
import { type ActivityProof, createActivityProof } from './activity-proof.ts'
import { createActivityQuestions } from './activity-questions.ts'
import { createDiscovery } from './discovery.ts'
import { createIdentity } from './identity.ts'
import { brokerKeyCheck } from './keys.ts'
import { corruptValue, createRecording } from './recording.ts'
import { systemRequest } from './system-request.ts'

/** The databases that the rooms ask, so that a search or a batch never keeps a call waiting. */
export type Databases = {
  readonly calls: Database
  readonly searches: Database
  readonly pages: Database
  /** For the writer of the activity log. */
  readonly databaseUrl: Secret
  readonly notices: Notices
  readonly replica: Replicas
  readonly clock: Clock
  readonly journal: JournalRecords
}

/** What an embedder may add. */
export type BrokerHooks = {
  /** The last yes or no before a credential leaves. */
  readonly policy?: PolicyHook
}

/** The house with every room in it, not listening yet. */
export type ComposedBroker = {
  readonly app: HttpApp
  readonly gatewayDoors: GatewayDoors
  /** Absent where the metrics are part of `app`. */
  readonly metricsApp: { fetch(request: Request): Response | Promise<Response> } | undefined
  readonly resolver: EmbeddedResolver
  readonly keyCheck: KeyCheck
  readonly proof: Pick<ActivityProof, 'start'>
  /** Begins the work that no call asks for. */
  start(): void
  /** Stores what an earlier process on this data directory could not. Before anybody is served. */
  recover(): Promise<void>
  /** Fetches what the first calls need. Never rejects. */
  warmUp(): Promise<void>
  /** Ends the answers that would go on for ever. */
  endStreams(): void
  /**
   * Finishes the requests to authorization servers, `graceMs` at most, then stores what was recorded. After the last request
   * and before the databases close.
   */
  stop(graceMs: number): Promise<void>
}

/** Joins the rooms. The only place that knows them all. */
export function compose(options: {
  readonly config: BrokerConfig
  readonly databases: Databases
  readonly hooks: BrokerHooks
  readonly log: BrokerLog
  readonly version: string
}): ComposedBroker {
  const { config, databases, hooks, log } = options
  const { publicUrl } = config
  // The database's: replicas whose own clocks are apart agree by it on when a credential ends.
  const { clock } = databases
  const http = createHttpClient({ log: log.warn })
  const keyring = createKeyring(config.encryptionKeys)
  const mayLog = createLineLimit({ clock })
  const watchedKeyring = watchKeyring(keyring, (key) => {
    const event = 'encryption_key_missing'
    if (mayLog(event)) log.error({ event, key: key ?? null })
  })
  const sealer = createEnvelope(watchedKeyring)
  const keyCheck = brokerKeyCheck(keyring, databases.calls, databases.journal)

  const { databaseUrl } = databases
  const recorder = createRecording({ config, databaseUrl, clock, log })
  const metrics = createMetrics({ auditStats: () => recorder.stats() })
  const audit = metrics.countRecords(recorder)
  const questions = createActivityQuestions({ databases, timer: unheldTimer })
  const { activity, activityFeed } = questions

  // Of credentials the resolver tells, which knows the call.
  const watched = createWatchedSealer({
    sealer,
    onCorrupt: (context) => audit.record(corruptValue(context, clock.now())),
  })
  const records = createCredentialRecords(databases.calls)
  const credentials = createCredentialStore({ records, sealer })
  const memory = createCredentialMemory()
  const discovery = createDiscovery({
    config,
    database: databases.calls,
    sealer: watched,
    http,
    clock,
    timer: unheldTimer,
    log,
    onChanged: () => memory.forgetAll(),
  })
  const { upstreams } = discovery
  const onClientRefused = (upstream: Upstream) => discovery.clientRefused(upstream)
  const tokenEndpoints = createTokenEndpoints({ upstreams })
  const onEndpoint = (upstream: Upstream, url: string) => tokenEndpoints.learn(upstream, url)
  const acquisition = createAcquisition({ http, clock, log, onClientRefused, onEndpoint })
  const methods = countedMethods(acquisition.methods, metrics)
  const wakeups = createWakeups({ notices: databases.notices })
  const attempts = createAcquisitionAttempts(databases.calls)
  const stopwatch = { read: () => performance.now() }
  const cutOffs = createCutOffs({
    records: createCutOffRecords(databases.calls),
    storage: databases.replica,
  })
  const identity = createIdentity({
    config,
    database: databases.calls,
    http,
    sealer: watched,
    cutOffs,
    clock,
    log,
  })
  const { subjectTokens } = identity

  const stepUps = createStepUpRecords(databases.calls)
  const connector = createOAuthConnector({
    stepUps,
    publicUrl,
    upstreams,
    discovery,
    connects: createConnectStore({
      records: createConnectRecords(databases.calls),
      sealer: watched,
    }),
    credentials,
    memory,
    authorization: metrics.countCodes(acquisition.authorization),
    method: methods.oauth_connect,
    tokenEndpoints,
    attempts,
    audit,
    clock,
  })
  const resolutions = createResolutionRecorder({ audit, newRequestId: randomUUID, clock })
  const refresh = createRefreshCoordinator({
    upstreams,
    credentials,
    memory,
    methods,
    tokenEndpoints,
    wakeups,
    journal: createRefreshJournal({
      records: databases.journal,
      sealer: watched,
      log,
      onFailure: () => metrics.countJournalFailure(),
    }),
    onRecovered: (key, upstream) => resolutions.recovered(key, upstream),
    storage: databases.replica,
    clock,
    stopwatch,
    random: Math.random,
  })
  const stored = createStoredCredentials({ credentials, memory, storage: databases.replica })
  const serverChanges = createServerChanges({ discovery })
  const renewals = createRenewals({
    stored,
    refresh,
    acquirer: createCredentialAcquirer({
      credentials,
      memory,
      methods,
      tokenEndpoints,
      subjectTokens,
      wakeups,
      attempts,
      stopwatch,
      random: Math.random,
    }),
    serverChanges,
    records: resolutions,
    clock,
  })
  const resolver = createCredentialResolver({
    stored,
    memory,
    renewals,
    connector,
    serverChanges,
    policy: hooks.policy,
    records: resolutions,
    storage: databases.replica,
    clock,
  })
  const openCalls = createOpenCalls()
  const sessionMemory = createSessionMemory()
  const replicaMemory = createReplicaMemory({
    upstreams,
    credentials: memory,
    sessions: sessionMemory,
    cutOffs,
    renewals,
    openCalls,
  })
  databases.replica.keeps(replicaMemory)

  const background = createBackgroundRenewals({
    upstreams,
    tokenEndpoints,
    storesSubjectTokens: config.identity.login?.storeSubjectToken === true,
    due: createDueRenewals(databases.calls),
    renew: (renewal, upstream) =>
      renewals.renewAhead(systemRequest(renewal, upstream, clock.now()), renewal.generation),
    clock,
    timer: unheldTimer,
    random: Math.random,
  })

  const proof = createActivityProof({
    config,
    databases,
    sealer,
    http,
    log,
    version: options.version,
  })
  const connections = createConnections({
    upstreams,
    credentials,
    memory: replicaMemory,
    replicas: databases.replica,
    methods,
    subjectTokens,
    attempts,
    discovery,
    activity,
    audit,
    clock,
  })
  const gateway = createGateway({
    resolver,
    records: resolutions,
    connections,
    connector,
    stepUps,
    openCalls,
    upstreamClient: createUpstreamClient({ log: log.warn }),
    sessionRecords: createGatewaySessionRecords(databases.calls),
    sessionMemory,
    upstreamServers: createUpstreamServerRecords(databases.calls),
    sealer,
    // Callers write what they like in the place of one: what it names is no word of a missing key.
    requestStateSealer: createEnvelope(keyring),
    notices: databases.notices,
    replicas: databases.replica,
    clock,
  })

  const { protectedResources } = identity
  const { app, gatewayDoors } = createApp({
    publicUrl,
    upstreams,
    returnTo: config.returnTo,
    allowedOrigins: config.allowedOrigins,
    clock,
    log,
    authenticator: identity.authenticator,
    challenge: (refusal, target) => protectedResources.challenge(refusal, target),
    signIn: identity.signIn,
    resolver,
    refusals: resolutions,
    connections,
    administration: createAdministration({
      upstreams,
      overview: createOverviewRecords(databases.searches),
      credentials,
      methods,
      discovery,
      cutOffs,
      memory: replicaMemory,
      replicas: databases.replica,
      audit,
      clock,
    }),
    connector,
    gateway,
    ...questions,
    activityProof: proof,
    protectedResources,
    clientDocuments: discovery.clientDocuments,
    readiness: [
      {
        name: 'database',
        isReady: async () => databases.replica.isFresh() && (await answers(keyCheck.matches())),
      },
      { name: 'spool', isReady: () => recorder.isReady() },
      { name: 'keys', isReady: () => isWell(keyCheck.matches()) },
    ],
    metrics: config.listen.metrics === undefined ? metrics : undefined,
    pages,
    version: options.version,
  })

  return {
    app,
    gatewayDoors,
    metricsApp: config.listen.metrics === undefined ? undefined : createMetricsApp(metrics),
    resolver: createEmbeddedResolver({
      upstreams,
      authenticator: identity.authenticator,
      resolver,
      refusals: resolutions,
      newRequestId: randomUUID,
      clock,
    }),
    keyCheck,
    proof,
    start() {
      discovery.start()
      background.start()
    },
    async recover() {
      await discovery.catchUp()
      await refresh.recover()
    },
    endStreams() {
      activityFeed.stop()
      gateway.endStreams()
    },
    async warmUp() {
      await identity.authenticator.probe()
    },
    async stop(graceMs) {
      discovery.stop()
      await gateway.stop()
      const graceEndsAt = performance.now() + graceMs
      await waitAtMost(Promise.all([background.stop(), renewals.idle()]), graceMs)
      await refresh.stop(Math.max(0, graceEndsAt - performance.now()))
      await recorder.stop()
      await proof.stop()
    },
  }
}

/** Keeps no process alive. */
const unheldTimer: Timer = {
  after(ms, run) {
    const timer = setTimeout(run, ms)
    timer.unref()
    return () => clearTimeout(timer)
  },
}

function countedMethods(
  methods: AcquisitionMethods,
  metrics: ReturnType<typeof createMetrics>,
): AcquisitionMethods {
  return {
    oauth_connect: metrics.countTokenRequests(methods.oauth_connect),
    token_exchange: metrics.countTokenRequests(methods.token_exchange),
    entra_obo: metrics.countTokenRequests(methods.entra_obo),
    user_key: methods.user_key,
  }
}

/** Whether the database answers a question, whatever it says: a wrong key is not the database's fault. */
async function answers(question: Promise<boolean>): Promise<boolean> {
  return question.then(
    () => true,
    () => false,
  )
}

async function isWell(question: Promise<boolean>): Promise<boolean> {
  return question.catch(() => false)
}
