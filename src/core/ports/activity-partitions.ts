/** The weeks of the activity log that are over. All throw BrokerError storage_unavailable. */
export interface ActivityPartitions {
  /**
   * Takes the weeks that ended before the retention began out of the log, so that nothing is added to them any more, and what
   * older records lie outside of every week. Gives false where somebody would have had to wait too long for it.
   */
  takeOut(retentionDays: number): Promise<boolean>

  /** Names of what was taken out and is still there. */
  takenOut(): Promise<readonly string[]>

  /** Removes one of those for good. */
  drop(name: string): Promise<void>
}
