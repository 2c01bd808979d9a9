import { AcquisitionFailure } from '../core/failure-verdict.ts'
import type { AcquisitionMethod } from '../core/ports/acquisition-method.ts'
import type { Secret } from '../core/secret.ts'
import type { Upstream, UpstreamCredential } from '../core/upstream.ts'
import type { Revocations } from '../oauth/revocation.ts'
import {
  refreshGrant,
  scopeParameter,
  type TokenGrant,
  type TokenRequests,
} from '../oauth/token-request.ts'

/**
 * Exchanges the person's subject token for one aimed at the upstream (RFC 8693 §2.1). There is no fallback: without a subject
 * token nothing is sent.
 */
export function createTokenExchanger(ports: {
  readonly requests: TokenRequests
  readonly revocations: Revocations
}): AcquisitionMethod {
  const { requests, revocations } = ports
  return {
    name: 'token_exchange',
    async acquire(upstream, subjectToken, watch) {
      return requests.send(upstream, exchangeGrant(upstream, subjectToken), watch)
    },
    async refresh(upstream, refreshToken, scopes, watch) {
      return requests.send(upstream, refreshGrant(refreshToken, scopes), watch)
    },
    readRefresh: (upstream, answer) => requests.read(upstream, 'refresh', answer),
    async revoke(upstream, token, hint) {
      return revocations.revoke(upstream, token, hint)
    },
  }
}

const tokenTypes: Readonly<Record<UpstreamCredential['subjectTokenType'], string>> = {
  access_token: 'urn:ietf:params:oauth:token-type:access_token',
  id_token: 'urn:ietf:params:oauth:token-type:id_token',
  jwt: 'urn:ietf:params:oauth:token-type:jwt',
}

function exchangeGrant(upstream: Upstream, subjectToken: Secret): TokenGrant {
  const { audiences, scopes, subjectTokenType } = upstream.credential
  return {
    kind: 'exchange',
    grantType: 'urn:ietf:params:oauth:grant-type:token-exchange',
    parameters: [
      ['subject_token', presented(subjectToken)],
      ['subject_token_type', tokenTypes[subjectTokenType]],
      ['requested_token_type', tokenTypes.access_token],
      ...audiences.map((audience) => ['audience', audience] as const),
      ...scopeParameter(scopes),
    ],
    sendsResource: true,
  }
}

/** A server may read an empty subject token as none, and give out a token of our own client's instead. */
export function presented(subjectToken: Secret): string {
  const token = subjectToken.reveal()
  if (token === '') throw new AcquisitionFailure({ kind: 'subject_token_refused' })
  return token
}
