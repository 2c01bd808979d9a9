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
   * Finds and remembers, or gives why there is none. One look for all who ask while it is under way: thousands ask at the moment
   * at which a credential ends. What was forgotten meanwhile is neither remembered nor given to whoever asks later: a row read
   * before a disconnect must not be seen after it.
   */
  load<Absent extends { readonly unusable: string }>(
    key: string,
    find: () => Promise<RememberedCredential | Absent>,
  ): Promise<RememberedCredential | Absent>
  /** Remembers what the row does not say yet. */
  keep(key: string, credential: RememberedCredential): void
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
  const loading = new Map<string, Promise<RememberedCredential | { readonly unusable: string }>>()

  return {
    get: (key) => remembered.get(key),
    load<Absent extends { readonly unusable: string }>(
      key: string,
      find: () => Promise<RememberedCredential | Absent>,
    ) {
      type Found = RememberedCredential | Absent
      const underWay = loading.get(key)
      if (underWay !== undefined) return underWay as Promise<Found>
      const load: Promise<Found> = find()
        .then((found) => {
          if ('validUntilMs' in found && loading.get(key) === load) remembered.set(key, found)
          return found
        })
        .finally(() => {
          if (loading.get(key) === load) loading.delete(key)
        })
      loading.set(key, load)
      return load
    },
    keep(key, credential) {
      loading.delete(key)
      remembered.set(key, credential)
    },
    forget(key) {
      loading.delete(key)
      remembered.delete(key)
    },
    forgetAll() {
      loading.clear()
      remembered.clear()
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
