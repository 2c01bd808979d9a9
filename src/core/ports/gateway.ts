import type { Readable } from 'node:stream'
import type { Person } from '../caller.ts'
import type { Secret } from '../secret.ts'
import type { Upstream } from '../upstream.ts'

/** Carries calls of people to upstreams, each with that person's own credential. */
export interface Gateway {
  /**
   * One call of plain HTTP. Resolves when the answer is out or its caller is gone. Once the answer has begun nothing is thrown:
   * what fails then cuts it.
   * @throws BrokerError whatever a resolution can refuse, and invalid_request (path), payload_too_large, too_many_streams,
   * upstream_redirect, upstream_rejected_credential, upstream_timeout, upstream_unavailable
   */
  proxy(call: GatewayCall): Promise<void>

  /** One call of MCP over Streamable HTTP; as `proxy`. */
  mcp(call: GatewayCall): Promise<void>
}

export type GatewayCall = {
  readonly person: Person
  /** The bearer that the call came with: the subject token of an exchange, and never sent on. */
  readonly bearer: Secret
  readonly upstream: Upstream
  readonly requestId: string
  readonly startedAt: Date
  readonly method: string
  /** What follows the gateway's own path, as it was written: empty, or a path, and a query where there is one. */
  readonly tail: string
  /** Names and values by turns, as they came. */
  readonly headers: readonly string[]
  /** The value of one of them, by its name in lower case. */
  readonly header: (name: string) => string | undefined
  readonly body: Readable | undefined
  readonly answer: StreamedAnswer
}

/** An answer that is written as it comes. */
export type StreamedAnswer = {
  begin(status: number, headers: Readonly<Record<string, string | readonly string[]>>): void
  /** False: the caller reads more slowly; `onDrain` says when to go on. */
  write(chunk: Uint8Array): boolean
  end(): void
  /** Ends it in a way that no reader takes for its end. */
  cut(): void
  /** The last listener counts. */
  onDrain(resume: () => void): void
  /** Called when the caller goes away before the end, or has gone. The last listener counts. */
  onGone(gone: () => void): void
}
