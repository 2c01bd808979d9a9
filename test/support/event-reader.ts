/** A stream of events as its client reads it. */
export type EventReader = {
  readonly text: () => string
  /** The data of each event that is whole, parsed as a message. */
  readonly messages: () => readonly Message[]
  /** `end`: as HTTP says. `cut`: before that. Undefined while it is open. */
  readonly ended: () => 'end' | 'cut' | undefined
  readonly leave: () => Promise<void>
}

export type Message = {
  readonly method?: string
  readonly params?: Record<string, unknown>
  readonly result?: Record<string, unknown>
}

/** Reads on until it is over, whoever looks. */
export function readEvents(answer: Response): EventReader {
  const reader = (answer.body as ReadableStream<Uint8Array> | null)?.getReader()
  const decoder = new TextDecoder()
  let text = ''
  let ended: 'end' | 'cut' | undefined
  void (async () => {
    try {
      for (;;) {
        const next = await reader?.read()
        if (next === undefined || next.done) break
        text += decoder.decode(next.value, { stream: true })
      }
      ended ??= 'end'
    } catch {
      ended ??= 'cut'
    }
  })()
  return {
    text: () => text,
    messages: () =>
      text
        .split('\n\n')
        .slice(0, -1)
        .flatMap((event) => /^data: (.*)$/m.exec(event)?.[1] ?? [])
        .map((data) => JSON.parse(data) as Message),
    ended: () => ended,
    async leave() {
      await reader?.cancel().catch(() => {})
    },
  }
}
