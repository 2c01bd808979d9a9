import { LRUCache } from 'lru-cache'
import type { ConnectionReason, Credential, CredentialKey } from './credential.ts'
import {
  type CredentialMemory,
  memoryKeyOf,
  type RememberedCredential,
  remember,
} from './credential-memory.ts'
import { isBrokerError } from './errors.ts'
import type { CredentialStore } from './ports/credential-store.ts'
import type { StorageHealth } from './ports/storage-health.ts'
import { bindingOf, isExchanged, isSameBinding, type Upstream } from './upstream.ts'

/** Why there is no stored credential that may be used. */
export type Unusable = ConnectionReason | 'corrupt'

/** What is stored for a person and an upstream, as far as this configuration may use it. */
export interface StoredCredentials {
  /** The credential, or why there is none that may be used. From memory where that may serve. */
  find(
    key: CredentialKey,
    upstream: Upstream,
  ): Promise<RememberedCredential | { readonly unusable: Unusable }>

  /** What the row has at this moment, where it is of this configuration. */
  findNow(key: CredentialKey, upstream: Upstream): Promise<Credential | undefined>

  /** An exchange has stored another: what did not open is there no more. */
  replaced(key: CredentialKey): void
}

export function createStoredCredentials(ports: {
  readonly credentials: CredentialStore
  readonly memory: CredentialMemory
  readonly storage: StorageHealth
}): StoredCredentials {
  const { credentials, memory, storage } = ports
  /** Exchanged credentials that were found not to open, and that the next exchange replaces. */
  const knownCorrupt = new LRUCache<string, true>({ max: 10_000 })

  async function read(
    key: CredentialKey,
    upstream: Upstream,
  ): Promise<RememberedCredential | { readonly unusable: Unusable }> {
    const found = await findRow(key, upstream)
    if (found === undefined) return { unusable: 'not_connected' }
    if (found === 'corrupt') return { unusable: found }
    const { connection, credential } = found
    if (!isSameBinding(connection.binding, bindingOf(upstream.credential))) {
      return { unusable: 'configuration_changed' }
    }
    if (credential === undefined) return { unusable: connection.reason ?? 'refresh_failed' }
    return remember(credential, upstream.credential)
  }

  /**
   * The row, or `corrupt` where the next exchange may replace it: nobody can connect such an upstream again. The call that finds
   * it so says so, and leaves the operator's record; those after it go on.
   */
  async function findRow(key: CredentialKey, upstream: Upstream) {
    try {
      return await credentials.find(key)
    } catch (error) {
      if (!isExchanged(upstream) || !isBrokerError(error, 'credential_corrupt')) throw error
      if (knownCorrupt.has(memoryKeyOf(key))) return 'corrupt'
      knownCorrupt.set(memoryKeyOf(key), true)
      throw error
    }
  }

  return {
    async find(key, upstream) {
      // What was not heard from for long has changes that are not known here.
      if (!storage.isFresh()) return read(key, upstream)
      const remembered = memory.get(memoryKeyOf(key))
      return remembered ?? memory.load(memoryKeyOf(key), () => read(key, upstream))
    },
    async findNow(key, upstream) {
      const found = await findRow(key, upstream)
      const credential = found === 'corrupt' ? undefined : found?.credential
      if (credential === undefined) return undefined
      const isOurs = isSameBinding(credential.binding, bindingOf(upstream.credential))
      return isOurs ? credential : undefined
    },
    replaced: (key) => {
      knownCorrupt.delete(memoryKeyOf(key))
    },
  }
}
