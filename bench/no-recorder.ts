import type { AuditRecorder } from '../dist/audit/recorder.js'

/** Takes every record and keeps none. */
export function createAuditRecorder(): AuditRecorder {
  return {
    admit() {},
    record() {},
    settled: () => undefined,
    flush: () => Promise.resolve(true),
    stop: () => Promise.resolve(),
    isReady: () => true,
    stats: () => ({ depth: 0, bytes: 0, ageSeconds: 0, dropped: 0 }),
  }
}
