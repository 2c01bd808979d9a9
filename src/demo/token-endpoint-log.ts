import type { KoaContextWithOIDC } from 'oidc-provider'

/** One request to a sandbox server's token endpoint, without anything secret. */
export type TokenRequest = {
  readonly grantType: string
  readonly clientId: string | undefined
  /** Whose tokens; absent when the request was refused before that was known. */
  readonly account: string | undefined
  readonly outcome: 'issued' | 'refused'
  readonly error: string | undefined
}

export type SecretKind =
  | 'access_token'
  | 'refresh_token'
  | 'id_token'
  | 'code'
  | 'code_verifier'
  | 'client_secret'
  | 'subject_token'

/** What a sandbox server counts. */
export type TokenEndpointLog = {
  /** Requests to the token endpoint so far, oldest first. */
  requests(
    filter?: Partial<Pick<TokenRequest, 'grantType' | 'account' | 'outcome'>>,
  ): readonly TokenRequest[]
  /** Uses of a refresh token that was used up; each ended its family. */
  reuses(): number
  /** Tokens that a client revoked (RFC 7009). */
  revocations(): number
}

export type TokenEndpointRecorder = TokenEndpointLog & {
  record(context: KoaContextWithOIDC): void
  recordReuse(): void
}

/** Records what happens at the token and revocation endpoints. `onSecret` is told every secret that passes, for leak scans. */
export function createTokenEndpointRecorder(
  onSecret: (kind: SecretKind, value: string) => void,
): TokenEndpointRecorder {
  const requests: TokenRequest[] = []
  let reuses = 0
  let revocations = 0

  function recordTokenRequest(context: KoaContextWithOIDC): void {
    const { params, entities } = context.oidc
    const body: unknown = context.body
    const refused = context.status >= 400
    const error = refused ? stringMember(body, 'error') : undefined
    const account = entities.Account?.accountId ?? entities.RefreshToken?.accountId
    requests.push({
      grantType: stringMember(params, 'grant_type') ?? '',
      clientId: entities.Client?.clientId,
      account,
      outcome: refused ? 'refused' : 'issued',
      error,
    })
    if (error === 'invalid_grant' && entities.RefreshToken?.consumed !== undefined) reuses += 1
  }

  function reportSecrets(context: KoaContextWithOIDC): void {
    for (const [kind, value] of [
      ['code', stringMember(context.oidc.params, 'code')],
      ['code_verifier', stringMember(context.oidc.params, 'code_verifier')],
      ['refresh_token', stringMember(context.oidc.params, 'refresh_token')],
      ['subject_token', stringMember(context.oidc.params, 'subject_token')],
      ['subject_token', stringMember(context.oidc.params, 'assertion')],
      ['access_token', stringMember(context.body, 'access_token')],
      ['refresh_token', stringMember(context.body, 'refresh_token')],
      ['id_token', stringMember(context.body, 'id_token')],
    ] as const) {
      if (value !== undefined) onSecret(kind, value)
    }
  }

  return {
    requests: (filter = {}) =>
      requests.filter(
        (request) =>
          (filter.grantType ?? request.grantType) === request.grantType &&
          (filter.account ?? request.account) === request.account &&
          (filter.outcome ?? request.outcome) === request.outcome,
      ),
    reuses: () => reuses,
    revocations: () => revocations,
    record(context) {
      const route = (context.oidc as KoaContextWithOIDC['oidc'] | undefined)?.route
      if (route === 'token') {
        recordTokenRequest(context)
        reportSecrets(context)
      }
      const revoked = route === 'revocation' && context.status === 200
      // The endpoint answers 200 to unknown tokens too (RFC 7009 §2.2); the entity is there when it found one.
      const { RefreshToken, AccessToken } = revoked ? context.oidc.entities : {}
      if (RefreshToken !== undefined || AccessToken !== undefined) revocations += 1
    },
    recordReuse() {
      reuses += 1
    },
  }
}

function stringMember(value: unknown, name: string): string | undefined {
  if (typeof value !== 'object' || value === null) return undefined
  const member: unknown = (value as Readonly<Record<string, unknown>>)[name]
  return typeof member === 'string' ? member : undefined
}
