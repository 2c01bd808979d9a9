/** Calls back once, later. Whatever waits here keeps no process alive. */
export interface Timer {
  /** Gives what takes it back. */
  after(ms: number, run: () => void): () => void
}
