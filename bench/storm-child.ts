import { type ChildProcess, fork } from 'node:child_process'
import { join } from 'node:path'

/** What a storm of callers in one process came to. */
export type StormResult = {
  /** Of every caller, in ms. */
  readonly waitsMs: readonly number[]
  readonly failed: number
}

/** What a process of a storm is asked. */
export type StormQuestions = {
  /** So many calls for one person at once. */
  storm: { ask: { readonly person: string; readonly callers: number }; answer: StormResult }
  /** Reads each of these people once, one after the other with a pause between, and gives what each took, in ms. */
  read: { ask: { readonly people: readonly string[]; readonly everyMs: number }; answer: number[] }
  /** The next renewal that is about to send, of all processes the first, says so and waits to be told. */
  holdFirst: { ask: Record<string, never>; answer: undefined }
  /** Stores somebody, where only the process itself can; gives the name for the other questions. */
  seed: {
    ask: { readonly person: string; readonly refreshToken: string; readonly endsInSeconds: number }
    answer: string
  }
}

type Name = keyof StormQuestions
type Asked = { readonly id: number; readonly name: Name; readonly ask: unknown }
type Answered = { readonly id: number; readonly answer?: unknown; readonly error?: string }

/** A process that callers storm. */
export type StormChild = {
  readonly pid: number
  readonly port: number
  ask<N extends Name>(name: N, ask: StormQuestions[N]['ask']): Promise<StormQuestions[N]['answer']>
  signal(signal: NodeJS.Signals): void
  /** Called when its renewal is the one that is held. */
  onFirst: (() => void) | undefined
  go(): void
  stop(): Promise<void>
}

/** Starts `bench/<name>.js`, which calls `answerStorms`. */
export function startStormChild(name: string, env: Record<string, string>): Promise<StormChild> {
  const child = fork(join(import.meta.dirname, `${name}.js`), {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  })
  let lastId = 0
  const open = new Map<number, (answered: Answered) => void>()
  return new Promise((resolve, reject) => {
    child.once('exit', (code) => reject(new Error(`${name} ended with ${code}`)))
    child.once('message', (message) => {
      child.on('message', (said: Answered | { first: true }) => {
        if ('first' in said) one.onFirst?.()
        else open.get(said.id)?.(said)
      })
      const { port } = message as { port: number }
      const one: StormChild = {
        pid: child.pid ?? 0,
        port,
        ask: (question, ask) =>
          new Promise((settle, fail) => {
            lastId += 1
            const id = lastId
            open.set(id, ({ answer, error }) => {
              open.delete(id)
              if (error === undefined) settle(answer as never)
              else fail(new Error(error))
            })
            child.send({ id, name: question, ask } satisfies Asked)
          }),
        signal: (signal) => void child.kill(signal),
        onFirst: undefined,
        go: () => void child.send({ go: true }),
        stop: () => stop(child),
      }
      resolve(one)
    })
  })
}

function stop(child: ChildProcess): Promise<void> {
  return new Promise((resolve) => {
    child.once('exit', () => resolve())
    child.kill('SIGTERM')
  })
}

/** The child's side. `acquire` is one call: it rejects where the caller gets no credential. */
export function answerStorms(
  port: number,
  calls: {
    acquire(person: string): Promise<unknown>
    read(person: string): Promise<unknown>
    seed?(ask: StormQuestions['seed']['ask']): Promise<string>
    holdFirst?(): void
  },
): void {
  const answers = {
    async storm({ person, callers }: StormQuestions['storm']['ask']): Promise<StormResult> {
      let failed = 0
      const one = async () => {
        const startMs = performance.now()
        await calls.acquire(person).catch((error: unknown) => {
          failed += 1
          if (process.env['STORM_ERRORS'] !== undefined && failed <= 3) console.error(error)
        })
        return performance.now() - startMs
      }
      const waitsMs = await Promise.all(Array.from({ length: callers }, one))
      return { waitsMs, failed }
    },
    async read({ people, everyMs }: StormQuestions['read']['ask']): Promise<number[]> {
      const tookMs: number[] = []
      for (const person of people) {
        const startMs = performance.now()
        await calls.read(person)
        tookMs.push(performance.now() - startMs)
        await new Promise((resolve) => setTimeout(resolve, everyMs))
      }
      return tookMs
    },
    async holdFirst(): Promise<undefined> {
      calls.holdFirst?.()
    },
    seed: (ask: StormQuestions['seed']['ask']) =>
      calls.seed?.(ask) ?? Promise.reject(new Error('this one is stored by the harness')),
  }
  process.on('message', (said: Asked | { go: true }) => {
    if ('go' in said) return
    const { id, name, ask } = said
    const answer = answers[name] as (question: unknown) => Promise<unknown>
    answer(ask).then(
      (given) => process.send?.({ id, answer: given }),
      (error: unknown) => process.send?.({ id, error: String(error) }),
    )
  })
  process.send?.({ port })
}

/** Says that this process is the one to be held, and waits to be told to go on. */
export function waitToGo(): Promise<void> {
  return new Promise((resolve) => {
    const onMessage = (said: object) => {
      if (!('go' in said)) return
      process.off('message', onMessage)
      resolve()
    }
    process.on('message', onMessage)
    process.send?.({ first: true })
  })
}
