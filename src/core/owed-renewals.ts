import type { Credential, CredentialKey, TokenSet } from './credential.ts'
import { type CredentialMemory, memoryKeyOf, remember } from './credential-memory.ts'
import { BrokerError, isBrokerError } from './errors.ts'
import { AcquisitionFailure } from './failure-verdict.ts'
import type { AcquisitionMethods } from './ports/acquisition-method.ts'
import type { Clock } from './ports/clock.ts'
import type { CredentialStore, RenewalClaim } from './ports/credential-store.ts'
import type { JournalEntry, RefreshJournal } from './ports/refresh-journal.ts'
import type { StorageHealth } from './ports/storage-health.ts'
import { nothingStored } from './refusals.ts'
import { revokeTokens } from './revoke-tokens.ts'
import type { Secret } from './secret.ts'
import { bindingOf, type CredentialBinding, isSameBinding, type Upstream } from './upstream.ts'
import { waitAtMost } from './wait-at-most.ts'

/**
 * Stores what renewals brought. What the database cannot take is owed to it: offered again and again, and served by this replica
 * meanwhile for as long as it may serve from memory. The journal has it for whoever starts next.
 */
export interface OwedRenewals {
  /**
   * Gives what the row has then, or what it is about to have.
   * @throws BrokerError connect_required where the connection is gone, storage_unavailable
   */
  save(renewal: {
    readonly key: CredentialKey
    readonly upstream: Upstream
    readonly current: Credential
    readonly claim: RenewalClaim
    readonly tokens: TokenSet
    readonly entry: JournalEntry | undefined
  }): Promise<Credential>

  /** The successor of a credential, where it is owed. @throws BrokerError storage_unavailable */
  successorOf(current: Credential): Credential | undefined

  /** Resolves when the database has this credential. @throws BrokerError connect_required, storage_unavailable */
  paid(current: Credential): Promise<void>

  /** Stores what an earlier process on this data directory still owed to the database. Once, before anything is renewed. */
  recover(): Promise<void>

  /** Resolves when nothing is owed to the database, or after so long: then the journal has it. */
  stop(graceMs: number): Promise<void>
}

/** What a server gave and the database does not have yet. */
type Owed = {
  readonly key: CredentialKey
  readonly upstream: Upstream
  readonly claim: RenewalClaim
  /** Of the server that gave it. */
  readonly binding: CredentialBinding
  readonly tokens: TokenSet
  /** What it serves meanwhile; absent where an earlier process was to serve it. */
  readonly credential: Credential | undefined
  readonly entry: JournalEntry | undefined
}

/** How long callers wait for the commit before they are served what is about to be stored. */
const commitWaitMs = 1000

/** How often what is owed to the database is offered to it again. */
const settleEveryMs = 1000

export function createOwedRenewals(ports: {
  readonly upstreams: ReadonlyMap<string, Upstream>
  readonly credentials: CredentialStore
  readonly memory: CredentialMemory
  readonly methods: AcquisitionMethods
  readonly journal: Pick<RefreshJournal, 'left'>
  /** Told of every renewal of an earlier process that was stored after all. */
  readonly onRecovered: (key: CredentialKey, upstream: Upstream) => void
  readonly storage: StorageHealth
  readonly clock: Clock
}): OwedRenewals {
  const { upstreams, credentials, memory, methods, journal, onRecovered, storage, clock } = ports
  const owed = new Map<number, Owed>()
  let settling: Promise<void> | undefined
  let stopped = false

  const save: OwedRenewals['save'] = async ({ current, ...renewal }) => {
    const { key, upstream, claim, tokens } = renewal
    const scopes = tokens.scopes ?? claim.scopes
    const renewed = { tokens, scopes, obtainedAt: clock.now() }
    const credential = credentials.foreseeRenewal(current, claim, renewed)
    const binding = bindingOf(upstream.credential)
    const unsaved: Owed = { ...renewal, binding, credential }
    // From here on, so that not even a bug between here and the commit loses it.
    owed.set(claim.generation, unsaved)
    const stored = await waitAtMost(settle(unsaved), commitWaitMs).catch((error: unknown) => {
      if (isBrokerError(error, 'storage_unavailable')) return 'late' as const
      throw error
    })
    if (stored !== 'late') return stored
    settleInTime()
    memory.keep(memoryKeyOf(key), remember(credential, upstream.credential))
    return whileOwed(credential)
  }

  /** What is owed serves for as long as a replica may serve from memory, and no longer. */
  function whileOwed(credential: Credential): Credential {
    if (!storage.isFresh()) throw new BrokerError('storage_unavailable')
    return credential
  }

  /** Pays what is owed: gives what the row has then. @throws BrokerError storage_unavailable, and it stays owed */
  async function settle(unsaved: Owed): Promise<Credential> {
    const { key, upstream, claim, binding, tokens } = unsaved
    const scopes = tokens.scopes ?? claim.scopes
    const renewed = await credentials.commitRenewal(key, claim, { tokens, scopes })
    memory.forget(memoryKeyOf(key))
    if (renewed !== undefined) {
      drop(unsaved)
      return renewed
    }
    // The row moved on while the server answered, or an earlier try went through unseen.
    const found = await credentials.lookAtRenewal(key)
    drop(unsaved)
    // Disconnected meanwhile: what arrived must not live on at the server. A row that counts its leases anew is of another
    // connection. In the same row it may be the grant that is in use, renewed by another or extended by its person.
    const isUnwanted = found === undefined || found.renewal.leaseEpoch < claim.leaseEpoch
    // Nor may a server that was configured meanwhile be shown what another one gave.
    if (isUnwanted && isSameBinding(binding, bindingOf(upstream.credential))) {
      void revokeTokens(methods[upstream.credential.mode], upstream, tokens)
    }
    if (found?.credential !== undefined) return found.credential
    memory.forget(memoryKeyOf(key))
    throw nothingStored(found)
  }

  function drop({ claim, entry }: Owed): void {
    if (owed.delete(claim.generation)) entry?.drop()
  }

  /** Offers what is owed to the database until it has taken everything. */
  function settleInTime(): void {
    settling ??= settleAll().finally(() => {
      settling = undefined
    })
  }

  async function settleAll(): Promise<void> {
    for (;;) {
      await new Promise((resolve) => setTimeout(resolve, settleEveryMs))
      if (stopped || owed.size === 0) return
      for (const unsaved of owed.values()) {
        // Where the database is away for one it is away for all.
        if ((await trySettle(unsaved)) === 'storage_unavailable') break
      }
    }
  }

  async function trySettle(unsaved: Owed): Promise<'settled' | 'storage_unavailable'> {
    try {
      await settle(unsaved)
      if (unsaved.credential === undefined) onRecovered(unsaved.key, unsaved.upstream)
    } catch (error) {
      if (isBrokerError(error, 'storage_unavailable')) return 'storage_unavailable'
      // Nobody is connected any more, or what is there does not open: either way there is no place for it.
      drop(unsaved)
    }
    return 'settled'
  }

  async function recover(): Promise<void> {
    for (const { key, claim, binding, answer, entry } of journal.left()) {
      const upstream = upstreams.get(key.upstream)
      const tokens = upstream && readKept(upstream, answer)
      if (upstream === undefined || tokens === undefined) {
        // It brought nothing, or what it was for is no longer configured.
        entry.drop()
        continue
      }
      const unsaved = { key, upstream, claim, binding, tokens, credential: undefined, entry }
      owed.set(claim.generation, unsaved)
    }
    for (const unsaved of owed.values()) await trySettle(unsaved)
    if (owed.size > 0) settleInTime()
  }

  function readKept(upstream: Upstream, answer: Secret): TokenSet | undefined {
    try {
      return methods[upstream.credential.mode].readRefresh(upstream, answer)
    } catch (error) {
      if (error instanceof AcquisitionFailure) return undefined
      throw error
    }
  }

  return {
    save,
    successorOf({ generation }) {
      const successor = owed.get(generation)?.credential
      return successor && whileOwed(successor)
    },
    async paid(current) {
      const unsaved = [...owed.values()].find((one) => isOf(one, current))
      if (unsaved !== undefined) await settle(unsaved)
    },
    recover,
    async stop(graceMs) {
      if (settling !== undefined) await waitAtMost(settling, graceMs)
      stopped = true
    },
  }
}

/** Whether this is what somebody owes. */
function isOf({ claim }: Owed, { generation }: Credential): boolean {
  return claim.nextGeneration === generation
}
