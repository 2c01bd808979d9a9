import { createActivityVerifier } from '../audit/activity-verification.ts'
import { type Checkpoints, startCheckpoints } from '../audit/checkpoints.ts'
import { startDestinations } from '../audit/destinations.ts'
import { startRetention } from '../audit/retention.ts'
import type { BrokerConfig } from '../config/broker-config.ts'
import type { ActivityVerifier } from '../core/ports/activity-proof.ts'
import type { ActivitySigner } from '../core/ports/activity-signer.ts'
import type { HttpClient } from '../core/ports/http-client.ts'
import type { Sealer } from '../core/ports/sealer.ts'
import { waitAtMost } from '../core/wait-at-most.ts'
import type { BrokerLog } from '../log.ts'
import { createActivitySigner } from '../sealing/activity-signer.ts'
import { createEnvelope } from '../sealing/envelope.ts'
import { createKeyring } from '../sealing/keyring.ts'
import { createActivityArrivals } from '../storage/activity-arrivals.ts'
import { createActivityPartitions } from '../storage/activity-partitions.ts'
import { createActivityProofRecords } from '../storage/activity-proof-records.ts'
import type { Database } from '../storage/database.ts'
import { createSigningKeyRecords } from '../storage/signing-key-records.ts'
import { createTaskLeases } from '../storage/task-leases.ts'
import { systemClock } from './system-clock.ts'

/** What goes on beside the recording: checkpoints, retention, and questions about them. */
export type ActivityProof = {
  readonly signer: ActivitySigner
  readonly verifier: ActivityVerifier
  /** After the encryption keys were checked: a signing key is sealed under them. Never rejects. */
  start(): Promise<void>
  /** After the last record was stored; signs where everything stands. Never rejects. */
  stop(): Promise<void>
}

/** A week with millions of records takes minutes to remove; nobody waits for that. */
const firstRetentionMs = 3000
const stopMs = 5000

/** Joins the rooms that prove the activity log, for a running broker. */
export function createActivityProof(options: {
  readonly config: BrokerConfig
  readonly databases: { readonly calls: Database; readonly searches: Database }
  readonly sealer: Sealer
  readonly http: HttpClient
  readonly log: BrokerLog
  readonly version: string
}): ActivityProof {
  const { config, databases, sealer, http, log, version } = options
  const { calls, searches } = databases
  const signer = createActivitySigner({ records: createSigningKeyRecords(calls), sealer })
  /** Whole tables are read: that keeps no call waiting. */
  const reading = createActivityProofRecords(searches)
  let checkpoints: Checkpoints | undefined
  let retention: ReturnType<typeof startRetention> | undefined
  let destinations: ReturnType<typeof startDestinations> | undefined
  const leases = createTaskLeases(calls)

  return {
    signer,
    verifier: createActivityVerifier({ records: reading, signer }),

    async start() {
      checkpoints = startCheckpoints({ records: createActivityProofRecords(calls), signer, log })
      retention = startRetention({
        partitions: createActivityPartitions(calls),
        records: reading,
        signer,
        leases,
        retentionDays: config.audit.retentionDays,
        log,
      })
      destinations = startDestinations(config.audit.destinations, {
        arrivals: createActivityArrivals(searches),
        leases,
        signer,
        http,
        clock: systemClock,
        log,
        version,
      })
      await waitAtMost(retention, firstRetentionMs)
    },

    async stop() {
      const ended = retention?.then((running) => running.stop())
      const all = [ended, checkpoints?.stop(), destinations?.stop()].filter(
        (stopping) => stopping !== undefined,
      )
      await waitAtMost(Promise.allSettled(all), stopMs)
    },
  }
}

/** Verifies the log of a database without a running broker. */
export function activityVerifierFor(
  config: BrokerConfig,
  database: Database,
  more: Pick<Parameters<typeof createActivityVerifier>[0], 'checkpointLines' | 'publicKeys'>,
): ActivityVerifier {
  const signer = createActivitySigner({
    records: createSigningKeyRecords(database),
    sealer: createEnvelope(createKeyring(config.encryptionKeys)),
  })
  return createActivityVerifier({ records: createActivityProofRecords(database), signer, ...more })
}
