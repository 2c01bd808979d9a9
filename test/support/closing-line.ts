import type { Reporter, TestModule, TestRunEndReason } from 'vitest/node'

type Counts = { passed: number; failed: number; skipped: number }

/**
 * Ends the output of a run with one line, alone: `N passed, N failed` (`, N skipped` when any). Whatever went wrong
 * outside of a test counts as a failure too, so that a broken run never says `0 failed`. Before it, a line for each
 * test that failed first and passed when tried again (`--retry`): either it or the product has a race to be found.
 */
export default class ClosingLine implements Reporter {
  // Until the run has ended it has failed: what breaks before may end the process.
  #counts: Counts = { passed: 0, failed: 1, skipped: 0 }
  #triedAgain: readonly string[] = []

  onInit(): void {
    process.once('exit', (code) => {
      const { passed, skipped } = this.#counts
      for (const name of this.#triedAgain) {
        process.stdout.write(`passed only when tried again: ${name}\n`)
      }
      const failed = code !== 0 ? Math.max(this.#counts.failed, 1) : this.#counts.failed
      process.stdout.write(
        `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}\n`,
      )
    })
  }

  onTestRunEnd(
    modules: readonly TestModule[],
    unhandledErrors: readonly unknown[],
    reason: TestRunEndReason,
  ): void {
    const counts = { passed: 0, failed: unhandledErrors.length, skipped: 0 }
    for (const module of modules) add(counts, module)
    if (reason !== 'passed' && counts.failed === 0) counts.failed = 1
    this.#counts = counts
    this.#triedAgain = modules
      .flatMap((module) => [...module.children.allTests('passed')])
      .filter((test) => test.diagnostic()?.flaky === true)
      .map(({ module, fullName }) => `${module.relativeModuleId} > ${fullName}`)
  }
}

function add(counts: Counts, module: TestModule): void {
  counts.failed += module.errors().length
  // A hook that failed leaves its tests skipped.
  for (const suite of module.children.allSuites()) counts.failed += suite.errors().length
  for (const test of module.children.allTests()) {
    const { state } = test.result()
    if (state === 'passed') counts.passed += 1
    else if (state === 'skipped') counts.skipped += 1
    // `pending` at the end is one that never finished.
    else counts.failed += 1
  }
}
