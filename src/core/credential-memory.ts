import { LRUCache } from 'lru-cache'
import { type PersonId, personKey } from './caller.ts'
import { type Credential, type CredentialKey, renewalDueAtMs } from './credential.ts'
import type { ResolvedCredential } from './ports/broker-services.ts'
import { headerValue, type UpstreamCredential } from './upstream.ts'

/** A credential as the warm path needs it: opened, formatted, and with the moment from which it is not to be used unasked. */
export type RememberedCredential = {
  readonly credential: Credential
  readonly resolved: ResolvedCredential
  readonly validUntilMs: number
}

/**
 * Credentials in memory, so that a warm call reads no row and opens nothing. Bounded by bytes, not by people.
 */
export interface CredentialMemory {
  get(key: string): RememberedCredential | undefined
  /**
   * Remembers what `find` finds, unless the key was forgotten while it looked: a row read before a disconnect must not be
   * remembered after it.
   */
  load(
    key: string,
    find: () => Promise<RememberedCredential | undefined>,
  ): Promise<RememberedCredential | undefined>
  /** Called after every change of the row, before anybody is told of it. */
  forget(key: string): void
  /** When changes of any row may have been missed. */
  forgetAll(): void
}

const maxBytes = 16 * 1024 * 1024
/** What an entry costs besides its token, which stands in it three times: by itself, formatted, and in the answer. */
const entryBytes = 1024

export function createCredentialMemory(): CredentialMemory {
  const remembered = new LRUCache<string, RememberedCredential>({
    maxSize: maxBytes,
    sizeCalculation: ({ resolved }, key) => entryBytes + 3 * resolved.value.length + key.length,
  })
  const loading = new Map<string, Set<{ forgotten: boolean }>>()

  function startLoading(key: string): { forgotten: boolean } {
    const load = { forgotten: false }
    const loads = loading.get(key) ?? new Set()
    loads.add(load)
    loading.set(key, loads)
    return load
  }

  function endLoading(key: string, load: { forgotten: boolean }): void {
    const loads = loading.get(key)
    loads?.delete(load)
    if (loads?.size === 0) loading.delete(key)
  }

  return {
    get: (key) => remembered.get(key),
    async load(key, find) {
      const load = startLoading(key)
      try {
        const found = await find()
        if (found !== undefined && !load.forgotten) remembered.set(key, found)
        return found
      } finally {
        endLoading(key, load)
      }
    },
    forget(key) {
      remembered.delete(key)
      for (const load of loading.get(key) ?? []) load.forgotten = true
    },
    forgetAll() {
      remembered.clear()
      for (const loads of loading.values()) for (const load of loads) load.forgotten = true
    },
  }
}

/** One string per (person, upstream); an upstream's name holds no newline. */
export function memoryKey(person: PersonId, upstream: string): string {
  return `${upstream}\n${personKey(person)}`
}

export function memoryKeyOf(key: CredentialKey): string {
  return memoryKey(key, key.upstream)
}

export function remember(
  credential: Credential,
  settings: UpstreamCredential,
): RememberedCredential {
  return {
    credential,
    resolved: {
      header: settings.header,
      value: headerValue(settings, credential.accessToken.reveal()),
      expiresAt: credential.expiresAt,
      fingerprint: credential.fingerprint,
    },
    validUntilMs: validUntilMs(credential, settings),
  }
}

function validUntilMs(credential: Credential, settings: UpstreamCredential): number {
  // What nothing can renew is served until its end; there is no use in looking for a successor before.
  if (settings.mode === 'oauth_connect' && !credential.renewable) {
    return credential.expiresAt?.getTime() ?? Number.POSITIVE_INFINITY
  }
  return renewalDueAtMs(credential, settings)
}
