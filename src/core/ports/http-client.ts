/**
 * The only door to the network. Requests follow no redirect, are cut at `maxBytes` and `deadlineMs`, and go to private
 * addresses only where the operator allowed it.
 */
export interface HttpClient {
  send(request: OutboundRequest): Promise<OutboundResponse>
}

export type OutboundRequest = {
  readonly url: string
  readonly method: 'GET' | 'POST'
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: string
  /** Total time for connecting, sending and reading. */
  readonly deadlineMs: number
  readonly maxBytes: number
  readonly destination: OutboundDestination
  /** Asked once connected, right before the first byte is written. False: nothing is sent, and the failure says so. */
  readonly maySend?: (() => boolean) | undefined
}

export type OutboundDestination = {
  /** Private, loopback and link-local addresses may be reached. */
  readonly allowPrivateNetwork: boolean
  /** The URL stands in the configuration: a loopback address in it is taken as it stands. */
  readonly configured: boolean
  /** The setting to name in the log when an address is refused, such as `upstreams.files.allow_private_network`. */
  readonly setting: string
}

export type OutboundResponse = {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
}

/** Why no complete answer came. `not_sent`: provably nothing left. `lost`: the request may have been carried out. */
export class OutboundFailure extends Error {
  readonly answer: 'not_sent' | 'lost'
  /** Not sent because the rules forbid the address or the scheme, which waiting does not change. */
  readonly addressRefused: boolean
  /** The answer was longer than `maxBytes`. */
  readonly tooLarge: boolean

  constructor(
    answer: 'not_sent' | 'lost',
    options: { addressRefused?: boolean; tooLarge?: boolean } = {},
  ) {
    super(`outbound request failed: ${answer}`)
    this.name = 'OutboundFailure'
    this.answer = answer
    this.addressRefused = options.addressRefused ?? false
    this.tooLarge = options.tooLarge ?? false
  }
}
