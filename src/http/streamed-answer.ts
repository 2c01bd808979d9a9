import type { ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { StreamedAnswer } from '../core/ports/gateway.ts'
import { endOfTurn } from './end-of-turn.ts'

/** Straight to the socket: through a web stream each call costs twice as much (measured, docs/performance.md). */
export function answerOnSocket(
  outgoing: ServerResponse,
  added: Readonly<Record<string, string>>,
): StreamedAnswer {
  let resume = () => {}
  let gone = () => {}
  outgoing.on('drain', () => resume())
  let isGone = outgoing.destroyed
  let isWaiting = false
  let hasEnded = false
  let corked: Socket | null = null
  function leftBehind(): void {
    if (isGone || outgoing.writableFinished) return
    isGone = true
    gone()
  }
  // Behind another answer on its connection it has no socket yet, and hears nothing of it.
  const waits = outgoing.socket === null
  if (waits && outgoing.req.socket.destroyed) isGone = true
  const forget = waits ? onceClosed(outgoing.req.socket, leftBehind) : () => {}
  outgoing.once('close', () => {
    forget()
    leftBehind()
  })
  /**
   * What comes in one turn leaves at its end: head and body as one packet, and one behind the other for who reads several. It is
   * the socket that is corked: what an answer itself is corked with, Node 24 sends behind the mark of its end.
   */
  function leaveTogether(): void {
    if (isWaiting) return
    isWaiting = true
    corked = outgoing.socket
    corked?.cork()
    void endOfTurn().then(leave)
  }
  function leave(): void {
    if (!isWaiting) return
    isWaiting = false
    // A stream may have nothing to say for long, and its reader waits for the head.
    if (hasEnded) outgoing.end()
    else outgoing.flushHeaders()
    corked?.uncork()
  }
  return {
    begin(status, headers) {
      outgoing.writeHead(status, headLines(headers, added))
      leaveTogether()
    },
    write(chunk) {
      leaveTogether()
      return outgoing.write(chunk)
    },
    end() {
      hasEnded = true
      leaveTogether()
    },
    cut() {
      // What came until then does leave: who saw nothing of an answer at all may send its request again (RFC 9110 §9.2.2).
      leave()
      outgoing.destroy()
    },
    onDrain(listener) {
      resume = listener
    },
    onGone(listener) {
      gone = listener
      if (isGone) listener()
    },
  }
}

const closing = new WeakMap<Socket, Set<() => void>>()

/** One listener for all who wait, because a connection may bring any number of requests at once. Gives what ends the waiting. */
function onceClosed(socket: Socket, listener: () => void): () => void {
  const listeners = closing.get(socket) ?? new Set()
  if (!closing.has(socket)) {
    closing.set(socket, listeners)
    socket.once('close', () => {
      for (const closed of listeners) closed()
    })
  }
  listeners.add(listener)
  return () => void listeners.delete(listener)
}

/**
 * For an embedder that mounts the application without our server; `respond` is given the answer as soon as it begins. The caller
 * is gone when the body is cancelled, or `signal` says so.
 */
export function answerAsResponse(
  added: Readonly<Record<string, string>>,
  signal: AbortSignal,
  respond: (response: Response) => void,
): StreamedAnswer {
  let resume = () => {}
  let gone = () => {}
  let isOver = false
  let isGone = false
  let controller: ReadableStreamDefaultController<Uint8Array> | undefined
  const body = new ReadableStream<Uint8Array>({
    start(started) {
      controller = started
    },
    pull: () => resume(),
    cancel: leave,
  })
  function breakOff(): void {
    controller?.error(new Error('the answer broke off'))
  }
  function cut(): void {
    if (!isOver) breakOff()
    isOver = true
  }
  function leave(): void {
    if (isOver) return
    isOver = true
    isGone = true
    gone()
  }
  function abort(): void {
    if (isOver) return
    leave()
    // A server whose caller left cancels the body in the same turn, and would print an error as its own. Whoever reads on must
    // not take what came for the whole.
    void endOfTurn().then(breakOff)
  }
  signal.addEventListener('abort', abort, { once: true })
  if (signal.aborted) abort()
  return {
    begin(status, received) {
      const headers = new Headers()
      const lines = headLines(received, added)
      for (let index = 0; index < lines.length; index += 2) {
        headers.append(lines[index] ?? '', lines[index + 1] ?? '')
      }
      const empty = status === 204 || status === 205 || status === 304
      respond(new Response(empty ? null : body, { status, headers }))
    },
    // A stream that is over throws at whoever still writes to it.
    write(chunk) {
      if (isOver) return true
      controller?.enqueue(chunk)
      return (controller?.desiredSize ?? 0) > 0
    },
    end() {
      if (!isOver) controller?.close()
      isOver = true
    },
    cut,
    onDrain(listener) {
      resume = listener
    },
    onGone(listener) {
      gone = listener
      if (isGone) listener()
    },
  }
}

type AnswerHeaders = Readonly<Record<string, string | readonly string[]>>

/**
 * Names and values by turns. Ours stand: an upstream's own `X-Request-Id` would name no record of ours. What an answer varies by is
 * both together.
 */
function headLines(headers: AnswerHeaders, added: Readonly<Record<string, string>>): string[] {
  const lines: string[] = []
  for (const name of Object.keys(headers)) {
    const value = headers[name] ?? ''
    if (Object.hasOwn(added, name)) continue
    if (typeof value === 'string') lines.push(name, value)
    else for (const one of value) lines.push(name, one)
  }
  for (const name of Object.keys(added)) {
    const ours = added[name] ?? ''
    const theirs = name === 'vary' ? headers[name] : undefined
    lines.push(name, theirs === undefined ? ours : `${[theirs].flat().join(', ')}, ${ours}`)
  }
  return lines
}
