/** What the audit spool says of itself. */
export type AuditStats = {
  /** Records that are not in the database yet. */
  readonly depth: number
  /** What they take in the spool. */
  readonly bytes: number
  /** How long the oldest of them has been on its way into the database. */
  readonly ageSeconds: number
  /** Records lost since the start. */
  readonly dropped: number
}
