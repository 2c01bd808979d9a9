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
  body: AsyncIterable<Uint8Array> | undefined,
  announcedBytes: number | undefined,
  keepBytes = keptBytes,
): Promise<GatewayBody> {
  if (body === undefined) return { kind: 'whole', content: undefined }
  refuseAnnounced(announcedBytes)
  const chunks = body[Symbol.asyncIterator]()
  const kept: Uint8Array[] = []
  let bytes = 0
  while (bytes <= keepBytes) {
    const next = await nextOf(chunks)
    if (next.done === true) return { kind: 'whole', content: Buffer.concat(kept) }
    kept.push(next.value)
    bytes += next.value.length
  }
  return { kind: 'once', content: rest(kept, chunks) }
}

/** @throws BrokerError payload_too_large */
export function refuseAnnounced(announcedBytes: number | undefined): void {
  if (announcedBytes !== undefined && announcedBytes > mostBytes) throw tooLarge()
}

/** A sender that goes away in the middle is no fault of ours, and must not look like one in the log. */
async function nextOf(chunks: AsyncIterator<Uint8Array>): Promise<IteratorResult<Uint8Array>> {
  try {
    return await chunks.next()
  } catch (cause) {
    const expectation = 'The body ended before its end.'
    throw new BrokerError('invalid_request', { field: 'body', expectation, cause })
  }
}

async function* rest(
  kept: readonly Uint8Array[],
  chunks: AsyncIterator<Uint8Array>,
): AsyncGenerator<Uint8Array> {
  let bytes = 0
  for (const chunk of kept) {
    bytes += chunk.length
    yield chunk
  }
  for (;;) {
    const next = await nextOf(chunks)
    if (next.done === true) return
    bytes += next.value.length
    if (bytes > mostBytes) throw tooLarge()
    yield next.value
  }
}

function tooLarge(): BrokerError {
  return new BrokerError('payload_too_large')
}
