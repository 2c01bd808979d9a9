/** What the storage has to say while it runs. Closed fields only: no value of a row, no text of the server. */
export type StorageLog = {
  readonly info: (entry: StorageEvent) => void
  readonly warn: (entry: StorageEvent) => void
}

export type StorageEvent =
  | { readonly event: 'database_started'; readonly duration_ms: number }
  | { readonly event: 'database_died' }
  | { readonly event: 'database_restarted'; readonly duration_ms: number }
  | { readonly event: 'database_restart_failed'; readonly retry_ms: number }
  /** The embedded database's user may pass directories that are closed to it; move them to make that unnecessary. */
  | { readonly event: 'database_has_capability'; readonly capability: string }
  | { readonly event: 'database_migrated'; readonly migrations: number }
  | { readonly event: 'maintenance_failed'; readonly code: string | null }
