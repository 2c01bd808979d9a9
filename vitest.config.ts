import { defineConfig } from 'vitest/config'
import { SlowFirst } from './test/support/slow-first.ts'

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: ['test/support/global-setup.ts'],
    reporters: ['default', './test/support/closing-line.ts'],
    // For a machine that does other work as well: nothing is slower for it, but what fails.
    testTimeout: 60_000,
    hookTimeout: 120_000,
    expect: { poll: { timeout: 30_000 } },
    // Loading our modules anew for each file took a third of the run. Nothing is mocked, and no module of ours keeps state.
    isolate: false,
    sequence: { sequencer: SlowFirst },
    // More than cores: much of a test is waiting for servers. With 3 on two cores it is 300 s, with 4 256.
    maxWorkers: 4,
  },
})
