import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { createActivityLineEncoder } from '../../src/audit/activity-line.ts'
import { createActivityVerifier } from '../../src/audit/activity-verification.ts'
import { chainedLine, chainHash, genesisHash } from '../../src/audit/chain.ts'
import { type CheckpointLine, startCheckpoints } from '../../src/audit/checkpoints.ts'
import { removeOld, type RetentionPorts } from '../../src/audit/retention.ts'
import { activityColumns } from '../../src/core/ports/activity-batches.ts'
import type { ActivityVerdict } from '../../src/core/ports/activity-proof.ts'
import { Secret } from '../../src/core/secret.ts'
import { createActivitySigner } from '../../src/sealing/activity-signer.ts'
import { createEnvelope } from '../../src/sealing/envelope.ts'
import { createKeyring, generateKey } from '../../src/sealing/keyring.ts'
import { createActivityPartitions } from '../../src/storage/activity-partitions.ts'
import { createActivityProofRecords } from '../../src/storage/activity-proof-records.ts'
import type { Database } from '../../src/storage/database.ts'
import { createSigningKeyRecords } from '../../src/storage/signing-key-records.ts'
import { createTaskLeases } from '../../src/storage/task-leases.ts'
import { auditRecord } from './activity-log.ts'

const types: Readonly<Record<string, string>> = {
  id: 'uuid',
  occurred_at: 'timestamptz',
  request_id: 'uuid',
  duration_ms: 'float8',
  details: 'jsonb',
}

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

/**
 * A process that records, as the database sees it: batches of records, and where its chain stands, each in one statement.
 */
export function createTestWriter(database: Database, writer: string = randomUUID()) {
  const encode = createActivityLineEncoder()
  let seq = 0
  let hash = genesisHash

  return {
    writer,
    seq: () => seq,

    async write(count: number, at: (index: number) => Date = () => new Date()): Promise<void> {
      const lines: string[] = []
      const first = seq + 1
      for (let index = 0; index < count; index += 1) {
        const when = at(index)
        const record = auditRecord({ userId: `person-${index % 7}`, startedAt: when })
        seq += 1
        const chained = chainedLine(encode(record, when.getTime()), writer, seq)
        hash = chainHash(hash, chained)
        lines.push(`${chained}\t${hash.toString('hex')}`)
      }
      const columns = activityColumns
        .map((column, index) => `value[${index + 1}]::${types[column] ?? 'text'}`)
        .join(', ')
      const next = activityColumns.length
      await database.run(() =>
        database.sql.unsafe(
          `with stored as (
            insert into activity (${activityColumns.join(', ')}, writer, seq, hash)
            select ${columns}, value[${next + 1}]::uuid, value[${next + 2}]::bigint, decode(value[${next + 3}], 'hex')
            from (select string_to_array(line, E'\\t', '') as value from string_to_table($1, E'\\n') as line offset 0) lines
            returning occurred_at
          ), batch as (
            insert into activity_batch (writer, first_seq, last_seq, min_occurred_at, max_occurred_at)
            select $2, $3, $4, min(occurred_at), max(occurred_at) from stored
          )
          insert into activity_writer (id, started_at, last_seq, last_hash, spool_position)
          values ($2, now(), $4, $5, $4)
          on conflict (id) do update set last_seq = excluded.last_seq, last_hash = excluded.last_hash,
            spool_position = excluded.spool_position`,
          [lines.join('\n'), writer, first, seq, hash],
        ),
      )
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
