import type { Upstream } from '../upstream.ts'

/**
 * Carries one call to an upstream and its answer back as it comes, both ways with backpressure. Follows no redirect, unpacks
 * nothing, tries nothing twice.
 */
export interface UpstreamClient {
  send(request: UpstreamRequest, receiver: UpstreamReceiver): UpstreamExchange
  /** Ends every connection; what is under way fails. */
  close(): Promise<void>
}

export type UpstreamRequest = {
  readonly upstream: Upstream
  readonly method: string
  /** The request target: a path, and a query where there is one. */
  readonly target: string
  /** Names and values by turns, as they are to be sent; `Host` and the framing are the client's. */
  readonly headers: readonly string[]
  readonly body: Uint8Array | AsyncIterable<Uint8Array> | undefined
}

/** Told in this order: one head, any data, then the end; a failure can come at any point instead and is the last. */
export type UpstreamReceiver = {
  head(answer: UpstreamAnswerHead): void
  /** False: no more is read until `resume`. */
  data(chunk: Uint8Array): boolean
  end(): void
  failed(failure: UpstreamFailure): void
}

export type UpstreamAnswerHead = {
  readonly status: number
  /** By their names in lower case. */
  readonly headers: Readonly<Record<string, string | readonly string[]>>
}

/**
 * `timeout`: past `connect`, `head` or `idle`. `address_refused`: the rules forbid where it leads. `unreachable`: no
 * connection. `broken`: a connection that ended, or an answer that is none.
 */
export type UpstreamFailure = 'timeout' | 'address_refused' | 'unreachable' | 'broken'

export type UpstreamExchange = {
  /** Goes on reading. */
  resume(): void
  /** Ends it at once; nothing is told any more. */
  abort(): void
}
