/** Tells the reader what happens, and keeps what did not hold. */
export type Narrator = {
  step(title: string): void
  say(line: string): void
  /** Says whether something is so. Both are kept. */
  check(claim: string, holds: boolean): void
  readonly held: () => number
  /** Claims that did not hold, with the step that they belong to. */
  readonly failed: () => readonly string[]
}

export function createNarrator(out: (line: string) => void): Narrator {
  let steps = 0
  let held = 0
  const failed: string[] = []
  return {
    step(title) {
      steps += 1
      out('')
      out(`${steps}. ${title}`)
    },
    say: (line) => out(`   ${line}`),
    check(claim, holds) {
      if (holds) held += 1
      else failed.push(`step ${steps}: ${claim}`)
      out(`   ${holds ? '✓' : '✗'} ${claim}`)
    },
    held: () => held,
    failed: () => failed,
  }
}
