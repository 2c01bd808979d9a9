import type { Readable } from 'node:stream'
import { BrokerError } from '../core/errors.ts'

/** A body up to this size is kept, so that a call whose credential was refused can be made again. */
const keptBytes = 4 * 1024 * 1024
export const mostBytes = 64 * 1024 * 1024

/** What a call sends. `whole` can be sent again; `once` is being read while it is sent. */
export type GatewayBody =
  | { readonly kind: 'whole'; readonly content: Uint8Array | undefined }
  | { readonly kind: 'once'; readonly content: AsyncIterable<Uint8Array> }

/** @throws BrokerError payload_too_large, while reading for a body of `once` */
export async function readBody(
  body: Readable | undefined,
  announcedBytes: number | undefined,
  keepBytes = keptBytes,
): Promise<GatewayBody> {
  if (body === undefined) return { kind: 'whole', content: undefined }
  refuseAnnounced(announcedBytes)
  const kept: Uint8Array[] = []
  const isWhole = await readSome(body, kept, keepBytes)
  if (!isWhole) return { kind: 'once', content: rest(kept, body) }
  const [only, another] = kept
  return { kind: 'whole', content: another === undefined ? (only ?? empty) : Buffer.concat(kept) }
}

const empty = new Uint8Array(0)

/** By its events: an iterator costs a small call several times as much. False where there is more of it than `keepBytes`. */
function readSome(body: Readable, kept: Uint8Array[], keepBytes: number): Promise<boolean> {
  return new Promise((resolve, reject) => {
    let bytes = 0
    function stop(): void {
      body.off('data', take).off('end', whole).off('error', broken).off('close', broken)
    }
    function take(chunk: Uint8Array): void {
      kept.push(chunk)
      bytes += chunk.length
      if (bytes <= keepBytes) return
      stop()
      body.pause()
      resolve(false)
    }
    function whole(): void {
      stop()
      resolve(true)
    }
    function broken(cause?: unknown): void {
      stop()
      reject(brokenOff(cause))
    }
    if (body.destroyed) return broken()
    body.on('data', take).on('end', whole).on('error', broken).on('close', broken)
  })
}

/** @throws BrokerError payload_too_large */
export function refuseAnnounced(announcedBytes: number | undefined): void {
  if (announcedBytes !== undefined && announcedBytes > mostBytes) throw tooLarge()
}

/** A sender that goes away in the middle is no fault of ours, and must not look like one in the log. */
function brokenOff(cause: unknown): BrokerError {
  const expectation = 'The body ended before its end.'
  return new BrokerError('invalid_request', { field: 'body', expectation, cause })
}

async function* rest(kept: readonly Uint8Array[], body: Readable): AsyncGenerator<Uint8Array> {
  let bytes = 0
  for (const chunk of kept) {
    bytes += chunk.length
    yield chunk
  }
  const chunks: AsyncIterator<Uint8Array> = body[Symbol.asyncIterator]()
  for (;;) {
    const next = await chunks.next().catch((cause: unknown) => {
      throw brokenOff(cause)
    })
    if (next.done === true) return
    bytes += next.value.length
    if (bytes > mostBytes) throw tooLarge()
    yield next.value
  }
}

function tooLarge(): BrokerError {
  return new BrokerError('payload_too_large')
}
