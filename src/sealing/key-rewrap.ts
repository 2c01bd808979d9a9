import { isBrokerError } from '../core/errors.ts'
import type { EncryptionKeyRecords } from '../core/ports/encryption-key-records.ts'
import type { RewrapReport } from '../core/ports/key-reports.ts'
import type { ResealedRow, SealedRow, SealedRowKey, SealedRows } from '../core/ports/sealed-rows.ts'
import type { Sealer } from '../core/ports/sealer.ts'
import { headOf, sealedHead } from './envelope.ts'
import type { Keyring } from './keyring.ts'

/** Moves every sealed value to the first key. */
export interface KeyRewrap {
  /**
   * Goes through every table, over and over, until it finds nothing more to move. Killed at any moment it has moved some rows
   * and broken none: what is done is seen by the values themselves, so the next run goes on from there. Rows that change
   * meanwhile keep what they were changed to.
   * @throws BrokerError storage_unavailable
   */
  run(options: {
    readonly signal: AbortSignal
    /** Told after every batch: rows moved so far, and how many were to be moved when it began. */
    readonly onProgress: (rows: number, rowsToMove: number) => void
  }): Promise<RewrapReport>
}

/** A broker that still seals under another key is a mistake in a roll-out; so many rounds see the end of one that is going on. */
const maxRounds = 20

export function createKeyRewrap(ports: {
  readonly keyring: Keyring
  readonly sealer: Sealer
  readonly rows: SealedRows
  readonly records: EncryptionKeyRecords
  /** Resolves after so many milliseconds. */
  readonly pause: (ms: number) => Promise<void>
  /** Milliseconds of a clock that only goes forward. */
  readonly elapsedMs: () => number
}): KeyRewrap {
  const { keyring, sealer, rows, records, pause, elapsedMs } = ports
  const head = headOf(keyring.sealing)
  const keyId = keyring.sealing.id

  const run: KeyRewrap['run'] = async ({ signal, onProgress }) => {
    const toMove = await countToMove()
    let moved = 0
    let unopened = 0
    const report = (end: RewrapReport['end']) => ({ keyId, rows: moved, unopened, end })

    for (let round = 0; round < maxRounds; round += 1) {
      unopened = 0
      let found = 0
      for (const table of rows.tables) {
        for (let after: SealedRowKey | undefined | 'start' = 'start'; after !== undefined; ) {
          if (signal.aborted) return report('stopped')
          const startedAt = elapsedMs()
          const window = await rows.window(table, {
            head,
            after: after === 'start' ? undefined : after,
          })
          const resealed = window.rows.map(reseal)
          const movable = resealed.flatMap(({ row }) => row ?? [])
          unopened += resealed.reduce((sum, row) => sum + row.unopened, 0)
          found += movable.length
          if (movable.length > 0) {
            moved += await rows.replace(table, movable)
            onProgress(moved, toMove)
            // As long a rest as the work took: at most half of one connection's time, however slow the database is.
            await pause(elapsedMs() - startedAt)
          }
          after = window.next
        }
      }
      if (found === 0) {
        await forgetOldChecks()
        return report('done')
      }
    }
    return report('outrun')
  }

  async function countToMove(): Promise<number> {
    const usage = await records.countByKey(sealedHead)
    return usage.reduce((sum, used) => (used.keyId === keyId ? sum : sum + used.rows), 0)
  }

  /** The values of a row under the first key; one that does not open stays what it is, and is nobody else's. */
  function reseal({ key, values }: SealedRow): {
    readonly row: ResealedRow | undefined
    readonly unopened: number
  } {
    const resealed = values.flatMap((value) => {
      try {
        const text = sealer.open(value.sealed, value.context)
        return [{ ...value, resealed: sealer.seal(text, value.context) }]
      } catch (error) {
        if (isBrokerError(error, 'credential_corrupt')) return []
        throw error
      }
    })
    return {
      row: resealed.length > 0 ? { key, values: resealed } : undefined,
      unopened: values.length - resealed.length,
    }
  }

  /** Of keys that are neither configured nor used any more: the id is free again, with any secret. */
  async function forgetOldChecks(): Promise<void> {
    const used = (await records.countByKey(sealedHead)).map((usage) => usage.keyId)
    await records.keepChecks([...used, ...keyring.keys.map(({ id }) => id)])
  }

  return { run }
}
