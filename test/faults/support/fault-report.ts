import type { Reporter, SerializedError, TestCase, TestModule } from 'vitest/node'

/** A line as each scenario ends, and at the end the table that docs/reliability.md shows. */
export class FaultReport implements Reporter {
  #done = 0

  onTestCaseResult(test: TestCase): void {
    const { state } = test.result()
    if (state === 'skipped') return
    this.#done += 1
    const { fault } = test.meta()
    const seconds = ((test.diagnostic()?.duration ?? 0) / 1000).toFixed(1)
    const came =
      fault === undefined ? '' : `: ${fault.requests} requests, ${fault.lost} lost, ${fault.saw}`
    console.log(`${String(this.#done).padStart(3)} ${state} (${seconds} s) ${test.name}${came}`)
  }

  onTestRunEnd(modules: readonly TestModule[], unhandled: readonly SerializedError[]): void {
    const tests = modules.flatMap((module) => [...module.children.allTests()])
    const rows = tests.flatMap((test) => {
      const { fault } = test.meta()
      const name = test.fullName.replaceAll('|', '/')
      if (fault !== undefined) {
        const { requests, people, lost, saw } = fault
        return [`| ${name} | ${requests} | ${lost} of ${people} | ${saw} |`]
      }
      return test.result().state === 'failed' ? [`| ${name} | failed | | |`] : []
    })
    console.log('\n| scenario | upstream requests | people lost | what callers saw |')
    console.log('|---|---|---|---|')
    for (const row of rows) console.log(row)
    const failed = tests.filter((test) => test.result().state === 'failed')
    for (const test of failed) {
      console.log(`\nFAILED ${test.fullName}`)
      for (const error of test.result().errors ?? []) console.log(error.stack ?? error.message)
    }
    const outside = [...unhandled, ...modules.flatMap((module) => module.errors())]
    for (const error of outside) console.log(`\nOUTSIDE ${error.stack ?? error.message}`)
    console.log(`\n${rows.length - failed.length} scenarios as promised, ${failed.length} not`)
  }
}
