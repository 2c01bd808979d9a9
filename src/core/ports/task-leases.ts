/** Work that one process at a time does. */
export interface TaskLeases {
  /** Takes or keeps a task for so long; false when another process has it. @throws BrokerError storage_unavailable */
  hold(task: string, forMs: number): Promise<boolean>

  /** Lets go of it, if it is ours. */
  release(task: string): Promise<void>
}
