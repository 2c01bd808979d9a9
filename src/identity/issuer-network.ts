import { namesLoopback } from '../core/loopback-url.ts'
import {
  type HttpClient,
  OutboundFailure,
  type OutboundRequest,
  type OutboundResponse,
} from '../core/ports/http-client.ts'
import { type Claims, isObject } from './claims.ts'
import type { IssuerFailureKind } from './identity-log.ts'

const issuerDeadlineMs = 5000
const issuerMaxBytes = 256 * 1024

/** Why an issuer could not be asked. Holds nothing of its answer. */
export class IssuerFailure extends Error {
  readonly kind: IssuerFailureKind

  constructor(kind: IssuerFailureKind, options?: { cause?: unknown }) {
    super(`issuer failed: ${kind}`, options)
    this.name = 'IssuerFailure'
    this.kind = kind
  }
}

export type IssuerRequest = Omit<OutboundRequest, 'deadlineMs' | 'maxBytes' | 'destination'>

/** Requests to one issuer, under the address rules of its place in the configuration. */
export interface IssuerNetwork {
  /** @throws IssuerFailure unreachable */
  send(request: IssuerRequest): Promise<OutboundResponse>

  /** @throws IssuerFailure */
  getJson(url: string): Promise<Claims>

  /** Endpoints of this issuer may be plain http: it is this machine, or the operator allowed it. */
  readonly allowsPlainHttp: boolean
}

/** `written`: further URLs of this issuer in the configuration; `setting`: what opens private addresses to it. */
export function createIssuerNetwork(options: {
  readonly http: HttpClient
  readonly issuer: string
  readonly written: readonly (string | undefined)[]
  readonly allowPrivateNetwork: boolean
  readonly setting: string
}): IssuerNetwork {
  const { http, issuer, allowPrivateNetwork, setting } = options
  const writtenOrigins = new Set(
    [issuer, ...options.written].flatMap((url) => (url === undefined ? [] : originOf(url))),
  )

  async function send(request: IssuerRequest): Promise<OutboundResponse> {
    // What an issuer names at its own origin is as good as written; a loopback address elsewhere is not.
    const configured = writtenOrigins.has(originOf(request.url))
    try {
      return await http.send({
        ...request,
        deadlineMs: issuerDeadlineMs,
        maxBytes: issuerMaxBytes,
        destination: { allowPrivateNetwork, configured, setting },
      })
    } catch (cause) {
      if (!(cause instanceof OutboundFailure)) throw cause
      throw new IssuerFailure('unreachable', { cause })
    }
  }

  return {
    send,
    async getJson(url) {
      return readJson(await send({ url, method: 'GET', headers: { accept: 'application/json' } }))
    },
    allowsPlainHttp: allowPrivateNetwork || namesLoopback(new URL(issuer)),
  }
}

/** The JSON object of a whole answer. @throws IssuerFailure refused, unreadable */
export function readJson(response: OutboundResponse): Claims {
  if (response.status !== 200) throw new IssuerFailure('refused')
  let body: unknown
  try {
    body = JSON.parse(response.body)
  } catch {
    throw new IssuerFailure('unreadable')
  }
  if (!isObject(body)) throw new IssuerFailure('unreadable')
  return body
}

function originOf(url: string): string {
  return URL.canParse(url) ? new URL(url).origin : ''
}
