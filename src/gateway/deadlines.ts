/** Limits of one piece of work, each known by what it limits. None keeps a process that has nothing else to do. */
export type Deadlines<Name extends string> = {
  /** One that is set again begins anew. */
  readonly set: (name: Name, ms: number, reached: () => void) => void
  readonly clear: (name: Name) => void
  readonly clearAll: () => void
}

export function createDeadlines<Name extends string>(): Deadlines<Name> {
  const timers: { [name in Name]?: NodeJS.Timeout } = {}

  function clear(name: Name): void {
    clearTimeout(timers[name])
  }

  return {
    set(name, ms, reached) {
      clear(name)
      timers[name] = setTimeout(reached, ms).unref()
    },
    clear,
    clearAll() {
      for (const name in timers) clear(name)
    },
  }
}
