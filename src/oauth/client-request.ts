import type { Client, ClientAuth } from 'oauth4webapi'
import { AcquisitionFailure } from '../core/failure-verdict.ts'
import {
  type HttpClient,
  OutboundFailure,
  type OutboundRequest,
  type OutboundResponse,
} from '../core/ports/http-client.ts'
import type { Upstream } from '../core/upstream.ts'
import type { ServerEndpoint } from './authorization-server.ts'
import { clientAuthOf } from './client-authentication.ts'
import { verdictOfOutboundFailure } from './failure.ts'

/** Who we are at an upstream's server, and how we prove it. @throws AcquisitionFailure misconfigured */
export async function clientOf(
  upstream: Upstream,
): Promise<{ client: Client; authentication: ClientAuth }> {
  const { clientId, clientAuthentication } = upstream.credential
  try {
    if (clientId === '') return anonymous
    const authentication = await clientAuthOf(clientAuthentication)
    return { client: { client_id: clientId }, authentication }
  } catch {
    // Nothing of the cause: it was made from a private key.
    throw new AcquisitionFailure({ kind: 'misconfigured' })
  }
}

/** An exchange may go without a client (RFC 8693 §2.1). The library wants an id all the same; this one is never sent. */
const anonymous: { client: Client; authentication: ClientAuth } = {
  client: { client_id: 'anonymous' },
  authentication: () => {},
}

/** The audience of a client assertion: the issuer, which no metadata can point elsewhere (RFC 7523 §3), else the endpoint itself. */
export function audienceOf({ issuer, endpoint }: ServerEndpoint): string {
  return issuer ?? endpoint.url
}

type FormFetch = (url: string, options: FormFetchOptions) => Promise<Response>

type FormFetchOptions = {
  readonly body: URLSearchParams
  readonly headers: Readonly<Record<string, string>>
}

/**
 * Sends the form that oauth4webapi builds through the one door to the network. The answer is handed back as it came, past the
 * `Response` that the library wants and this client never reads. @throws AcquisitionFailure
 */
export async function sendForm(
  http: HttpClient,
  { destination }: ServerEndpoint['endpoint'],
  limits: Pick<OutboundRequest, 'deadlineMs' | 'maxBytes' | 'maySend'>,
  request: (fetch: FormFetch) => Promise<Response>,
): Promise<OutboundResponse> {
  let answer: OutboundResponse | undefined
  try {
    await request(async (url, { body, headers }) => {
      answer = await http.send({
        url,
        method: 'POST',
        headers: { ...headers, 'user-agent': 'onbehalf' },
        body: body.toString(),
        ...limits,
        destination,
      })
      return new Response(null)
    })
  } catch (error) {
    if (!(error instanceof OutboundFailure)) throw error
    throw new AcquisitionFailure(verdictOfOutboundFailure(error))
  }
  if (answer === undefined) throw new AcquisitionFailure({ kind: 'misconfigured' })
  return answer
}
