import { defineConfig } from 'vitest/config'

/** `npm run test:chaos`: real processes, real signals, many minutes. */
export default defineConfig({
  test: {
    include: ['test/chaos/**/*.chaos.ts'],
    globalSetup: ['test/support/global-setup.ts', 'test/faults/support/build.ts'],
    reporters: ['verbose'],
    disableConsoleIntercept: true,
    fileParallelism: false,
    testTimeout: 6 * 60 * 60_000,
    hookTimeout: 120_000,
  },
})
