import net from 'node:net'

/** What happens to bytes that a hook looked at. */
export type Passage = 'forward' | 'drop'

/**
 * Called with a statement on its way: `sent`, before the server has it, or `answered`, before the client has the answer. The bytes wait until it
 * resolves, so that a process can be stopped or killed at exactly that point.
 */
export type StatementHook = (
  phase: 'sent' | 'answered',
  text: string,
  /** How PostgreSQL names what it did, such as `UPDATE 1`; empty before that, and for an error. */
  tag: string,
) => Passage | Promise<Passage> | undefined

/**
 * Stands between one process and PostgreSQL, reads the wire protocol, and lets nothing pass before its hook has agreed. It knows which statement
 * an answer belongs to, also where statements are prepared once and sent by name.
 */
export type PostgresWire = {
  /** The same database, through the wire. */
  readonly url: string
  readonly hook: (hook: StatementHook | undefined) => void
  /** Loses every notification from now on, as a pooler in transaction mode does. */
  readonly loseNotifications: () => void
  /** Ends every connection and lets none in. */
  readonly shut: () => void
  /** Connections stay and nothing passes, in either direction. */
  readonly stall: () => void
  readonly open: () => void
  readonly stop: () => Promise<void>
}

export async function startPostgresWire(options: {
  readonly databaseUrl: string
  /** Opens a connection to that database. */
  readonly connect: () => net.Socket | Promise<net.Socket>
}): Promise<PostgresWire> {
  const pairs = new Set<Pair>()
  let state: 'open' | 'shut' | 'stalled' = 'open'
  let hook: StatementHook | undefined
  let losesNotifications = false

  async function letIn(outer: net.Socket): Promise<void> {
    outer.on('error', () => {})
    const inner = state === 'shut' ? undefined : await options.connect()
    if (inner === undefined || state === 'shut') {
      outer.destroy()
      inner?.destroy()
      return
    }
    const pair = joinSockets(outer, inner, {
      hook: (phase, text, tag) => hook?.(phase, text, tag),
      isLost: ({ type }) => losesNotifications && type === typeOf.notification,
    })
    pairs.add(pair)
    outer.once('close', () => pairs.delete(pair))
    if (state === 'stalled') pair.pause()
  }

  const server = net.createServer((outer) => void letIn(outer))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const bound = server.address() as net.AddressInfo
  const url = new URL(options.databaseUrl)
  url.searchParams.delete('host')
  url.searchParams.delete('port')
  url.host = `127.0.0.1:${bound.port}`

  function shut(): void {
    state = 'shut'
    for (const pair of pairs) pair.destroy()
  }

  return {
    url: url.href,
    hook(next) {
      hook = next
    },
    loseNotifications() {
      losesNotifications = true
    },
    shut,
    stall() {
      state = 'stalled'
      for (const pair of pairs) pair.pause()
    },
    open() {
      state = 'open'
      for (const pair of pairs) pair.resume()
    },
    async stop() {
      shut()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

type Pair = { pause(): void; resume(): void; destroy(): void }

function joinSockets(
  outer: net.Socket,
  inner: net.Socket,
  { hook, isLost }: { hook: StatementHook; isLost: (message: Message) => boolean },
): Pair {
  /** Texts by the names under which they were prepared. */
  const prepared = new Map<string, string>()
  /** Statements that PostgreSQL has not answered yet, in their order. */
  const unanswered: string[] = []

  const destroy = () => {
    outer.destroy()
    inner.destroy()
  }
  outer.on('error', () => {})
  inner.on('error', destroy)
  inner.on('close', destroy)

  const toServer = createSplitter({ untyped: true })
  const toClient = createSplitter({ untyped: false })
  const sent = pump(outer, inner, async (chunk) => {
    const passing: Buffer[] = []
    for (const message of toServer(chunk)) {
      const text = statementOf(message, prepared)
      if (text !== undefined) {
        // What came before it goes on first, so that only this statement waits.
        if (passing.length > 0) inner.write(Buffer.concat(passing.splice(0)))
        const passage = (await hook('sent', text, '')) ?? 'forward'
        if (passage === 'drop') return destroy()
        unanswered.push(text)
      }
      passing.push(message.bytes)
    }
    if (passing.length > 0) inner.write(Buffer.concat(passing))
  })
  // A client that dies has sent what it has sent: PostgreSQL gets that, and then the end.
  outer.on('close', () => void sent().then(() => inner.end()))
  pump(inner, outer, async (chunk) => {
    const passing: Buffer[] = []
    for (const message of toClient(chunk)) {
      if (isEndOfStatement(message.type)) {
        const text = unanswered.shift()
        const passage =
          text === undefined
            ? 'forward'
            : ((await hook('answered', text, tagOf(message))) ?? 'forward')
        if (passage === 'drop') return destroy()
      }
      if (!isLost(message)) passing.push(message.bytes)
    }
    if (passing.length > 0) outer.write(Buffer.concat(passing))
  })

  return {
    pause() {
      outer.pause()
      inner.pause()
    },
    resume() {
      outer.resume()
      inner.resume()
    },
    destroy,
  }
}

/** Takes chunks one after the other, also while a hook takes its time; gives a wait for those that came so far. */
function pump(
  from: net.Socket,
  to: net.Socket,
  take: (chunk: Buffer) => Promise<void>,
): () => Promise<void> {
  let turn = Promise.resolve()
  from.on('data', (chunk: Buffer) => {
    turn = turn.then(() => take(chunk)).catch(() => void to.destroy())
  })
  return () => turn
}

type Message = { readonly type: number; readonly bytes: Buffer }

/** Cuts a stream into messages. The client's first ones have no type byte (startup). */
function createSplitter(options: { untyped: boolean }): (chunk: Buffer) => readonly Message[] {
  let rest: Buffer = Buffer.alloc(0)
  let untyped = options.untyped
  return (chunk) => {
    rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk])
    const messages: Message[] = []
    for (;;) {
      const head = untyped ? 0 : 1
      if (rest.length < head + 4) return messages
      const length = head + rest.readUInt32BE(head)
      if (rest.length < length) return messages
      messages.push({ type: untyped ? 0 : (rest[0] ?? 0), bytes: rest.subarray(0, length) })
      // Requests for TLS or GSS encryption have 8 bytes; the real startup follows them.
      if (untyped) untyped = length === 8
      rest = rest.subarray(length)
    }
  }
}

const typeOf = { parse: 0x50, bind: 0x42, query: 0x51, notification: 0x41, complete: 0x43 } as const

/** The text of a statement that this message sets going; remembers what is only prepared. */
function statementOf({ type, bytes }: Message, prepared: Map<string, string>): string | undefined {
  if (type === typeOf.query) return stringAt(bytes, 5)
  if (type === typeOf.parse) {
    const name = stringAt(bytes, 5)
    prepared.set(name, stringAt(bytes, 5 + Buffer.byteLength(name) + 1))
    return undefined
  }
  if (type !== typeOf.bind) return undefined
  const portal = stringAt(bytes, 5)
  return prepared.get(stringAt(bytes, 5 + Buffer.byteLength(portal) + 1)) ?? ''
}

function stringAt(bytes: Buffer, start: number): string {
  const end = bytes.indexOf(0, start)
  return bytes.toString('utf8', start, end === -1 ? bytes.length : end)
}

function tagOf({ type, bytes }: Message): string {
  return type === typeOf.complete ? stringAt(bytes, 5) : ''
}

/** CommandComplete, ErrorResponse, EmptyQueryResponse, PortalSuspended. */
function isEndOfStatement(type: number): boolean {
  return type === 0x43 || type === 0x45 || type === 0x49 || type === 0x73
}
