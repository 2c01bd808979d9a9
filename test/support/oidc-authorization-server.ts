import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { type ClientMetadata, Provider } from 'oidc-provider'

/**
 * A real authorization server (oidc-provider) on a loopback port: code with PKCE, rotating refresh tokens, resource
 * indicators, revocation, `iss` in its responses. Whoever comes is signed in as `person` and has consented.
 */
export type OidcAuthorizationServer = {
  readonly issuer: string
  /** The token endpoint's requests, as forms, in order. */
  readonly tokenRequests: URLSearchParams[]
  /** What a token is, as the server knows it; undefined when it is revoked or spent. */
  find(
    kind: 'AccessToken' | 'RefreshToken',
    token: string,
  ): Promise<{ accountId: string; aud: unknown; scope: string | undefined } | undefined>
  /** Opens an authorization URL in a browser of its own and gives the redirect that comes back. */
  visit(url: URL): Promise<URL>
  close(): Promise<void>
}

export async function startOidcAuthorizationServer(options: {
  readonly clients: readonly ClientMetadata[]
  readonly person: string
  readonly resources?: readonly string[]
}): Promise<OidcAuthorizationServer> {
  const { clients, person, resources = [] } = options
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const issuer = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  const tokenRequests: URLSearchParams[] = []

  const provider = new Provider(issuer, {
    clients: clients.map((client) => ({ ...client })),
    cookies: { keys: ['only for tests'] },
    scopes: ['openid', 'offline_access', 'files:read', 'files:write'],
    claims: { openid: ['sub'], email: ['email'] },
    pkce: { required: () => true },
    features: {
      devInteractions: { enabled: false },
      revocation: { enabled: true },
      resourceIndicators: {
        enabled: true,
        useGrantedResource: () => true,
        getResourceServerInfo(_ctx, resource) {
          if (!resources.includes(resource)) throw new Error('unknown resource')
          return { scope: 'files:read files:write', audience: resource, accessTokenTTL: 600 }
        },
      },
    },
    ttl: { AccessToken: 600, RefreshToken: 86_400, Grant: 86_400, Session: 600, Interaction: 600 },
    clientAuthMethods: ['client_secret_basic', 'client_secret_post', 'private_key_jwt', 'none'],
    rotateRefreshToken: true,
    issueRefreshToken: () => true,
    findAccount: (_ctx, accountId) => ({
      accountId,
      claims: () => ({ sub: accountId, email: `${accountId}@example.com` }),
    }),
    interactions: { url: (_ctx, { uid }) => `/interaction/${uid}` },
    async loadExistingGrant(ctx) {
      const { client, session, params } = ctx.oidc
      if (client === undefined || session?.accountId === undefined) return undefined
      const grant = new provider.Grant({ accountId: session.accountId, clientId: client.clientId })
      const asked = params?.['scope']
      const scope = typeof asked === 'string' ? asked : ''
      grant.addOIDCScope(scope)
      for (const resource of resources) grant.addResourceScope(resource, scope)
      await grant.save()
      return grant
    },
  })

  const handle = provider.callback()
  server.on('request', (request, response) => {
    if (request.url?.startsWith('/interaction/')) {
      void provider.interactionFinished(request, response, { login: { accountId: person } })
      return
    }
    if (request.url === '/token') {
      const chunks: Buffer[] = []
      request.on('data', (chunk: Buffer) => chunks.push(chunk))
      request.on('end', () =>
        tokenRequests.push(new URLSearchParams(Buffer.concat(chunks).toString())),
      )
    }
    void handle(request, response)
  })

  return {
    issuer,
    tokenRequests,
    async find(kind, token) {
      const found =
        kind === 'AccessToken'
          ? await provider.AccessToken.find(token)
          : await provider.RefreshToken.find(token)
      if (found === undefined) return undefined
      const aud = 'aud' in found ? found.aud : undefined
      return { accountId: found.accountId, aud, scope: found.scope }
    },
    async visit(url) {
      const cookies = new Map<string, string>()
      let at = url
      for (let redirects = 0; redirects < 10; redirects += 1) {
        const answer = await fetch(at, {
          redirect: 'manual',
          headers: { cookie: [...cookies].map(([name, value]) => `${name}=${value}`).join('; ') },
        })
        for (const cookie of answer.headers.getSetCookie()) {
          const [name = '', value = ''] = cookie.split(';', 1)[0]?.split(/=(.*)/s) ?? []
          cookies.set(name, value)
        }
        const location = answer.headers.get('location')
        if (location === null)
          throw new Error(`no redirect: ${answer.status} ${await answer.text()}`)
        at = new URL(location, at)
        if (at.origin !== issuer) return at
      }
      throw new Error('too many redirects')
    },
    close() {
      server.closeAllConnections()
      return new Promise((resolve) => {
        server.close(() => resolve())
      })
    },
  }
}
