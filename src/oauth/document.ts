import { type HttpClient, OutboundFailure } from '../core/ports/http-client.ts'
import type { DiscoveryFault } from './discovery-failure.ts'
import type { Endpoint } from './endpoint.ts'

export const documentDeadlineMs = 4000
export const documentMaxBytes = 256 * 1024

/** A JSON document, or why there is none. */
export type FetchedDocument = { readonly json: unknown } | { readonly fault: DocumentFault }

export type DocumentFault = Extract<
  DiscoveryFault,
  | 'address_refused'
  | 'busy'
  | 'no_answer'
  | 'not_found'
  | 'redirect'
  | 'too_large'
  | 'unreachable'
  | 'unreadable'
>

/** Fetches what a server publishes. A redirect is not followed: it could lead anywhere. */
export async function fetchDocument(
  http: HttpClient,
  { url, destination }: Endpoint,
): Promise<FetchedDocument> {
  try {
    const { status, body } = await http.send({
      url,
      method: 'GET',
      headers: { accept: 'application/json' },
      deadlineMs: documentDeadlineMs,
      maxBytes: documentMaxBytes,
      destination,
    })
    if (status >= 500 || status === 429) return { fault: 'busy' }
    if (status >= 300 && status <= 399) return { fault: 'redirect' }
    return status === 200 ? parsed(body) : { fault: 'not_found' }
  } catch (error) {
    return { fault: faultOf(error) }
  }
}

/** Why a request got no answer. @throws whatever else it is */
export function faultOf(error: unknown): DocumentFault {
  if (!(error instanceof OutboundFailure)) throw error
  if (error.addressRefused) return 'address_refused'
  if (error.tooLarge) return 'too_large'
  return error.answer === 'not_sent' ? 'unreachable' : 'no_answer'
}

function parsed(body: string): FetchedDocument {
  try {
    return { json: JSON.parse(body) as unknown }
  } catch {
    // The error quotes the document; nothing of it may travel on.
    return { fault: 'unreadable' }
  }
}
