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

/** How credentials come to be: by the mode that the configuration names, and with a code for those that people connect. */
export type Acquisition = {
  readonly methods: AcquisitionMethods
  /** The authorization-code client of every upstream that people connect. */
  readonly authorization: AuthorizationClient
}

/** All of it asks one memory what the authorization servers say of themselves, and keeps one limit of log lines. */
export function createAcquisition(ports: Ports): Acquisition {
  const { http, clock, log } = ports
  const metadata = createMetadataSource({ http, clock })
  const servers = createAuthorizationServers({ metadata, clock, log })
  const requests = createTokenRequests({ ...ports, servers })
  const revocations = createRevocations({ http, servers })
  return {
    methods: {
      oauth_connect: createOAuthConnect({ requests, revocations }),
      token_exchange: createTokenExchanger({ requests, revocations }),
      entra_obo: createEntraOnBehalfOf({ requests, revocations }),
      user_key: createUserKey(),
    },
    authorization: createCodeFlow({ servers, requests }),
  }
}
