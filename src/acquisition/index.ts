import type { AcquisitionMethods } from '../core/ports/acquisition-method.ts'
import type { AuthorizationClient } from '../core/ports/authorization-client.ts'
import type { Clock } from '../core/ports/clock.ts'
import type { HttpClient } from '../core/ports/http-client.ts'
import type { Upstream } from '../core/upstream.ts'
import { createAuthorizationServers } from '../oauth/authorization-server.ts'
import { createMetadataSource } from '../oauth/metadata.ts'
import { createRevocations } from '../oauth/revocation.ts'
import { createTokenRequests } from '../oauth/token-request.ts'
import type { TokenRequestLog } from '../oauth/token-request-log.ts'
import { createEntraOnBehalfOf } from './entra-on-behalf-of.ts'
import { createCodeFlow, createOAuthConnect } from './oauth-connect.ts'
import { createTokenExchanger } from './token-exchanger.ts'
import { createUserKey } from './user-key.ts'

type Ports = {
  readonly http: HttpClient
  readonly clock: Clock
  readonly log?: TokenRequestLog
  /** Told where a server does not know the client that discovery registered there; the failure waits for it. */
  readonly onClientRefused?: (upstream: Upstream) => Promise<void>
  /** Told of each token endpoint before it is asked. */
  readonly onEndpoint?: (upstream: Upstream, url: string) => void
}

/** Every way in which a credential comes to be, by the mode that the configuration names. */
export function createAcquisitionMethods(ports: Ports): AcquisitionMethods {
  const { servers, requests } = clientRoom(ports)
  const revocations = createRevocations({ http: ports.http, servers })
  return {
    oauth_connect: createOAuthConnect({ requests, revocations }),
    token_exchange: createTokenExchanger({ requests, revocations }),
    entra_obo: createEntraOnBehalfOf({ requests, revocations }),
    user_key: createUserKey(),
  }
}

/** The authorization-code client of every upstream that people connect. */
export function createAuthorizationClient(ports: Ports): AuthorizationClient {
  return createCodeFlow(clientRoom(ports))
}

function clientRoom({ http, clock, log, onClientRefused, onEndpoint }: Ports) {
  const metadata = createMetadataSource({ http, clock })
  const servers = createAuthorizationServers({ metadata, clock, log })
  const ports = { http, clock, servers, log, onClientRefused, onEndpoint }
  return { servers, requests: createTokenRequests(ports) }
}
