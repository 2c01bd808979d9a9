import { BrokerError } from '../core/errors.ts'
import type { ResolvedCredential } from '../core/ports/broker-services.ts'
import type { GatewayCall, StreamedAnswer } from '../core/ports/gateway.ts'
import type {
  UpstreamAnswerHead,
  UpstreamClient,
  UpstreamExchange,
  UpstreamFailure,
} from '../core/ports/upstream-client.ts'
import type { GatewayBody } from './body.ts'
import { createDeadlines } from './deadlines.ts'
import { headersBack, headersUp } from './headers.ts'
import type { OpenCalls } from './open-calls.ts'
import { challengedScopes } from './step-up.ts'

/** A call on its way up, with what the gateway made of it. */
export type Forwarding = {
  readonly call: GatewayCall
  readonly method: string
  readonly target: string
  /** As they came; what must not go up is taken out of them here. */
  readonly headers: readonly string[]
  /** Further names, in lower case, that do not go up. */
  readonly withheld?: ReadonlySet<string>
  /** What the gateway sends besides, names and values by turns. */
  readonly added?: readonly string[]
  readonly body: GatewayBody
  readonly answer: StreamedAnswer
  /** `abort` ends the exchange when its caller leaves; `drain` reads it to its end, because leaving means nothing there. */
  readonly whenGone: 'abort' | 'drain'
  /** True for an answer that is not to be passed on but to be tried again by whoever asked. */
  readonly isStale?: (head: UpstreamAnswerHead) => boolean
  /** True: a 403 that asks for more scope is not passed on before whoever forwards has said so. */
  readonly mayStepUp?: boolean
}

/** The upstream's 403 that asks for more scope; `pass` lets it through after all. */
export type InsufficientScope = {
  readonly challenged: readonly string[]
  readonly pass: () => void
}

/** Once, with this credential. `refused`: the upstream answered 401, and nothing of that has left. */
export type Send = (
  forwarding: Forwarding,
  credential: ResolvedCredential,
) => Promise<'done' | 'stale' | 'refused' | InsufficientScope>

/** How long an answer that nobody reads any more is read on. */
const drainMs = 5 * 60_000

export function createSender(ports: {
  readonly upstreamClient: UpstreamClient
  readonly openCalls: OpenCalls
  /** Whether the credential was taken away between its resolution and its use, when nothing was open yet that could be cut. */
  readonly isCut: (call: GatewayCall, credential: ResolvedCredential) => boolean
}): Send {
  const { upstreamClient, openCalls, isCut } = ports

  return (forwarding, credential) => {
    const { call, answer, whenGone, isStale, mayStepUp } = forwarding
    const { upstream } = call
    return new Promise((resolve, reject) => {
      if (isCut(call, credential)) return reject(disconnected())
      let begun = false
      /** Nobody reads the answer any more, and it is read to its end all the same. */
      let isDraining = false
      let exchange: UpstreamExchange | undefined
      let held: ReturnType<typeof holdRefusal> | undefined
      let bodyFault: BrokerError | undefined
      const deadlines = createDeadlines<'draining' | 'held' | 'stalled'>()
      const close = openCalls.add(call.person, {
        upstream: upstream.name,
        usesCredential: true,
        cut: abortFor,
      })

      function settle(outcome: Awaited<ReturnType<Send>> | BrokerError): void {
        close()
        deadlines.clearAll()
        if (outcome instanceof BrokerError) reject(outcome)
        else resolve(outcome)
      }
      function fail(error: BrokerError): void {
        if (!begun) return settle(error)
        if (!isDraining) answer.cut()
        settle('done')
      }
      function abortFor(error: BrokerError): void {
        exchange?.abort()
        fail(error)
      }
      /** Where nobody needs what is still to come. */
      function abortAs(outcome: Parameters<typeof settle>[0]): void {
        exchange?.abort()
        settle(outcome)
      }

      exchange = upstreamClient.send(
        requestUp(forwarding, credential, (fault) => {
          bodyFault = fault
        }),
        {
          head(received) {
            const other = isStale?.(received) === true ? 'stale' : refusalOf(received)
            const challenged = mayStepUp === true ? challengedScopes(received) : undefined
            if (challenged !== undefined) {
              const refusal = holdRefusal(received, challenged, answer)
              held = refusal
              // What explains it is short and soon there, and its challenge is all that is needed of it.
              const ms = Math.min(mostHeldMs, upstream.timeouts.idleMs)
              deadlines.set('held', ms, () => abortAs(refusal))
              return
            }
            if (other !== undefined) return abortAs(other)
            begun = true
            answer.begin(received.status, headersBack(received.headers))
          },
          data(chunk) {
            if (held !== undefined) {
              if (!held.add(chunk)) abortAs(held)
              return true
            }
            if (isDraining || answer.write(chunk)) return true
            // A reader that takes nothing keeps a connection to the upstream and what lies between: as silent as a silent stream.
            deadlines.set('stalled', upstream.timeouts.idleMs, () =>
              abortFor(new BrokerError('upstream_timeout')),
            )
            return false
          },
          end() {
            if (held !== undefined) return settle(held)
            if (!isDraining) answer.end()
            settle('done')
          },
          failed: (failure) => fail(bodyFault ?? failureOf(failure)),
        },
      )
      answer.onDrain(() => {
        deadlines.clear('stalled')
        exchange?.resume()
      })
      answer.onGone(() => {
        if (whenGone === 'abort') return abortAs('done')
        isDraining = true
        deadlines.clear('stalled')
        deadlines.set('draining', drainMs, () => abortAs('done'))
        exchange?.resume()
      })
    })
  }
}

/** The request as it goes up. `onFault`: what ends the body early is the caller's fault and not the upstream's, and is said so. */
function requestUp(
  { call, method, target, headers, withheld, added, body }: Forwarding,
  credential: ResolvedCredential,
  onFault: (fault: BrokerError) => void,
): Parameters<UpstreamClient['send']>[0] {
  async function* watched(content: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
    try {
      yield* content
    } catch (error) {
      if (error instanceof BrokerError) onFault(error)
      throw error
    }
  }
  return {
    upstream: call.upstream,
    method,
    target,
    headers: headersUp(headers, {
      inboundToken: call.bearer.reveal(),
      credential,
      withheld,
      added,
      // Counted again where all of it is at hand: the gateway may have changed it.
      isCounted: body.kind === 'whole',
    }),
    body: body.kind === 'once' ? watched(body.content) : body.content,
  }
}

const mostHeldBytes = 64 * 1024
const mostHeldMs = 5000

/** Keeps a refusal until it is known whether it is passed on. */
function holdRefusal(
  { status, headers }: UpstreamAnswerHead,
  challenged: readonly string[],
  answer: StreamedAnswer,
): InsufficientScope & { readonly add: (chunk: Uint8Array) => boolean } {
  const chunks: Uint8Array[] = []
  let bytes = 0
  return {
    challenged,
    add(chunk) {
      bytes += chunk.length
      if (bytes <= mostHeldBytes) chunks.push(chunk)
      return bytes <= mostHeldBytes
    },
    pass() {
      const { 'content-length': _length, ...others } = headersBack(headers)
      answer.begin(status, others)
      answer.write(Buffer.concat(chunks))
      answer.end()
    },
  }
}

const redirects: ReadonlySet<number> = new Set([301, 302, 303, 307, 308])

/** What must not be passed on as an answer. */
function refusalOf({ status }: UpstreamAnswerHead): 'refused' | BrokerError | undefined {
  if (status === 401) return 'refused'
  // Followed, it would carry the person's credential to an address that nobody configured.
  return redirects.has(status) ? new BrokerError('upstream_redirect') : undefined
}

function failureOf(failure: UpstreamFailure): BrokerError {
  if (failure === 'timeout') return new BrokerError('upstream_timeout')
  return new BrokerError('upstream_unavailable', {
    addressRefused: failure === 'address_refused',
  })
}

export function disconnected(): BrokerError {
  return new BrokerError('connect_required', { reason: 'not_connected' })
}
