import { bindingOf, type Upstream } from './upstream.ts'

/**
 * Which upstreams share a token endpoint, however each of them names it: by its URL, or by an issuer whose metadata do. What an
 * endpoint takes, and a pause that it asks for, are the endpoint's.
 */
export interface TokenEndpoints {
  /** What is the same for upstreams that share one: its URL, or the issuer for as long as nobody here has asked it. */
  of(upstream: Upstream): string
  /** The authorization servers that stand for it in bindings, as far as is known here. */
  authorizationServersOf(upstream: Upstream): readonly string[]
  /** What the issuer's metadata led to. */
  learn(upstream: Upstream, url: string): void
}

export function createTokenEndpoints(ports: {
  readonly upstreams: ReadonlyMap<string, Upstream>
}): TokenEndpoints {
  const { upstreams } = ports
  // As many as the configuration has issuers.
  const learned = new Map<string, string>()

  function of({ credential }: Upstream): string {
    const { authorizationServer } = bindingOf(credential)
    const { tokenEndpoint = learned.get(authorizationServer) } = credential
    return tokenEndpoint === undefined ? authorizationServer : new URL(tokenEndpoint).href
  }

  return {
    of,
    authorizationServersOf(upstream) {
      const endpoint = of(upstream)
      const sharing = [...upstreams.values()].filter((other) => of(other) === endpoint)
      const names = [upstream, ...sharing].map(
        ({ credential }) => bindingOf(credential).authorizationServer,
      )
      return [...new Set(names)]
    },
    learn({ credential }, url) {
      if (credential.tokenEndpoint !== undefined) return
      learned.set(bindingOf(credential).authorizationServer, url)
    },
  }
}
