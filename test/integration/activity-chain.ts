import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { createActivityLineEncoder } from '../../src/audit/activity-line.ts'
import { createActivityVerifier } from '../../src/audit/activity-verification.ts'
import { chainedBatch } from '../../src/audit/chained-batch.ts'
import { type CheckpointLine, startCheckpoints } from '../../src/audit/checkpoints.ts'
import { removeOld, type RetentionPorts } from '../../src/audit/retention.ts'
import type { WriterHead } from '../../src/core/ports/activity-batches.ts'
import type { ActivityVerdict } from '../../src/core/ports/activity-proof.ts'
import { Secret } from '../../src/core/secret.ts'
import { createActivitySigner } from '../../src/sealing/activity-signer.ts'
import { createEnvelope } from '../../src/sealing/envelope.ts'
import { createKeyring, generateKey } from '../../src/sealing/keyring.ts'
import { createActivityBatches } from '../../src/storage/activity-batches.ts'
import { createActivityPartitions } from '../../src/storage/activity-partitions.ts'
import { createActivityProofRecords } from '../../src/storage/activity-proof-records.ts'
import type { Database } from '../../src/storage/database.ts'
import { createSigningKeyRecords } from '../../src/storage/signing-key-records.ts'
import { createTaskLeases } from '../../src/storage/task-leases.ts'
import { auditRecord } from './activity-log.ts'

/** Everything about the proof of one database, over the real tables. */
export function proofOf(database: Database, encryptionKey = generateKey()) {
  const keyring = createKeyring([{ id: 'k1', secret: new Secret(encryptionKey) }])
  const signer = createActivitySigner({
    records: createSigningKeyRecords(database),
    sealer: createEnvelope(keyring),
  })
  const records = createActivityProofRecords(database)
  const silent = { info() {}, warn() {} }

  return {
    records,
    signer,

    async verify(
      more: Partial<Parameters<typeof createActivityVerifier>[0]> = {},
    ): Promise<ActivityVerdict> {
      const verifier = createActivityVerifier({ records, signer, ...more })
      return verifier.verify({ signal: new AbortController().signal })
    },

    /** Makes one checkpoint, of all writers; gives what was logged. */
    async checkpoint(): Promise<CheckpointLine[]> {
      const lines: CheckpointLine[] = []
      const log = { info: (line: CheckpointLine) => void lines.push(line), warn() {} }
      const checkpoints = startCheckpoints({ records, signer, log, intervalMs: 600_000 })
      await checkpoints.stop()
      return lines
    },

    retentionPorts(retentionDays: number, more: Partial<RetentionPorts> = {}): RetentionPorts {
      return {
        partitions: createActivityPartitions(database),
        records,
        signer,
        leases: createTaskLeases(database),
        retentionDays,
        log: silent,
        ...more,
      }
    },

    async removeOld(retentionDays: number, more: Partial<RetentionPorts> = {}): Promise<boolean> {
      return removeOld(this.retentionPorts(retentionDays, more), new AbortController().signal)
    },
  }
}

/** A process that records, as the database sees it: batches of records, each in one statement. */
export function createTestWriter(database: Database, writer: string = randomUUID()) {
  const encode = createActivityLineEncoder()
  const store = createActivityBatches(database)
  let head: WriterHead | undefined

  return {
    writer,

    async write(count: number, at: (index: number) => Date = () => new Date()): Promise<void> {
      const before = head ?? (await store.open(writer, new Date()))
      const records = Array.from({ length: count }, (_, index) => {
        const when = at(index)
        const record = auditRecord({ userId: `person-${index % 7}`, startedAt: when })
        return { position: before.position + index + 1, line: encode(record, when.getTime()) }
      })
      const batch = chainedBatch({ writer, before, records, uses: [] })
      const result = await store.append(batch)
      if (result !== 'stored') throw new Error(`a batch of the test was ${result}`)
      head = batch.after
    },
  }
}

/** So many writers at once, each with a few batches of records. */
export async function writeWith(
  database: Database,
  writers: number,
  batches: number,
  rows = 5,
): Promise<ReturnType<typeof createTestWriter>[]> {
  const all = Array.from({ length: writers }, () => createTestWriter(database))
  await Promise.all(
    all.map(async (writer) => {
      for (let batch = 0; batch < batches; batch += 1) {
        await writer.write(1 + ((batch * 7) % rows))
        await sleep(Math.random() * 5)
      }
    }),
  )
  return all
}
