import type { DiscoverySubject, RegistrationKey } from './discovery-store.ts'

/** The rows behind the DiscoveryStore: sealed bytes. Every change is one statement, and instants are the database's. */
export interface DiscoveryRecords {
  version(): Promise<string>
  find(subject: DiscoverySubject): Promise<Uint8Array | undefined>
  put(subject: DiscoverySubject, sealedFound: Uint8Array): Promise<void>
  findClient(key: RegistrationKey): Promise<Uint8Array | undefined>
  claimRegistration(key: RegistrationKey): Promise<boolean>
  putClient(
    key: RegistrationKey,
    client: { clientId: string; sealed: Uint8Array; expiresAt: Date | undefined },
  ): Promise<void>
  releaseRegistration(key: RegistrationKey): Promise<void>
  dropClient(key: RegistrationKey, clientId: string): Promise<boolean>
}
