import { BrokerError, isBrokerError } from '../core/errors.ts'
import type {
  CredentialResolver,
  ResolvedCredential,
  ResolveRequest,
} from '../core/ports/broker-services.ts'
import type { GatewayCall, StreamedAnswer } from '../core/ports/gateway.ts'
import type {
  UpstreamAnswerHead,
  UpstreamClient,
  UpstreamExchange,
  UpstreamFailure,
} from '../core/ports/upstream-client.ts'
import { isConnectable } from '../core/upstream.ts'
import type { GatewayBody } from './body.ts'
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

export type Forwarder = {
  /**
   * Sends it with this credential. An upstream that answers 401 gets it once more with a renewed one, as long as nothing of the
   * answer has left and the body is still at hand. Nothing else is ever tried again: the upstream may have done what it was asked.
   * Resolves when the answer is out, or its caller is gone.
   */
  readonly forward: (
    forwarding: Forwarding,
    credential: ResolvedCredential,
  ) => Promise<'done' | 'stale' | InsufficientScope>
  /** For whoever waits before forwarding. @throws BrokerError connect_required, with the link, where the credential was taken away */
  readonly refuseCut: (call: GatewayCall, credential: ResolvedCredential) => Promise<void>
}

/** How long an answer that nobody reads any more is read on. */
const drainMs = 5 * 60_000

export function createForwarder(ports: {
  readonly resolver: CredentialResolver
  readonly upstreamClient: UpstreamClient
  readonly openCalls: OpenCalls
  /** Whether the credential was taken away between its resolution and its use, when nothing was open yet that could be cut. */
  readonly isCut: (call: GatewayCall, credential: ResolvedCredential) => boolean
}): Forwarder {
  const { resolver, upstreamClient, openCalls, isCut } = ports

  async function forward(
    forwarding: Forwarding,
    credential: ResolvedCredential,
  ): Promise<'done' | 'stale' | InsufficientScope> {
    const first = await send(forwarding, credential).catch((error: unknown) =>
      withLink(forwarding.call, error),
    )
    if (first !== 'refused') return first
    const renewed = await resolver.resolve(
      resolution(forwarding.call, { rejected: credential.fingerprint }),
    )
    const isTheSame = renewed.fingerprint === credential.fingerprint
    // What was not kept cannot be sent again; the caller's own next try has the renewed credential.
    if (isTheSame || forwarding.body.kind === 'once') throw rejected()
    const second = await send(forwarding, renewed)
    if (second === 'refused') throw rejected()
    return second
  }

  /** A disconnect that came first leaves its caller the way to connect again. Always throws. */
  async function withLink(call: GatewayCall, error: unknown): Promise<never> {
    const lacksLink =
      isBrokerError(error, 'connect_required') && error.details.connectUrl === undefined
    if (!lacksLink || !isConnectable(call.upstream)) throw error
    await resolver.resolve(resolution(call, { mayGoOnUnconnected: true }))
    // Connected again meanwhile; whether the upstream did what it was asked is not known.
    throw new BrokerError('upstream_unavailable')
  }

  /** `refused`: the upstream answered 401, and nothing of that has left. */
  function send(
    forwarding: Forwarding,
    credential: ResolvedCredential,
  ): Promise<'done' | 'stale' | 'refused' | InsufficientScope> {
    const { call, method, target, headers, body, answer, whenGone, isStale, mayStepUp } = forwarding
    const { upstream } = call
    return new Promise((resolve, reject) => {
      if (isCut(call, credential)) return reject(disconnected())
      let begun = false
      let dropping: NodeJS.Timeout | undefined
      let exchange: UpstreamExchange | undefined
      let held: ReturnType<typeof holdRefusal> | undefined
      let bodyFault: BrokerError | undefined
      let stalled: NodeJS.Timeout | undefined
      let longEnough: NodeJS.Timeout | undefined

      function settle(
        outcome: 'done' | 'stale' | 'refused' | InsufficientScope | BrokerError,
      ): void {
        close()
        clearTimeout(dropping)
        clearTimeout(stalled)
        clearTimeout(longEnough)
        if (outcome instanceof BrokerError) reject(outcome)
        else resolve(outcome)
      }
      function fail(error: BrokerError): void {
        if (!begun) return settle(error)
        if (dropping === undefined) answer.cut()
        settle('done')
      }
      function stop(): void {
        exchange?.abort()
      }
      /** What explains a refusal is short and soon there; the rest of one that goes on is let go. */
      function letGoOfRefusal(): void {
        stop()
        if (held !== undefined) settle(held)
      }
      const close = openCalls.add(call.person, {
        upstream: upstream.name,
        usesCredential: true,
        cut(error) {
          stop()
          fail(error)
        },
      })
      /** What ends the body early is the caller's fault and not the upstream's, and is said so. */
      async function* watched(content: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
        try {
          yield* content
        } catch (error) {
          if (error instanceof BrokerError) bodyFault = error
          throw error
        }
      }
      exchange = upstreamClient.send(
        {
          upstream,
          method,
          target,
          headers: headersUp(headers, {
            inboundToken: call.bearer.reveal(),
            credential,
            withheld: forwarding.withheld,
            added: forwarding.added,
            // Counted again where all of it is at hand: the gateway may have changed it.
            isCounted: body.kind === 'whole',
          }),
          body: body.kind === 'once' ? watched(body.content) : body.content,
        },
        {
          head(received) {
            const other = isStale?.(received) === true ? 'stale' : refusalOf(received)
            const challenged = mayStepUp === true ? challengedScopes(received) : undefined
            if (challenged !== undefined) {
              held = holdRefusal(received, challenged, answer)
              // Its challenge is all that is needed of it.
              longEnough = setTimeout(
                letGoOfRefusal,
                Math.min(mostHeldMs, upstream.timeouts.idleMs),
              )
              return
            }
            if (other === undefined) {
              begun = true
              answer.begin(received.status, headersBack(received.headers))
              return
            }
            stop()
            settle(other)
          },
          data(chunk) {
            if (held === undefined) {
              if (dropping !== undefined || answer.write(chunk)) return true
              // A reader that takes nothing keeps a connection to the upstream and what lies between: as silent as a silent stream.
              clearTimeout(stalled)
              stalled = setTimeout(() => {
                stop()
                fail(new BrokerError('upstream_timeout'))
              }, upstream.timeouts.idleMs)
              stalled.unref()
              return false
            }
            if (!held.add(chunk)) letGoOfRefusal()
            return true
          },
          end() {
            if (held !== undefined) return settle(held)
            if (dropping === undefined) answer.end()
            settle('done')
          },
          failed: (failure) => fail(bodyFault ?? failureOf(failure)),
        },
      )
      answer.onDrain(() => {
        clearTimeout(stalled)
        exchange?.resume()
      })
      answer.onGone(() => {
        if (whenGone === 'abort') {
          stop()
          settle('done')
          return
        }
        dropping = setTimeout(() => {
          stop()
          settle('done')
        }, drainMs)
        dropping.unref()
        clearTimeout(stalled)
        exchange?.resume()
      })
    })
  }

  return {
    forward,
    async refuseCut(call, credential) {
      if (isCut(call, credential)) await withLink(call, disconnected())
    },
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

function disconnected(): BrokerError {
  return new BrokerError('connect_required', { reason: 'not_connected' })
}

function rejected(): BrokerError {
  return new BrokerError('upstream_rejected_credential')
}

/** What a gateway call asks of the resolver. */
export function resolution(
  call: GatewayCall,
  more: { readonly rejected?: string; readonly mayGoOnUnconnected?: boolean } = {},
): ResolveRequest {
  const { person, bearer, upstream, requestId, startedAt } = call
  return {
    person,
    subjectToken: bearer,
    service: undefined,
    actor: { kind: 'user', id: person.userId },
    upstream,
    rejected: more.rejected,
    mayGoOnUnconnected: more.mayGoOnUnconnected === true,
    requestId,
    startedAt,
  }
}

/** The link in a refusal that a connection would mend; any other is thrown on. */
export function linkIn(error: unknown): string {
  const link = isBrokerError(error, 'connect_required') ? error.details.connectUrl : undefined
  if (link === undefined) throw error
  return link
}

/** What a head announces of its body. */
export function announcedBytes({ header }: GatewayCall): number | undefined {
  const value = header('content-length')
  return value === undefined ? undefined : Number(value)
}
