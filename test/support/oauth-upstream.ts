import { Secret } from '../../src/core/secret.ts'
import type { Upstream, UpstreamCredential } from '../../src/core/upstream.ts'

/** An upstream whose credentials come from an authorization server; everything not named is a plain default. */
export function oauthUpstream(
  credential: Partial<UpstreamCredential> = {},
  upstream: Partial<Omit<Upstream, 'credential'>> = {},
): Upstream {
  return {
    name: 'files',
    displayName: 'Files',
    url: 'https://files.example.com/mcp',
    kind: 'mcp',
    allow: { roles: [], users: [] },
    externalUrl: undefined,
    allowPrivateNetwork: false,
    timeouts: { connectMs: 5000, headMs: 120_000, idleMs: 600_000 },
    ...upstream,
    credential: {
      mode: 'oauth_connect',
      discovery: undefined,
      issuer: undefined,
      authorizationEndpoint: undefined,
      tokenEndpoint: undefined,
      revocationEndpoint: undefined,
      clientId: 'onbehalf-client',
      clientAuthentication: {
        method: 'client_secret_basic',
        secret: new Secret('CNRY-CS-client-secret'),
      },
      stepUpScopes: [],
      scopes: ['files:read'],
      authorizationParameters: {},
      tokenParameters: {},
      resource: undefined,
      audiences: [],
      subjectTokenType: 'access_token',
      tokenAnswerMember: undefined,
      refreshBeforeSeconds: 60,
      defaultLifetimeSeconds: 3600,
      refreshReuse: { kind: 'strict' },
      header: 'Authorization',
      headerFormat: 'Bearer {token}',
      ...credential,
    },
  }
}
