import type { CredentialKey } from '../credential.ts'

/** What a notice is about; which person, connection or server it is stays a hash. */
export type NoticeTopic = 'credential' | 'invalidation' | 'replica'

/**
 * Hears within milliseconds what replicas tell each other. Only ever a wake-up: a notice says that a row is worth a look and
 * nothing of what is in it, and one can be lost (a pooler, a connection that broke), so who waits for one looks by itself as well.
 */
export interface Notices {
  /** Calls `listener` with the subject of every notice of a topic, those of this replica too. Gives what ends it. */
  on(topic: NoticeTopic, listener: (subject: string) => void): () => void
  /** Calls `listener` when notices are heard again after they may have been missed. Gives what ends it. */
  onGap(listener: () => void): () => void
  /** The subject of notices about one person's connection to one upstream; the same on every replica. */
  subjectOf(key: CredentialKey): string
}
