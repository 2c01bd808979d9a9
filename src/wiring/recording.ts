import { randomUUID } from 'node:crypto'
import { join } from 'node:path'
import { type AuditRecorder, createAuditRecorder } from '../audit/recorder.ts'
import { uuidV7 } from '../audit/uuid-v7.ts'
import type { BrokerConfig } from '../config/broker-config.ts'
import type { AuditRecord } from '../core/audit-event.ts'
import { systemActor } from '../core/caller.ts'
import type { Clock } from '../core/ports/clock.ts'
import type { SealingContext } from '../core/ports/sealer.ts'
import type { Secret } from '../core/secret.ts'
import type { BrokerLog } from '../log.ts'
import { startWriter } from './writer.ts'

/** The spool of this process, and the writer that brings it to the table. */
export function createRecording(options: {
  readonly config: BrokerConfig
  readonly databaseUrl: Secret
  readonly clock: Clock
  readonly log: BrokerLog
}): AuditRecorder {
  const { config, databaseUrl, clock, log } = options
  const directory = join(config.dataDir, 'spool')
  const writer = uuidV7(clock.now().getTime())
  return createAuditRecorder({
    directory,
    writer,
    startWriter: (ports) => startWriter({ ...ports, directory, writer, databaseUrl }),
    clock,
    durability: config.audit.durability,
    limitBytes: config.audit.spoolLimitBytes,
    whenFull: config.audit.whenFull,
    log,
  })
}

/** The operator's record of a stored value that does not open. */
export function corruptValue(context: SealingContext, now: Date): AuditRecord {
  return {
    type: 'administration',
    requestId: randomUUID(),
    startedAt: now,
    actor: systemActor,
    userId: 'userId' in context ? context.userId : undefined,
    issuer: 'userId' in context ? context.issuer : undefined,
    upstream: 'upstream' in context ? context.upstream : undefined,
    action: 'credential_corrupt',
    method: 'unknown',
    outcome: 'failure',
    reason: 'credential_corrupt',
  }
}
