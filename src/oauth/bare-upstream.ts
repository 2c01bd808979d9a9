import type { Upstream } from '../core/upstream.ts'

/** An mcp upstream of which nothing is known but its url. */
export function bareUpstream(url: string, allowPrivateNetwork: boolean): Upstream {
  return {
    name: new URL(url).hostname,
    displayName: url,
    url,
    kind: 'mcp',
    allow: { roles: [], users: [] },
    externalUrl: undefined,
    allowPrivateNetwork,
    timeouts: { connectMs: 5000, headMs: 120_000, idleMs: 600_000 },
    credential: {
      mode: 'oauth_connect',
      discovery: { issuer: true, resource: true, scopes: true, found: undefined },
      issuer: undefined,
      authorizationEndpoint: undefined,
      tokenEndpoint: undefined,
      revocationEndpoint: undefined,
      clientId: '',
      clientAuthentication: { method: 'none' },
      scopes: [],
      stepUpScopes: [],
      authorizationParameters: {},
      tokenParameters: {},
      resource: url,
      audiences: [],
      subjectTokenType: 'access_token',
      tokenAnswerMember: undefined,
      refreshBeforeSeconds: 60,
      defaultLifetimeSeconds: 3600,
      refreshReuse: { kind: 'strict' },
      header: 'Authorization',
      headerFormat: 'Bearer {token}',
    },
  }
}
