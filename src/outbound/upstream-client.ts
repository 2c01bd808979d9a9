import { type Dispatcher, Pool } from 'undici'
import type {
  UpstreamClient,
  UpstreamExchange,
  UpstreamFailure,
  UpstreamReceiver,
  UpstreamRequest,
} from '../core/ports/upstream-client.ts'
import type { Upstream } from '../core/upstream.ts'
import { guardOf } from './address-guard.ts'
import { createConnector, type Lookup, systemLookup } from './connector.ts'

/** Why a call got no whole answer, for the log: our own words only. */
export type UpstreamLogLine = {
  readonly event: 'upstream_call_failed'
  readonly failure: UpstreamFailure
  readonly upstream: string
  /** What would allow a refused address. */
  readonly setting?: string
}

/**
 * Calls upstreams over undici's `dispatch`, on connections that are kept and shared: one pool an upstream, so that no upstream
 * meets a connection whose address was judged by another's rules. No redirect is followed, no proxy of the environment is used,
 * nothing is unpacked or tried again.
 */
export function createUpstreamClient(options: {
  readonly log: (line: UpstreamLogLine) => void
  /** Stands in for the system's resolver. */
  readonly lookup?: Lookup
}): UpstreamClient {
  const { log, lookup = systemLookup } = options
  const pools = new Map<string, Pool | undefined>()

  /** Undefined where the rules forbid the address as it is written. */
  function poolOf(upstream: Upstream): Pool | undefined {
    if (!pools.has(upstream.name)) pools.set(upstream.name, openPool(upstream, lookup))
    return pools.get(upstream.name)
  }

  return {
    send(request, receiver) {
      const { upstream } = request
      const failed = (failure: UpstreamFailure): void => {
        const setting = `upstreams.${upstream.name}.allow_private_network`
        log({
          event: 'upstream_call_failed',
          failure,
          upstream: upstream.name,
          ...(failure === 'address_refused' ? { setting } : {}),
        })
        receiver.failed(failure)
      }
      const pool = poolOf(upstream)
      if (pool === undefined) {
        queueMicrotask(() => failed('address_refused'))
        return { resume() {}, abort() {} }
      }
      return exchange(pool, request, { ...receiver, failed })
    },
    async close() {
      await Promise.all([...pools.values()].map(async (pool) => pool?.destroy()))
    },
  }
}

function openPool(upstream: Upstream, lookup: Lookup): Pool | undefined {
  const { allowPrivateNetwork, timeouts } = upstream
  const url = new URL(upstream.url)
  const guard = guardOf(url, { allowPrivateNetwork, configured: true })
  if (guard === undefined) return undefined
  return new Pool(url.origin, {
    // Without a bound: a stream keeps its connection, and who may have how many is the gateway's business.
    connections: null,
    pipelining: 1,
    connect(target, callback) {
      const giveUpAt = performance.now() + timeouts.connectMs
      const connector = createConnector({
        guard,
        lookup,
        isLate: () => performance.now() >= giveUpAt,
        maySend: () => true,
      })
      let answered = false
      const answer: typeof callback = (...result) => {
        if (answered) return
        answered = true
        clearTimeout(timer)
        callback(...result)
      }
      const timer = setTimeout(() => {
        connector.destroy()
        answer(new Error('deadline_passed'), null)
      }, timeouts.connectMs)
      connector.connect(target, answer)
    },
  })
}

function exchange(
  pool: Pool,
  request: UpstreamRequest,
  receiver: UpstreamReceiver,
): UpstreamExchange {
  const { timeouts } = request.upstream
  let controller: Dispatcher.DispatchController | undefined
  let aborted = false
  let begun = false
  let late: NodeJS.Timeout | undefined

  function abort(): void {
    aborted = true
    clearTimeout(late)
    controller?.abort(gone)
  }
  function giveUp(failure: UpstreamFailure): void {
    abort()
    receiver.failed(failure)
  }

  const handler: Dispatcher.DispatchHandler = {
    onRequestStart(started) {
      controller = started
      if (aborted) started.abort(gone)
    },
    onResponseStart(_controller, status, headers) {
      if (aborted) return
      // An interim answer (103 Early Hints) is for the next hop only. undici waits anew after each: they must not go on for ever.
      if (status < 200) {
        late ??= setTimeout(() => giveUp('timeout'), timeouts.headMs)
        return
      }
      clearTimeout(late)
      // Where its body ends cannot be told, or only in a coding that nobody asked for (RFC 9112 §6.1).
      const coding = headers['transfer-encoding']
      if (coding !== undefined && String(coding).toLowerCase() !== 'chunked')
        return giveUp('broken')
      begun = true
      receiver.head({ status, headers: headersOf(headers, status) })
    },
    onResponseData(current, chunk) {
      // undici says an empty one whenever it goes on; a reader that pulls for it would pull for ever, in one turn.
      if (aborted || chunk.length === 0) return
      if (!receiver.data(chunk)) current.pause()
    },
    onResponseEnd() {
      if (!aborted) receiver.end()
    },
    onResponseError(_controller, error) {
      clearTimeout(late)
      if (!aborted) receiver.failed(failureOf(error, begun))
    },
  }
  try {
    pool.dispatch(
      {
        method: request.method,
        path: request.target,
        headers: [...request.headers],
        body: bodyOf(request.body),
        headersTimeout: timeouts.headMs,
        bodyTimeout: timeouts.idleMs,
      },
      handler,
    )
  } catch {
    // What undici will not put on the wire, such as a header value with a control character.
    queueMicrotask(() => receiver.failed('broken'))
  }
  return {
    resume: () => controller?.resume(),
    abort,
  }
}

const gone = new Error('the caller is gone')

/** undici takes async iterables, which its types do not say of a dispatch. */
function bodyOf(body: UpstreamRequest['body']): NonNullable<DispatchBody> | null {
  return (body ?? null) as NonNullable<DispatchBody> | null
}

type DispatchBody = Dispatcher.DispatchOptions['body']

type AnswerHeaders = Readonly<Record<string, string | readonly string[]>>

function headersOf(
  received: Readonly<Record<string, string | readonly string[] | undefined>>,
  status: number,
): AnswerHeaders {
  // undici's types allow for values that are not there; they never come.
  const headers = received as AnswerHeaders
  if (status !== 204) return headers
  // There is no body, and whoever believes that there is takes the next answer for it (RFC 9110 §8.6).
  const { 'content-length': _length, ...others } = headers
  return others
}

/** By undici's codes and by the words of our own connector. */
function failureOf(error: Error, begun: boolean): UpstreamFailure {
  const code = 'code' in error ? error.code : undefined
  if (code === 'UND_ERR_HEADERS_TIMEOUT' || code === 'UND_ERR_BODY_TIMEOUT') return 'timeout'
  if (begun) return 'broken'
  switch (error.message) {
    case 'deadline_passed':
      return 'timeout'
    case 'address_refused':
      return 'address_refused'
    case 'connection_failed':
    case 'name_not_resolved':
    case 'tls_failed':
      return 'unreachable'
    default:
      return 'broken'
  }
}
