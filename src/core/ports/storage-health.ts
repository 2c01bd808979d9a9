/** Whether the database was heard from lately enough to serve from memory: at most 10 s ago. */
export interface StorageHealth {
  isFresh(): boolean
}
