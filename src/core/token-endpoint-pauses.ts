import { LRUCache } from 'lru-cache'
import type { FailureVerdict } from './failure-verdict.ts'
import type { Clock } from './ports/clock.ts'

const maxBackoffSeconds = 30
export const maxRetryAfterSeconds = 900

/**
 * When a token endpoint may be asked again. A server that named a time (429 or 503 with Retry-After) pauses for everybody;
 * any other passing failure pauses only the connection it happened to.
 */
export interface TokenEndpointPauses {
  /** Seconds to wait before this server may be asked for this connection; undefined when it may be now. */
  remainingSeconds(authorizationServer: string, connection: string): number | undefined
  /** Notes a passing failure; gives the moment of the next try. */
  failed(
    authorizationServer: string,
    connection: string,
    verdict: Extract<FailureVerdict, { kind: 'retry_at' }>,
  ): Date
  /** Notes what a server said outside of any stored connection: the time that it named, if it did. */
  paused(
    authorizationServer: string,
    verdict: Extract<FailureVerdict, { kind: 'retry_at' }>,
  ): Date | undefined
  /** Notes a failure that no waiting mends: nothing is paused, but the connection is failing. */
  misconfigured(connection: string): void
  succeeded(connection: string): void
  /** Whether the last request for this connection failed, or its server paused everybody. */
  isFailing(authorizationServer: string, connection: string): boolean
}

/** Connections whose failures are remembered; one that is forgotten is only tried sooner. */
const maxConnections = 10_000

export function createTokenEndpointPauses(ports: {
  readonly clock: Clock
  readonly random: () => number
}): TokenEndpointPauses {
  const { clock, random } = ports
  const servers = new Map<string, number>()
  const connections = new LRUCache<string, { failures: number; untilMs: number }>({
    max: maxConnections,
  })

  function backoffSeconds(failures: number): number {
    // Full jitter: spread over the whole window, so that callers who failed together do not return together.
    const window = Math.min(maxBackoffSeconds, 2 ** Math.min(failures, 5))
    return 1 + random() * (window - 1)
  }

  function failuresOf(connection: string, nowMs: number): number {
    const pause = connections.get(connection)
    // A failure that is long over no longer counts towards the next pause.
    return pause === undefined || pause.untilMs + 60_000 < nowMs ? 0 : pause.failures
  }

  const paused: TokenEndpointPauses['paused'] = (authorizationServer, { retryAfterSeconds }) => {
    if (retryAfterSeconds === undefined) return undefined
    const untilMs = clock.now().getTime() + retryAfterSeconds * 1000
    servers.set(authorizationServer, Math.max(untilMs, servers.get(authorizationServer) ?? 0))
    return new Date(untilMs)
  }

  return {
    paused,
    remainingSeconds(authorizationServer, connection) {
      const nowMs = clock.now().getTime()
      const untilMs = Math.max(
        servers.get(authorizationServer) ?? 0,
        connections.get(connection)?.untilMs ?? 0,
      )
      return untilMs <= nowMs ? undefined : (untilMs - nowMs) / 1000
    },
    failed(authorizationServer, connection, verdict) {
      const nowMs = clock.now().getTime()
      // Nothing left and nobody was bothered: only the configuration mends it, and then at once.
      if (verdict.addressRefused === true) return new Date(nowMs)
      const pausedUntil = paused(authorizationServer, verdict)
      if (pausedUntil !== undefined) return pausedUntil
      const failures = failuresOf(connection, nowMs) + 1
      const untilMs = nowMs + backoffSeconds(failures) * 1000
      connections.set(connection, { failures, untilMs })
      return new Date(untilMs)
    },
    misconfigured(connection) {
      const nowMs = clock.now().getTime()
      connections.set(connection, { failures: failuresOf(connection, nowMs), untilMs: nowMs })
    },
    succeeded(connection) {
      connections.delete(connection)
    },
    isFailing(authorizationServer, connection) {
      const pausedUntilMs = servers.get(authorizationServer) ?? 0
      return connections.has(connection) || pausedUntilMs > clock.now().getTime()
    },
  }
}
