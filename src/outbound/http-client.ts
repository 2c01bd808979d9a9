import { Client, type Dispatcher } from 'undici'
import {
  type HttpClient,
  OutboundFailure,
  type OutboundRequest,
  type OutboundResponse,
} from '../core/ports/http-client.ts'
import { guardOf } from './address-guard.ts'
import { type AddressGuard, type Lookup, createConnector, systemLookup } from './connector.ts'

/** Why a request got no complete answer; what the log says of it. */
export type OutboundFault =
  | 'address_refused'
  | 'answer_too_large'
  | 'connection_broken'
  | 'connection_failed'
  | 'deadline_passed'
  | 'name_not_resolved'
  | 'tls_failed'
  | 'turn_passed'

/** One failed request, for the log: our own words only. `at` is the place in the configuration that led there. */
export type OutboundLogLine = {
  readonly event: 'outbound_request_failed'
  readonly fault: OutboundFault
  readonly at: string
  /** What would allow a refused address. */
  readonly setting?: string
}

/** A timer this late did not wait: the process stood still. */
const standstillMs = 250

/**
 * Sends requests over undici, each on a connection of its own: only then is it certain that a request which never got a
 * connection was never sent, and that no pooled socket's reset is taken for an answer lost.
 *
 * No redirect is followed (a 307 would carry the body's refresh token along), no proxy of the environment is used, and no
 * compressed answer is unpacked.
 */
export function createHttpClient(
  options: {
    readonly log?: (line: OutboundLogLine) => void
    /** Stands in for the system's resolver. */
    readonly lookup?: Lookup
  } = {},
): HttpClient {
  const { log = () => {}, lookup = systemLookup } = options

  async function send(request: OutboundRequest): Promise<OutboundResponse> {
    const { setting } = request.destination
    const fail = (fault: OutboundFault, answer: 'not_sent' | 'lost'): OutboundFailure => {
      const addressRefused = fault === 'address_refused'
      log({
        event: 'outbound_request_failed',
        fault,
        at: setting.slice(0, setting.lastIndexOf('.')),
        ...(addressRefused ? { setting } : {}),
      })
      return new OutboundFailure(answer, { addressRefused, tooLarge: fault === 'answer_too_large' })
    }
    const url = URL.canParse(request.url) ? new URL(request.url) : undefined
    const guard = url === undefined ? undefined : guardOf(url, request.destination)
    if (url === undefined || guard === undefined) throw fail('address_refused', 'not_sent')
    return exchange({ request, url, guard, lookup, fail })
  }

  return { send }
}

type Exchange = {
  readonly request: OutboundRequest
  readonly url: URL
  readonly guard: AddressGuard
  readonly lookup: Lookup
  readonly fail: (fault: OutboundFault, answer: 'not_sent' | 'lost') => OutboundFailure
}

/** One request and its answer on one connection, which is gone afterwards whatever happened. */
function exchange({ request, url, guard, lookup, fail }: Exchange): Promise<OutboundResponse> {
  const deadlineAt = performance.now() + request.deadlineMs
  return new Promise((resolve, reject) => {
    const connector = createConnector({
      guard,
      lookup,
      // A process that stood still before it connected must not send a request that others have taken over by now.
      isLate: () => performance.now() >= deadlineAt,
      maySend: request.maySend ?? (() => true),
    })
    const client = new Client(url.origin, {
      connect: connector.connect,
      pipelining: 1,
      headersTimeout: 0,
      bodyTimeout: 0,
    })
    let settled = false
    let timer = setTimeout(onDeadline, request.deadlineMs)

    function end(settle: () => void): void {
      if (settled) return
      settled = true
      clearTimeout(timer)
      connector.destroy()
      void client.destroy().catch(() => {})
      settle()
    }

    function failed(fault: OutboundFault): void {
      const sent = connector.handedOver()
      end(() => reject(fail(connector.fault() ?? fault, sent ? 'lost' : 'not_sent')))
    }

    function onDeadline(): void {
      const stoodStill = performance.now() - deadlineAt > standstillMs
      if (stoodStill && connector.handedOver()) {
        // The answer may have come while the process stood still: the socket is read once more before it is given up.
        timer = setTimeout(() => failed('deadline_passed'), standstillMs)
        return
      }
      failed('deadline_passed')
    }

    const handler = collectAnswer({
      maxBytes: request.maxBytes,
      done: (response) => end(() => resolve(response)),
      tooLarge: () => failed('answer_too_large'),
      broken: () => failed('connection_broken'),
    })
    try {
      client.dispatch(dispatchOptions(request, url), handler)
    } catch {
      failed('connection_broken')
    }
  })
}

function dispatchOptions(request: OutboundRequest, url: URL): Dispatcher.DispatchOptions {
  return {
    method: request.method,
    path: `${url.pathname}${url.search}`,
    headers: {
      'user-agent': 'onbehalf',
      ...request.headers,
      // A compressed answer could unpack to any size behind the cap.
      'accept-encoding': 'identity',
    },
    body: request.body ?? null,
    reset: true,
  }
}

/** Puts an answer together, at most `maxBytes` of it. */
function collectAnswer(on: {
  readonly maxBytes: number
  readonly done: (response: OutboundResponse) => void
  readonly tooLarge: () => void
  readonly broken: () => void
}): Dispatcher.DispatchHandler {
  const chunks: Buffer[] = []
  let bytes = 0
  let status = 0
  let headers: Record<string, string> = {}
  return {
    onRequestStart() {},
    onResponseStart(_controller, statusCode, received) {
      status = statusCode
      headers = flattened(received)
      if (Number(headers['content-length']) > on.maxBytes) on.tooLarge()
    },
    onResponseData(_controller, chunk) {
      bytes += chunk.length
      if (bytes > on.maxBytes) on.tooLarge()
      else chunks.push(chunk)
    },
    onResponseEnd() {
      on.done({ status, headers, body: Buffer.concat(chunks).toString('utf8') })
    },
    onResponseError() {
      on.broken()
    },
  }
}

function flattened(
  headers: Readonly<Record<string, string | readonly string[] | undefined>>,
): Record<string, string> {
  const flat: Record<string, string> = {}
  for (const [name, value] of Object.entries(headers)) {
    if (value !== undefined) flat[name] = typeof value === 'string' ? value : value.join(', ')
  }
  return flat
}
