import type { CredentialKey } from '../core/credential.ts'
import { namesOfCause } from '../core/error-names.ts'
import { isBrokerError } from '../core/errors.ts'
import type { RenewalClaim } from '../core/ports/credential-store.ts'
import type { JournalEvent, JournalRecord, JournalRecords } from '../core/ports/journal-records.ts'
import type { KeptRefresh, RefreshJournal } from '../core/ports/refresh-journal.ts'
import type { Sealer, SealingContext } from '../core/ports/sealer.ts'
import { Secret } from '../core/secret.ts'
import type { CredentialBinding } from '../core/upstream.ts'

/** The RefreshJournal over records of sealed bytes. */
export function createRefreshJournal(ports: {
  readonly records: JournalRecords
  readonly sealer: Sealer
  readonly log: { readonly warn: (line: JournalEvent) => void }
  readonly onFailure: () => void
}): RefreshJournal {
  const { records, sealer, log, onFailure } = ports

  return {
    async keep(refresh) {
      try {
        const { id } = await records.append(seal(sealer, refresh))
        return { drop: () => records.remove(id) }
      } catch (error) {
        log.warn({ event: 'refresh_journal_failed', code: namesOfCause(error).errorCode ?? null })
        onFailure()
        return undefined
      }
    },
    left() {
      const entries: ReturnType<RefreshJournal['left']>[number][] = []
      let unreadable = 0
      for (const [id, record] of records.left) {
        const entry = { drop: () => records.remove(id) }
        const refresh = open(sealer, record)
        if (refresh === undefined) {
          unreadable += 1
          entry.drop()
        } else {
          entries.push({ ...refresh, entry })
        }
      }
      if (unreadable > 0) log.warn({ event: 'refresh_journal_unreadable', records: unreadable })
      return entries
    },
  }
}

function seal(sealer: Sealer, { key, claim, binding, answer }: KeptRefresh): JournalRecord {
  const { generation } = claim
  const secret = {
    ...claim,
    refreshToken: claim.refreshToken.reveal(),
    binding,
    answer: answer.reveal(),
  }
  const sealed = sealer.seal(new Secret(JSON.stringify(secret)), contextOf(key, generation))
  return { key, generation, sealed }
}

/** Undefined for anything but what `seal` made under a key that is still configured. */
function open(sealer: Sealer, { key, generation, sealed }: JournalRecord): KeptRefresh | undefined {
  try {
    const text = sealer.open(sealed, contextOf(key, generation)).reveal()
    // It opened, so that it is what this program wrote.
    const { answer, binding, ...claim } = JSON.parse(text) as Omit<RenewalClaim, 'refreshToken'> & {
      readonly refreshToken: string
      readonly binding: CredentialBinding
      readonly answer: string
    }
    const refreshToken = new Secret(claim.refreshToken)
    return { key, claim: { ...claim, refreshToken }, binding, answer: new Secret(answer) }
  } catch (error) {
    if (isBrokerError(error, 'credential_corrupt')) return undefined
    throw error
  }
}

function contextOf(key: CredentialKey, generation: number): SealingContext {
  const { issuer, userId, upstream } = key
  return { table: 'refresh_journal', field: 'answer', issuer, userId, upstream, generation }
}
