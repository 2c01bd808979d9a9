import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'

export type Child = {
  readonly process: ChildProcess
  /** Everything it has written to stdout so far. */
  readonly lines: readonly string[]
  /** The first line, from now or before, that the pattern fits. Fails with what was written when it ends without. */
  readonly line: (pattern: RegExp) => Promise<string>
  readonly kill: (signal?: NodeJS.Signals) => Promise<void>
  /** Its exit code, or the signal that ended it. */
  readonly ended: Promise<number | NodeJS.Signals | null>
}

/** Runs a module text in a Node process of its own. */
export function runModule(text: string, options: SpawnOptions = {}): Child {
  const child = spawn(process.execPath, ['--input-type=module', '-e', text], {
    stdio: ['pipe', 'pipe', 'pipe'],
    ...options,
  })
  const lines: string[] = []
  let errors = ''
  const ended = once(child, 'close').then(
    ([code, signal]) => (code ?? signal) as number | NodeJS.Signals | null,
  )
  child.stderr?.on('data', (chunk: Buffer) => {
    errors += chunk.toString()
  })
  if (child.stdout) createInterface(child.stdout).on('line', (line) => lines.push(line))
  return {
    process: child,
    lines,
    ended,
    async line(pattern) {
      let running = true
      void ended.then(() => {
        running = false
      })
      for (;;) {
        const found = lines.find((line) => pattern.test(line))
        if (found !== undefined) return found
        if (!running) throw new Error(`ended without ${pattern}:\n${lines.join('\n')}\n${errors}`)
        await new Promise((resolve) => setTimeout(resolve, 10))
      }
    },
    async kill(signal = 'SIGKILL') {
      child.kill(signal)
      await ended
    },
  }
}

export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}
