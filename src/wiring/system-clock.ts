import type { Clock } from '../core/ports/clock.ts'

/** This machine's. What replicas must agree on goes by the database's instead (`storage/database-clock.ts`). */
export const systemClock: Clock = { now: () => new Date() }
