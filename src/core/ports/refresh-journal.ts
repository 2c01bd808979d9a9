import type { CredentialKey } from '../credential.ts'
import type { Secret } from '../secret.ts'
import type { CredentialBinding } from '../upstream.ts'
import type { RenewalClaim } from './credential-store.ts'

/** A server's answer to a refresh, and what it takes to store what it brought. */
export type KeptRefresh = {
  readonly key: CredentialKey
  readonly claim: RenewalClaim
  /** Of the server that gave it: no other may be shown it. */
  readonly binding: CredentialBinding
  /** As `TokenRequestWatch.keep` got it. */
  readonly answer: Secret
}

/** What is kept, until it is dropped. */
export type JournalEntry = {
  /** What it brought is stored, or nobody wants it any more. Never throws. */
  drop(): void
}

/**
 * Keeps answers beside the database from before they are read until what they brought is stored: the old refresh token may be
 * spent, so that there is no other way to the new one. Of one process, and of whoever starts next on its data directory.
 */
export interface RefreshJournal {
  /**
   * In the hands of the system when it resolves, so that it survives the process, and on the disk soon after. Undefined where it
   * could not be kept (a full disk); that is logged and counted, and the renewal goes on without.
   */
  keep(refresh: KeptRefresh): Promise<JournalEntry | undefined>

  /** What an earlier process left. What does not open is dropped, and logged. */
  left(): readonly (KeptRefresh & { readonly entry: JournalEntry })[]
}
