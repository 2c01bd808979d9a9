import { defineConfig } from 'vitest/config'
import { FaultReport } from './test/faults/support/fault-report.ts'

/** `npm run test:faults`: real processes, real signals, minutes. */
export default defineConfig({
  test: {
    include: ['test/faults/**/*.faults.ts'],
    globalSetup: ['test/support/global-setup.ts', 'test/faults/support/build.ts'],
    reporters: [new FaultReport()],
    disableConsoleIntercept: true,
    hookTimeout: 60_000,
    // Most of a scenario is waiting for leases to end; the machine is shared with what it starts.
    maxConcurrency: Number(process.env['FAULTS_CONCURRENCY'] ?? 6),
    maxWorkers: 2,
  },
})
