import { isBrokerError } from '../core/errors.ts'
import { OperatorError } from '../core/operator-error.ts'
import type { EncryptionKeyRecords, KeyUsage } from '../core/ports/encryption-key-records.ts'
import type { KeyStatus } from '../core/ports/key-reports.ts'
import type { Sealer, SealingContext } from '../core/ports/sealer.ts'
import { Secret } from '../core/secret.ts'
import { createEnvelope, keyIdOf, sealedHead } from './envelope.ts'
import type { DataKey, Keyring } from './keyring.ts'

/** Whether the configured keys fit the database. */
export type KeyCheck = {
  /**
   * Checked before anything is served. Changes nothing unless all is well, then remembers keys that are new.
   * @throws OperatorError encryption_keys_refused with every problem: an id whose secret is another one than before, an id
   * that rows use and the configuration lacks. BrokerError storage_unavailable.
   */
  verify(): Promise<void>

  /**
   * Whether the database knows none of the configured keys by another secret. Reads one row a key, once for all who ask at the same
   * moment: anybody may ask for readiness, and counting every sealed value for each would keep the database from its work.
   * @throws BrokerError storage_unavailable
   */
  matches(): Promise<boolean>

  /**
   * What `verify` would refuse, a sentence each: wrong secrets, then missing ids. Changes nothing.
   * @throws BrokerError storage_unavailable
   */
  problems(): Promise<readonly string[]>

  /** Configured ids in the order of the configuration, then those that are used and missing. */
  status(): Promise<readonly KeyStatus[]>
}

const checkContext: SealingContext = { table: 'encryption_key', field: 'check' }
const checkText = 'onbehalf encryption key check'

export function createKeyCheck(ports: {
  readonly keyring: Keyring
  readonly records: EncryptionKeyRecords
  /** Sealed values outside of the database: answers of servers that a process which died had not stored. */
  readonly journal: () => Promise<Iterable<Uint8Array>>
}): KeyCheck {
  const { keyring, records, journal } = ports
  const ids = new Set(keyring.keys.map((key) => key.id))
  let matching: Promise<boolean> | undefined

  async function compareAll(): Promise<boolean> {
    const checks = await Promise.all(keyring.keys.map(compare))
    return checks.every(({ result }) => result !== 'wrong')
  }

  return {
    async verify() {
      const { problems, checks } = await examine()
      refuse(problems)
      // Only now, so that a start that is refused leaves the database as it was.
      const fresh = checks.filter(({ result }) => result === 'new').map(({ key }) => key)
      const lost = await Promise.all(fresh.map(remember))
      refuse(lost.flat())
    },

    async problems() {
      return (await examine()).problems
    },

    matches() {
      matching ??= compareAll().finally(() => {
        matching = undefined
      })
      return matching
    },

    async status() {
      const usage = await records.countByKey(sealedHead)
      const valuesOf = new Map(usage.map(({ keyId, values }) => [keyId, values]))
      const kept = await countKept()
      const configured = keyring.keys.map((key) => {
        const rows = valuesOf.get(key.id) ?? 0
        const seals = key === keyring.sealing
        const removable = !seals && rows === 0 && !kept.has(key.id)
        return { id: key.id, rows, configured: true, seals, removable }
      })
      const missing = [...new Set([...valuesOf.keys(), ...kept.keys()])]
        .filter((id) => !ids.has(id))
        .map((id) => ({
          id,
          rows: valuesOf.get(id) ?? 0,
          configured: false,
          seals: false,
          removable: false,
        }))
      return [...configured, ...missing]
    },
  }

  async function examine() {
    const usage = await records.countByKey(sealedHead)
    const missing = usage.filter(({ keyId }) => !ids.has(keyId)).map(missingKey)
    for (const [id, answers] of await countKept()) {
      if (!ids.has(id)) missing.push(missingForJournal(id, answers))
    }
    const checks = await Promise.all(keyring.keys.map(compare))
    const wrong = checks.filter(({ result }) => result === 'wrong').map(({ key }) => wrongKey(key))
    return { problems: [...wrong, ...missing], checks }
  }

  /** By the id of their key. */
  async function countKept(): Promise<ReadonlyMap<string, number>> {
    const counts = new Map<string, number>()
    for (const sealed of await journal()) {
      const id = keyIdOf(sealed)
      if (id !== undefined) counts.set(id, (counts.get(id) ?? 0) + 1)
    }
    return counts
  }

  async function compare(
    key: DataKey,
  ): Promise<{ key: DataKey; result: 'new' | 'good' | 'wrong' }> {
    const check = await records.findCheck(key.id)
    if (check === undefined) return { key, result: 'new' }
    return { key, result: opens(sealerOf(key), check) ? 'good' : 'wrong' }
  }

  /** Two replicas may start with a new id at once, and with different secrets: the row that won decides. */
  async function remember(key: DataKey): Promise<readonly string[]> {
    await records.insertCheck(key.id, sealerOf(key).seal(new Secret(checkText), checkContext))
    const { result } = await compare(key)
    return result === 'good' ? [] : [wrongKey(key)]
  }
}

/** Each key alone, so that a check value says something about its own key. */
function sealerOf(key: DataKey): Sealer {
  const find = (idBytes: Uint8Array) => (key.idBytes.equals(idBytes) ? key : undefined)
  return createEnvelope({ sealing: key, keys: [key], find })
}

function opens(sealer: Sealer, check: Uint8Array): boolean {
  try {
    return sealer.open(check, checkContext).reveal() === checkText
  } catch (error) {
    if (isBrokerError(error, 'credential_corrupt')) return false
    throw error
  }
}

function refuse(problems: readonly string[]): void {
  if (problems.length > 0) throw new OperatorError('encryption_keys_refused', problems.join('\n'))
}

function wrongKey(key: DataKey): string {
  return (
    `encryption.keys: key id ${JSON.stringify(key.id)} has another secret than the one that this database knows under ` +
    'that id. Put the former secret back, or give the new one an id of its own.'
  )
}

function missingKey({ keyId, rows, values }: KeyUsage): string {
  return (
    `encryption.keys: key id ${JSON.stringify(keyId)} is missing, and ${rows} ${rows === 1 ? 'row uses' : 'rows use'} ` +
    `it (${values} sealed ${values === 1 ? 'value' : 'values'}). Put it back; it can be removed when \`keys status\` ` +
    'shows it as removable.'
  )
}

function missingForJournal(keyId: string, answers: number): string {
  return (
    `encryption.keys: key id ${JSON.stringify(keyId)} is missing, and ${answers} ${answers === 1 ? 'answer' : 'answers'} of ` +
    'token endpoints in refresh.journal under data_dir wait to be stored that are sealed under it. Put it back and start once.'
  )
}
