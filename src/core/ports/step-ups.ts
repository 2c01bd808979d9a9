import type { CredentialKey } from '../credential.ts'

/** How often people have given an upstream more scopes than before, over all replicas. @throws BrokerError storage_unavailable */
export interface StepUps {
  /** A person connected again with these scopes. */
  completed(key: CredentialKey, scopes: readonly string[]): Promise<void>
  /** How often that was for exactly these scopes within the last 10 minutes. */
  recent(key: CredentialKey, scopes: readonly string[]): Promise<number>
}
