/** Whether the database was heard from lately enough to serve from memory: at most 10 s ago. */
export interface StorageHealth {
  isFresh(): boolean
  /** Whether it is not heard from as it should be, or was not until at most so many milliseconds ago. */
  wasAway(withinMs: number): boolean
}
