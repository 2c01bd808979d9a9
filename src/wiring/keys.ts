import { randomUUID } from 'node:crypto'
import { performance } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import { storeRecord } from '../audit/direct-record.ts'
import type { BrokerConfig } from '../config/broker-config.ts'
import type { AuditReason, AuditRecord } from '../core/audit-event.ts'
import { systemActor } from '../core/caller.ts'
import type { JournalRecord, JournalRecords } from '../core/ports/journal-records.ts'
import type { RecordedRewrap } from '../core/ports/key-reports.ts'
import { auditReasonOf } from '../core/resolution-recorder.ts'
import { createEnvelope } from '../sealing/envelope.ts'
import { createKeyCheck, type KeyCheck } from '../sealing/key-check.ts'
import { createKeyRewrap } from '../sealing/key-rewrap.ts'
import { createKeyring, type Keyring } from '../sealing/keyring.ts'
import { createActivityBatches } from '../storage/activity-batches.ts'
import type { Database } from '../storage/database.ts'
import { createEncryptionKeyRecords } from '../storage/encryption-key-records.ts'
import { readJournalFile } from '../storage/journal-file.ts'
import { createSealedRows } from '../storage/sealed-rows.ts'
import { systemClock } from './system-clock.ts'

/** For a broker, which has opened its journal. */
export function brokerKeyCheck(
  keyring: Keyring,
  database: Database,
  journal: Pick<JournalRecords, 'left'>,
): KeyCheck {
  return createKeyCheck({
    keyring,
    records: createEncryptionKeyRecords(database),
    journal: () => Promise.resolve(sealedOf(journal.left.values())),
  })
}

/** For a command, beside a broker or without one. */
export function commandKeyCheck(config: BrokerConfig, database: Database): KeyCheck {
  return createKeyCheck({
    keyring: createKeyring(config.encryptionKeys),
    records: createEncryptionKeyRecords(database),
    journal: async () => sealedOf(await readJournalFile(config.dataDir)),
  })
}

function sealedOf(records: Iterable<JournalRecord>): readonly Uint8Array[] {
  return [...records].map(({ sealed }) => sealed)
}

/**
 * `keys rewrap` beside running brokers. A writer of its own in the activity log, because their spools are theirs.
 * @throws OperatorError encryption_keys_refused, BrokerError storage_unavailable
 */
export async function rewrapKeys(options: {
  readonly config: BrokerConfig
  readonly database: Database
  readonly signal: AbortSignal
  readonly onProgress: (rows: number, rowsToMove: number) => void
}): Promise<RecordedRewrap> {
  const { config, database, signal, onProgress } = options
  const keyring = createKeyring(config.encryptionKeys)
  await commandKeyCheck(config, database).verify()
  const rewrap = createKeyRewrap({
    keyring,
    sealer: createEnvelope(keyring),
    rows: createSealedRows(database),
    records: createEncryptionKeyRecords(database),
    pause: (ms) => sleep(ms),
    elapsedMs: () => performance.now(),
  })
  const record = startRecord(database)
  try {
    const report = await rewrap.run({ signal, onProgress })
    const failure = report.unopened > 0 ? 'credential_corrupt' : 'interrupted'
    const isWhole = report.end === 'done' && report.unopened === 0
    return { ...report, recorded: await record(isWhole ? undefined : failure) }
  } catch (error) {
    await record(auditReasonOf(error))
    throw error
  }
}

/** A database that is away has cost its time already. */
const recordWithinMs = 3000

/** Gives what stores the one record; whether it could. */
function startRecord(database: Database) {
  const startedAt = systemClock.now()
  const store = createActivityBatches(database)
  return (reason: AuditReason | undefined): Promise<boolean> => {
    const record: AuditRecord = {
      requestId: randomUUID(),
      startedAt,
      type: 'administration',
      actor: systemActor,
      userId: undefined,
      issuer: undefined,
      upstream: undefined,
      action: 'key_rewrap',
      method: 'unknown',
      outcome: reason === undefined ? 'success' : 'failure',
      reason,
    }
    return storeRecord({ record, store, clock: systemClock, deadlineMs: recordWithinMs })
  }
}
