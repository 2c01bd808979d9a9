import { type ChildProcess, fork } from 'node:child_process'
import { join } from 'node:path'

/** A server in a process of its own, asked by messages. */
export type Child = {
  readonly port: number
  ask<T>(question: string): Promise<T>
  stop(): Promise<void>
}

/** Starts `bench/<name>.js`, which says `{ port }` when it listens and answers each `{ question }` with `{ answer }`. */
export function startChild(name: string, env: Record<string, string>): Promise<Child> {
  const child = fork(join(import.meta.dirname, `${name}.js`), {
    // What `serve` sets for itself, for whoever is compared with it as well.
    execArgv: ['--expose-gc', '--no-allocation-site-pretenuring', '--heap-growing-percent=30'],
    env: { ...process.env, ...env },
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  })
  return new Promise((resolve, reject) => {
    child.once('exit', (code) => reject(new Error(`${name} ended with ${code}`)))
    child.once('message', (message) => {
      const { port } = message as { port: number }
      resolve({ port, ask: (question) => ask(child, question), stop: () => stop(child) })
    })
  })
}

function ask<T>(child: ChildProcess, question: string): Promise<T> {
  return new Promise((resolve) => {
    child.once('message', (message) => resolve((message as { answer: T }).answer))
    child.send({ question })
  })
}

function stop(child: ChildProcess): Promise<void> {
  return new Promise((resolve) => {
    child.once('exit', () => resolve())
    child.kill('SIGTERM')
  })
}

/** The child's side. */
export function serveQuestions(port: number, answers: Record<string, () => unknown>): void {
  process.on('message', (message) => {
    const { question } = message as { question: string }
    void Promise.resolve(answers[question]?.()).then((answer) => process.send?.({ answer }))
  })
  process.send?.({ port })
}

export function memoryNow(): { rssMb: number; heapMb: number } {
  globalThis.gc?.()
  globalThis.gc?.()
  const { rss, heapUsed, external } = process.memoryUsage()
  return { rssMb: rss / 1048576, heapMb: (heapUsed + external) / 1048576 }
}

/** As calls left the process, garbage included, and when that is collected. */
export type RestingMemory = {
  readonly rssMb: number
  readonly collected: { readonly rssMb: number; readonly heapMb: number }
}

/**
 * V8 hands pages back a moment after a collection and shrinks the room for young objects, 32 MB a thread at most, only when
 * several in a row found little: what one collection leaves in RSS is by tens of MB a matter of chance.
 */
export async function memoryAtRest(): Promise<RestingMemory> {
  const rssMb = process.memoryUsage.rss() / 1048576
  for (let collection = 0; collection < 6; collection += 1) {
    memoryNow()
    await new Promise((resolve) => setTimeout(resolve, 1500))
  }
  return { rssMb, collected: memoryNow() }
}
